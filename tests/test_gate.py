"""The gate promotes only what is complete, finite and strictly better on identical windows."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.retrain import Margins
from lstm.evaluation.scores import Scores
from lstm.promotion.gate import Decision, Evidence, choose_weights, decide

WINDOWS = 10
NONE = Margins(champion=0, seasonal_naive=0)


def scores(mae: float, windows: int = WINDOWS, finite: bool = True) -> Scores:
    return Scores(
        mae=mae,
        mse=1,
        rmse=1,
        mase=1,
        pinball=1,
        crps=1,
        coverage=0.8,
        width=1,
        windows=windows,
        finite=finite,
        mae_by_step=(mae,),
        coverage_by_step=(0.8,),
    )


def evidence(challenger: float = 0.5, champion: float | None = 0.6, naive: float = 0.7) -> Evidence:
    return Evidence(
        windows=WINDOWS,
        challenger=scores(challenger),
        seasonal_naive=scores(naive),
        has_champion=champion is not None,
        champion=None if champion is None else scores(champion),
    )


maes = st.one_of(st.floats(0, 2), st.sampled_from([math.nan, math.inf, -1.0]))
some_scores = st.one_of(
    st.none(), st.builds(scores, maes, st.sampled_from([WINDOWS, WINDOWS, WINDOWS - 1]), st.booleans())
)
anything = st.builds(
    Evidence,
    windows=st.sampled_from([WINDOWS, WINDOWS, 0]),
    challenger=some_scores,
    seasonal_naive=some_scores,
    has_champion=st.booleans(),
    champion=some_scores,
    problems=st.sampled_from([(), (), ("The registry did not answer.",)]),
)
some_margins = st.builds(Margins, champion=st.floats(0, 0.5), seasonal_naive=st.floats(0, 0.5))


@given(anything, some_margins)
def test_promotes_only_on_complete_and_better_evidence(given_: Evidence, margins: Margins) -> None:
    decision = decide(given_, margins)
    assert decision.reasons
    assert all(reason.endswith(".") for reason in decision.reasons)
    if decision.ending == "refused":
        return
    needed = [given_.challenger, given_.seasonal_naive, *([given_.champion] if given_.has_champion else [])]
    assert not given_.problems
    for one in needed:
        assert one is not None
        assert one.finite
        assert 0 <= one.mae < math.inf
        assert one.windows == WINDOWS == given_.windows
    if decision.ending == "promoted":
        assert given_.challenger is not None
        assert given_.seasonal_naive is not None
        assert given_.challenger.mae < given_.seasonal_naive.mae * (1 - margins.seasonal_naive)
        assert given_.champion is None or given_.challenger.mae < given_.champion.mae * (1 - margins.champion)


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0.01, 1), some_margins)
def test_a_worse_challenger_never_does_better(a: float, b: float, worse: float, margins: Margins) -> None:
    order = ["kept", "promoted"]
    good = decide(evidence(a, b), margins).ending
    bad = decide(evidence(a + worse, b), margins).ending
    assert order.index(bad) <= order.index(good)


@given(st.floats(0.01, 1), st.floats(0.01, 1))
def test_ties_keep(mae: float, other: float) -> None:
    assert decide(evidence(mae, champion=mae, naive=mae + other), NONE).ending == "kept"
    assert decide(evidence(mae, champion=None, naive=mae), NONE).ending == "kept"


def test_first_champion_needs_only_the_baseline() -> None:
    decision = decide(evidence(champion=None), NONE)
    assert decision.ending == "promoted"
    assert decision.reasons[-1] == "It is the first champion."
    assert "MAE 0.5000 beats the seasonal naive" in decision.reason
    assert decide(evidence(0.8, champion=None), NONE).ending == "kept"


@pytest.mark.parametrize(
    ("challenger", "ending"),
    [(0.5, "promoted"), (0.539, "promoted"), (0.541, "kept"), (0.6, "kept"), (0.7, "kept")],
)
def test_margin_over_the_champion(challenger: float, ending: str) -> None:
    decision = decide(evidence(challenger, champion=0.6, naive=2.0), Margins(champion=0.1))
    assert decision.ending == ending
    assert "the champion's 0.6000 by the margin of 10.0%" in decision.reasons[0]


@pytest.mark.parametrize(("challenger", "ending"), [(0.62, "promoted"), (0.64, "kept")])
def test_margin_over_the_seasonal_naive(challenger: float, ending: str) -> None:
    decision = decide(evidence(challenger, champion=2.0), Margins(seasonal_naive=0.1))
    assert decision.ending == ending


def test_beating_only_one_of_two_keeps() -> None:
    assert decide(evidence(0.5, champion=0.4, naive=0.7), NONE).ending == "kept"
    assert decide(evidence(0.5, champion=0.9, naive=0.4), NONE).ending == "kept"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"challenger": None}, "The challenger has no scores."),
        ({"champion": None}, "The champion has no scores."),
        ({"seasonal_naive": None}, "The seasonal naive has no scores."),
        ({"challenger": scores(math.nan)}, "The challenger has scores or forecasts that are not finite."),
        (
            {"challenger": scores(0.1, finite=False)},
            "The challenger has scores or forecasts that are not finite.",
        ),
        ({"champion": scores(math.inf)}, "The champion has scores or forecasts that are not finite."),
        ({"seasonal_naive": scores(-1)}, "The seasonal naive has scores or forecasts that are not finite."),
        ({"challenger": scores(0.1, windows=9)}, "The challenger was scored on 9 of 10 judge windows."),
        ({"champion": scores(0.6, windows=11)}, "The champion was scored on 11 of 10 judge windows."),
        ({"has_champion": False}, "There are scores of a champion, yet the ledger has none."),
        ({"problems": ("The champion's bundle is damaged.",)}, "The champion's bundle is damaged."),
    ],
)
def test_refuses_and_says_why(change: dict[str, object], words: str) -> None:
    assert decide(replace(evidence(), **change), NONE) == Decision("refused", (words,))


def test_no_windows_prove_nothing() -> None:
    empty = Evidence(0, scores(0.1, 0), scores(0.7, 0), False, None)
    assert decide(empty, NONE) == Decision("refused", ("There are no judge windows.",))


def test_every_fault_is_named() -> None:
    decision = decide(replace(evidence(), challenger=None, champion=None), NONE)
    assert decision.reasons == ("The challenger has no scores.", "The champion has no scores.")


@pytest.mark.parametrize(
    ("served", "which"),
    [
        (scores(0.4), "served"),
        (scores(0.5), "served"),
        (scores(0.62), "served"),
        (scores(0.63), "judged"),
        (scores(math.nan), "judged"),
        (scores(0.4, finite=False), "judged"),
        (scores(0.4, windows=9), "judged"),
        (None, "judged"),
    ],
)
def test_the_judged_twin_serves_where_the_served_one_is_off(served: Scores | None, which: str) -> None:
    chosen, reason = choose_weights(scores(0.5), served, bound=0.25)
    assert chosen == which
    assert reason.endswith(".")


def test_one_window_and_an_error_of_zero_are_evidence() -> None:
    shown = Evidence(1, scores(0.0, 1), scores(0.7, 1), True, scores(0.6, 1))
    assert decide(shown, NONE).ending == "promoted"


def test_served_weights_may_be_worse_by_a_quarter_and_no_more() -> None:
    assert choose_weights(scores(1.0), scores(1.25))[0] == "served"
    which, why = choose_weights(scores(1.0), scores(1.26))
    assert which == "judged"
    assert "over 1.25 x 1.0000" in why

"""The recommendation: never worse beyond chance, cheap where nothing is lost, honest about how sure it is."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm.comparison.recommendation import (
    CLOSE,
    FEWEST_GROUPS,
    LEVEL,
    SIMILAR_COST,
    Candidate,
    p_value,
    recommend,
)
from lstm.evaluation.significance import difference, holm

UNHURRIED = settings(deadline=None)
NETWORKS = ("lstm", "gru", "rnn", "transformer", "linear", "seasonal_naive")


@st.composite
def fields(draw: st.DrawFn) -> list[Candidate]:
    """Candidates whose losses share good and bad groups and differ by levels and noise of their own."""
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    groups = draw(st.integers(1, 8))
    shared = generator.uniform(0.5, 1.0, groups)
    noise = draw(st.sampled_from([0.0, 0.001, 0.02, 0.2]))
    spread = draw(st.sampled_from([0.0, 0.005, 0.05, 0.5]))
    return [
        Candidate(
            network,
            0 if network == "seasonal_naive" else 48,
            shared + spread * generator.random() + noise * generator.random(groups),
            draw(st.sampled_from([0.0, 0.1, 1.0, 1.1, 3.0, 50.0])),
        )
        for network in NETWORKS[: draw(st.integers(1, len(NETWORKS)))]
    ]


@UNHURRIED
@given(candidates=fields())
def test_what_it_takes_is_not_worse_than_the_best_beyond_chance(candidates: list[Candidate]) -> None:
    found = recommend(candidates)
    by_name = {one.network: one for one in candidates}
    best = min(candidates, key=lambda one: one.loss_G.mean())
    others = [one for one in candidates if one.network != found.best]
    assert by_name[found.best].loss_G.mean() == best.loss_G.mean()
    p = dict(
        zip(
            [one.network for one in others],
            holm([difference(o.loss_G, by_name[found.best].loss_G).p for o in others]),
            strict=True,
        )
    )
    chosen = by_name[found.network]
    if found.network != found.best:
        assert p[found.network] >= LEVEL
        assert chosen.loss_G.mean() <= (1 + CLOSE) * best.loss_G.mean() + 1e-12
        assert chosen.seconds <= by_name[found.best].seconds


@UNHURRIED
@given(candidates=fields())
def test_nothing_that_is_as_good_is_much_cheaper(candidates: list[Candidate]) -> None:
    found = recommend(candidates)
    by_name = {one.network: one for one in candidates}
    chosen, best = by_name[found.network], by_name[found.best]
    for one in candidates:
        lost = one.loss_G.mean() - best.loss_G.mean()
        p = found.behind[one.network].p if one.network in found.behind else 1.0
        if p >= LEVEL and lost <= CLOSE * best.loss_G.mean():
            assert chosen.seconds <= SIMILAR_COST * one.seconds
            if one.seconds <= chosen.seconds:
                assert chosen.loss_G.mean() <= one.loss_G.mean()


@UNHURRIED
@given(candidates=fields())
def test_the_order_in_which_they_are_given_does_not_matter(candidates: list[Candidate]) -> None:
    losses = [one.loss_G.mean() for one in candidates]
    if len({(loss, one.seconds) for loss, one in zip(losses, candidates, strict=True)}) == len(candidates):
        forth, back = recommend(candidates), recommend(candidates[::-1])
        assert (forth.network, forth.sureness, forth.headline) == (back.network, back.sureness, back.headline)


@UNHURRIED
@given(candidates=fields())
def test_few_windows_make_it_unsure(candidates: list[Candidate]) -> None:
    found = recommend(candidates)
    if len(candidates[0].loss_G) < FEWEST_GROUPS:
        assert found.sureness == "unsure"
        assert "retrain.judge" in found.because


@UNHURRIED
@given(candidates=fields())
def test_the_words_name_everybody_once_and_no_number_is_broken(candidates: list[Candidate]) -> None:
    found = recommend(candidates)
    text = " ".join([found.headline, *found.reasons, found.because])
    assert not re.search(r"\b(nan|inf|None)\b", text)
    for name, word in (("lstm", "LSTM"), ("gru", "GRU"), ("linear", "linear model"), ("rnn", "RNN")):
        assert (word in text) == any(one.network == name for one in candidates)


def test_of_two_that_are_as_good_the_cheaper_one_is_taken() -> None:
    losses = np.array([0.5, 0.6, 0.4, 0.5, 0.7])
    apart = np.array([0.01, -0.01, 0.012, -0.008, 0.001])
    dear, cheap = Candidate("transformer", 48, losses, 30.0), Candidate("gru", 48, losses + apart, 10.0)
    found = recommend([dear, cheap])
    assert (found.network, found.best) == ("gru", "transformer")
    assert "takes 3.0 times as long" in " ".join(found.reasons)


def test_clear_winners_are_taken_whatever_they_cost_and_for_sure() -> None:
    generator = np.random.default_rng(0)
    shared = generator.uniform(0.5, 1, 8)
    found = recommend(
        [
            Candidate("lstm", 168, shared * 0.8 + generator.normal(0, 0.002, 8), 100.0),
            Candidate("linear", 168, shared, 0.1),
            Candidate("seasonal_naive", 24, shared + 0.1, 0.0),
        ]
    )
    assert (found.network, found.sureness) == ("lstm", "sure")
    assert found.headline == "Take the LSTM, with a lookback of 168 steps."
    assert found.because == "At 95% confidence, none of the others is better."
    assert "Worse beyond chance: the linear model by" in found.reasons[-1]


def test_a_large_difference_that_may_be_chance_is_no_reason_for_the_cheaper_one() -> None:
    """A tie is a small difference, not a large one that few windows cannot prove."""
    lstm = np.array([0.2, 0.9, 0.3, 0.8, 0.5])
    linear = np.array([0.9, 0.3, 0.8, 0.4, 0.9])
    found = recommend([Candidate("lstm", 48, lstm, 9.0), Candidate("linear", 48, linear, 0.1)])
    assert (found.network, found.sureness) == ("lstm", "unsure")
    assert "though that may be chance" in found.reasons[-1]


def test_with_the_seasonal_naive_one_stays() -> None:
    losses = np.array([0.5, 0.6, 0.4, 0.5])
    found = recommend([Candidate("seasonal_naive", 24, losses, 0.0), Candidate("rnn", 48, losses + 0.2, 5.0)])
    assert found.headline == "Stay with the seasonal naive."


@pytest.mark.parametrize(("p", "words"), [(0.0, "p < 0.001"), (0.0304, "p = 0.03"), (1.0, "p = 1")])
def test_p_values_in_words(p: float, words: str) -> None:
    assert p_value(p) == words

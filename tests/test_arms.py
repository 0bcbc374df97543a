"""Arms: one for each round of places, drawn from study and seed alone, the better ones more often."""

from __future__ import annotations

from collections import Counter
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from data.retrain import SearchSpace
from lstm.search import places
from lstm.search.arms import SHARED, Arms, arm_of

SPACE = SearchSpace(
    cell=("lstm", "gru"),
    num_layers=(1, 2),
    batch_size=(32, 64),
    head=("calendar",),
)
GRU = {
    "cell": "gru",
    "num_layers": 2,
    "segment_length": 1,
    "lookback": 168,
    "head": "calendar",
    "pooling": "last",
    "bidirectional": False,
    "channels": "joint",
    "positions": "learned",
    "pretrain_epochs": 0,
    "batch_size": 32,
}
LSTM = {**GRU, "cell": "lstm", "batch_size": 64}


def trial(
    number: int, params: dict[str, Any], loss: float | None = None, pruned: bool = False
) -> FrozenTrial:
    state = TrialState.RUNNING
    if loss is not None:
        state = TrialState.PRUNED if pruned else TrialState.COMPLETE
    made = optuna.create_trial(
        state=state,
        value=None if pruned else loss,
        params=params,
        distributions={name: CategoricalDistribution((value,)) for name, value in params.items()},
        intermediate_values={1: 9 * loss, 2: loss} if loss is not None else {},
    )
    made.number = number
    return made


def test_an_arm_is_one_choice_of_all_that_is_shared() -> None:
    chosen = Arms(SPACE, 4, 0).choose([], 0)
    assert tuple(chosen) == SHARED
    assert all(chosen[name] in getattr(SPACE, name) for name in SHARED)


def test_a_round_follows_its_first_trial() -> None:
    arms = Arms(SPACE, 4, 0)
    trials = [trial(4, GRU), trial(5, LSTM), trial(0, LSTM)]
    assert [arms.choose(trials, place) for place in (5, 6, 7)] == [GRU] * 3
    again = trial(9, LSTM)
    again.set_user_attr(places.PLACE, {"number": 4, "kills": 1})
    assert arms.choose([again], 6) == LSTM


def test_a_queued_trial_leads_its_round_before_it_starts() -> None:
    waiting = trial(0, {})
    waiting.system_attrs["fixed_params"] = {**GRU, "dropout": 0.1}
    assert arm_of(waiting) == tuple(GRU[name] for name in SHARED)
    assert Arms(SPACE, 4, 0).choose([waiting], 3) == GRU


def test_an_arm_outside_the_space_leads_nobody() -> None:
    chosen = Arms(SPACE, 4, 0).choose([trial(0, {**GRU, "num_layers": 5})], 1)
    assert chosen["num_layers"] in SPACE.num_layers
    assert arm_of(trial(0, {"cell": "gru"})) is None


def test_a_draw_depends_on_seed_round_and_trials_alone() -> None:
    trials = [trial(0, GRU, 0.5), trial(1, LSTM, 0.4)]
    draws = [Arms(SPACE, 2, 3).choose(trials, place) for place in range(2, 80)]
    assert draws == [Arms(SPACE, 2, 3).choose(trials[::-1], place) for place in range(2, 80)]
    assert draws[0::2] == draws[1::2]
    assert draws != [Arms(SPACE, 2, 4).choose(trials, place) for place in range(2, 80)]


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e9])
def test_the_better_arm_gets_more_of_the_budget_and_untested_arms_get_some(
    pruned: bool, scale: float
) -> None:
    """Whatever the losses' scale, and with trials that were pruned."""
    trials = [trial(number, GRU, scale * (1 + number / 100)) for number in range(6)]
    trials += [trial(6 + number, LSTM, scale * (2 + number / 100), pruned) for number in range(6)]
    counts = Counter(str(Arms(SPACE, 1, 0).choose(trials, place)) for place in range(100, 1100))
    assert counts[str(GRU)] == max(counts.values())
    assert counts[str(LSTM)] < counts[str(GRU)] / 10
    assert len(set(counts) - {str(GRU), str(LSTM)}) == 6

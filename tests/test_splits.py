"""Splits: time is the only split, and the judge span ends at as-of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import DataRefused
from data.panel import Panel
from data.retrain import Retrain, SearchSpace
from data.splits import Span, split

MakePanel = Callable[..., Panel]


def retrain(**changes: object) -> Retrain:
    space = SearchSpace(lookback=(24, 48), segment_length=(24,))
    plain = {"horizon": 24, "validation": "3d", "judge": "2d", "search_space": space}
    return Retrain.model_validate({**plain, **changes})


@given(
    steps=st.integers(202, 600),
    validation=st.integers(24, 60),
    judge=st.integers(24, 60),
    embargo=st.integers(0, 5),
    train=st.none() | st.integers(24, 500),
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_spans_tile_the_panel_with_the_embargo_between(
    make_panel: MakePanel, steps: int, validation: int, judge: int, embargo: int, train: int | None
) -> None:
    config = retrain(
        validation=f"{validation}h", judge=f"{judge}h", embargo=embargo, train=train and f"{train}h"
    )
    splits = split(make_panel(steps=steps), config)
    assert splits.judge.last == steps - 1
    assert (len(splits.validation), len(splits.judge)) == (validation, judge)
    assert splits.judge.first - splits.validation.last == embargo + 1
    assert splits.validation.first - splits.train.last == embargo + 1
    everything = splits.train.last + 1
    assert len(splits.train) == (everything if train is None else min(train, everything))


def test_the_spans_of_an_example(make_panel: MakePanel) -> None:
    splits = split(make_panel(steps=240), retrain(embargo=1))
    assert splits.train == Span(0, 117)
    assert splits.validation == Span(119, 190)
    assert splits.judge == Span(192, 239)
    assert len(splits.train) == 118


def test_one_window_is_the_least_that_trains(make_panel: MakePanel) -> None:
    least = 48 + 24 + 72 + 48
    assert split(make_panel(steps=least), retrain()).train == Span(0, 71)
    with pytest.raises(DataRefused) as refused:
        split(make_panel(steps=least - 1), retrain())
    text = str(refused.value)
    assert "191 steps of h, a night needs 192" in text
    assert "lookback 48, horizon 24, validation 72, judge 48, embargo 2 x 0" in text
    assert refused.value.data_set == "made"
    assert refused.value.time == "2024-01-01 00:00+00:00"
    assert refused.value.remedy.startswith("add 1 earlier steps")


def test_the_embargo_counts_twice_towards_the_least(make_panel: MakePanel) -> None:
    with pytest.raises(DataRefused, match="a night needs 194"):
        split(make_panel(steps=193), retrain(embargo=1))
    assert len(split(make_panel(steps=194), retrain(embargo=1)).train) == 72


def test_a_training_span_shorter_than_the_horizon_is_refused(make_panel: MakePanel) -> None:
    assert len(split(make_panel(steps=400), retrain(train="24h")).train) == 24
    with pytest.raises(DataRefused, match=r"retrain\.train of 23h is shorter than the horizon of 24"):
        split(make_panel(steps=400), retrain(train="23h"))

"""Significance: honest about dependence, symmetric, and silent where too little is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lstm.evaluation.significance import MOST_GROUPS, difference, estimate, group_means, holm

UNHURRIED = settings(deadline=None)
LOSSES = arrays(np.float64, st.integers(2, 10), elements=st.floats(0, 10))
P = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@UNHURRIED
@given(origins=st.integers(1, 600), horizon=st.integers(1, 48))
def test_groups_are_few_long_and_hold_every_window(origins: int, horizon: int) -> None:
    losses = np.arange(origins, dtype=float)
    groups = group_means(losses, np.arange(origins), horizon)
    assert 1 <= len(groups) <= MOST_GROUPS
    assert len(groups) == 1 or origins >= 2 * horizon * len(groups)
    assert (np.diff(groups) > 0).all()
    if origins % len(groups) == 0:
        assert groups.mean() == pytest.approx(losses.mean())


@UNHURRIED
@given(seed=st.integers(0, 100))
def test_series_count_once_an_origin_and_order_does_not_matter(seed: int) -> None:
    generator = np.random.default_rng(seed)
    losses, steps = generator.random(200), np.arange(200)
    alone = group_means(losses, steps, 6)
    twice = group_means(np.tile(losses, 2), np.tile(steps, 2), 6)
    order = generator.permutation(200)
    np.testing.assert_allclose(twice, alone)
    np.testing.assert_allclose(group_means(losses[order], steps[order], 6), alone)


def test_no_windows_is_an_error() -> None:
    with pytest.raises(ValueError, match="no windows"):
        group_means(np.empty(0), np.empty(0, dtype=np.int64), 6)


@UNHURRIED
@given(losses=LOSSES)
def test_an_interval_holds_its_mean(losses: np.ndarray) -> None:
    found = estimate(losses)
    assert found.low <= found.mean <= found.high


@UNHURRIED
@given(losses=LOSSES, seed=st.integers(0, 100))
def test_a_difference_turned_round_is_its_mirror(losses: np.ndarray, seed: int) -> None:
    other = losses + np.random.default_rng(seed).normal(0.1, 1, len(losses))
    one, mirrored = difference(losses, other), difference(other, losses)
    assert (one.mean, one.low, one.high) == pytest.approx((-mirrored.mean, -mirrored.high, -mirrored.low))
    assert one.p == pytest.approx(mirrored.p)
    # The interval leaves out 0 exactly where the p value is below .05.
    assert (one.low <= 0 <= one.high) == (one.p >= 0.05)


def test_twins_do_not_differ_and_one_group_says_nothing() -> None:
    losses = np.array([0.5, 0.7, 0.6])
    assert difference(losses, losses).p == 1
    assert difference(losses, losses + 0.2).p == 0
    alone = difference(losses[:1], losses[:1] + 5)
    assert (alone.low, alone.high, alone.p) == (-np.inf, np.inf, 1)


@UNHURRIED
@given(p=P)
def test_holm_never_helps_keeps_the_order_and_stays_a_probability(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(before <= after <= 1 for before, after in zip(p, adjusted, strict=True))
    assert min(adjusted) == pytest.approx(min(1, len(p) * min(p)))
    order = np.argsort(p, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_holm_by_hand() -> None:
    # Smallest times 4, next times 3 (not below the one before), then times 2, then as it is.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_false_alarms_are_rare_where_windows_overlap_and_days_come_in_runs() -> None:
    """Two equal forecasters on four weeks of hourly origins, a day ahead: about one alarm in twenty.

    A test that takes the windows for independent, or hourly origins in groups of a day, raises one in six to
    one in four (docs/decisions.md).
    """
    horizon, days, alarms, tries = 24, 28, 0, 400
    generator = np.random.default_rng(0)
    for _ in range(tries):
        noise = generator.standard_normal(days + 20)
        day = np.zeros(days + 20)
        for now in range(1, len(day)):
            day[now] = 0.3 * day[now - 1] + noise[now]
        hours = np.repeat(day[-days - 2 :], 24) * 0.5 + generator.standard_normal((days + 2) * 24)
        loss = np.convolve(hours, np.ones(horizon) / horizon, "valid")[: days * 24 - horizon + 1]
        groups = group_means(loss, np.arange(len(loss)), horizon)
        alarms += difference(groups, np.zeros(len(groups))).p < 0.05
    assert 0.02 < alarms / tries < 0.11

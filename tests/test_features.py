"""Calendar features: which ones a frequency gets, and their values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.calendar import Frequency
from lstm.features import (
    CYCLES,
    DAY,
    cycles_seen,
    day_features,
    feature_names,
    holiday_feature,
    time_features,
)


def features(frequency: Frequency, *times: str) -> np.ndarray:
    """(T, F) features at these local times."""
    seconds = np.array(times, dtype="datetime64[s]").astype(np.int64)
    return time_features(frequency, seconds % DAY) + day_features(frequency, seconds // DAY)


@pytest.mark.parametrize(
    ("frequency", "cycles", "count"),
    [
        ("15min", {"hour", "day_of_week", "day_of_year"}, 18),
        ("h", {"hour", "day_of_week", "day_of_year"}, 18),
        ("6h", {"hour", "day_of_week", "day_of_year"}, 14),
        ("D", {"day_of_week", "day_of_year"}, 10),
        ("W", {"day_of_year"}, 4),
        ("MS", {"day_of_year"}, 4),
    ],
)
def test_cycles_finer_than_the_steps_are_dropped(frequency: str, cycles: set[str], count: int) -> None:
    names = feature_names(Frequency(frequency))
    assert {
        cycle for cycle in ("hour", "day_of_week", "day_of_year") if any(cycle in name for name in names)
    } == cycles
    assert len(names) == len(set(names)) == count
    assert features(Frequency(frequency), "2024-03-05T06:00").shape == (1, count)


def test_values_of_a_known_moment() -> None:
    frequency = Frequency("h")
    # A Tuesday (weekday 1), the 65th day of a year, a quarter past the day.
    named = dict(zip(feature_names(frequency), features(frequency, "2024-03-05T06:00")[0], strict=True))
    assert named["sin_hour_of_day_1"] == pytest.approx(1)
    assert named["cos_hour_of_day_2"] == pytest.approx(-1)
    assert named["sin_day_of_week_1"] == pytest.approx(np.sin(2 * np.pi / 7))
    assert named["cos_day_of_week_3"] == pytest.approx(np.cos(6 * np.pi / 7))
    assert named["sin_day_of_year_1"] == pytest.approx(np.sin(2 * np.pi * 64 / 365.25), abs=1e-6)


@pytest.mark.parametrize("frequency", ["15min", "h", "6h", "D", "MS"])
def test_time_and_day_decide_different_features(frequency: str) -> None:
    seconds, days = np.arange(0, DAY, 900), np.arange(400)
    of_time = time_features(Frequency(frequency), seconds).any(axis=0)
    of_day = day_features(Frequency(frequency), days).any(axis=0)
    assert not (of_time & of_day).any()
    assert (of_time | of_day).all()
    assert of_time.tolist() == ["hour" in name for name in feature_names(Frequency(frequency))]


def test_seven_days_and_twentyfour_hours_are_told_apart() -> None:
    hours = np.datetime64("2024-01-01", "h") + np.arange(168)
    rounded = np.round(features(Frequency("h"), *hours.astype(str))[:, :14], 3)
    assert len(np.unique(rounded, axis=0)) == 168


@pytest.mark.parametrize(
    ("frequency", "days", "expected"),
    [
        ("h", ["2024-05-01", "2024-05-02"], [1, 0]),
        ("D", ["2024-05-01", "2024-05-02"], [1, 0]),
        ("W-MON", ["2024-05-06", "2024-05-13", "2024-05-20"], [2 / 7, 0, 1 / 7]),
        ("MS", ["2024-05-01", "2024-06-01", "2024-07-01"], [4 / 31, 0, 1 / 31]),
    ],
)
def test_a_step_counts_the_holidays_of_its_days(
    frequency: str, days: list[str], expected: list[float]
) -> None:
    """In France, May 2024 has Labour Day, Victory Day, Ascension Day and Whit Monday."""
    begins = np.array(days, dtype="datetime64[D]").astype(np.int64)
    share = holiday_feature(Frequency(frequency, "Europe/Paris"), begins, "FR")
    np.testing.assert_allclose(share[:, 0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("frequency", "steps", "seen"),
    [
        ("h", 47, ()),
        ("h", 48, ("hour_of_day",)),
        ("h", 2 * 168, ("hour_of_day", "day_of_week")),
        ("15min", 2 * 672 - 1, ("hour_of_day",)),
        ("D", 730, ("hour_of_day", "day_of_week")),
        ("D", 731, CYCLES),
        ("W", 105, CYCLES),
    ],
)
def test_a_cycle_is_seen_when_it_came_twice(frequency, steps, seen):
    assert cycles_seen(Frequency(frequency), steps) == seen


@given(
    cycles=st.sets(st.sampled_from(CYCLES)),
    frequency=st.sampled_from(["15min", "h", "D"]),
    day=st.integers(0, 9999),
)
def test_cycles_that_are_left_out_are_zero_and_the_others_as_ever(cycles, frequency, day):
    grid, days, seconds = Frequency(frequency), np.arange(day, day + 5), np.arange(0, DAY, 900)
    for whole, some in (
        (day_features(grid, days), day_features(grid, days, cycles)),
        (time_features(grid, seconds), time_features(grid, seconds, cycles)),
    ):
        left_out = [not any(cycle in name for cycle in cycles) for name in feature_names(grid)]
        assert not some[:, left_out].any()
        kept = np.logical_not(left_out)
        np.testing.assert_array_equal(some[:, kept], whole[:, kept])

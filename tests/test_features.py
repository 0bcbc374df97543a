"""Calendar features: which ones a frequency gets, and that they follow the local clock."""

from __future__ import annotations

import numpy as np
import pytest

from data.calendar import Frequency
from lstm.features import calendar_features, feature_names


def at(*times: str) -> np.ndarray:
    return np.array(times, dtype="datetime64[us]")


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
    assert calendar_features(Frequency(frequency), at("2024-03-05T06:00")).shape == (1, count)


def test_values_of_a_known_moment() -> None:
    frequency = Frequency("h")
    # A Tuesday (weekday 1), the 65th day of a year, a quarter past the day.
    features = dict(
        zip(feature_names(frequency), calendar_features(frequency, at("2024-03-05T06:00"))[0], strict=True)
    )
    assert features["sin_hour_of_day_1"] == pytest.approx(1)
    assert features["cos_hour_of_day_2"] == pytest.approx(-1)
    assert features["sin_day_of_week_1"] == pytest.approx(np.sin(2 * np.pi / 7))
    assert features["cos_day_of_week_3"] == pytest.approx(np.cos(6 * np.pi / 7))
    assert features["sin_day_of_year_1"] == pytest.approx(np.sin(2 * np.pi * 64.25 / 365.25), abs=1e-6)


def test_the_local_clock_counts_not_utc() -> None:
    paris = Frequency("h", "Europe/Paris")
    winter, summer = calendar_features(paris, at("2024-01-10T07:00", "2024-07-10T06:00"))[:, :8]
    np.testing.assert_allclose(winter, summer, atol=1e-6)
    np.testing.assert_allclose(
        winter, calendar_features(Frequency("h"), at("2024-01-10T08:00"))[0, :8], atol=1e-6
    )


def test_seven_days_and_twentyfour_hours_are_told_apart() -> None:
    times = np.datetime64("2024-01-01", "us") + np.arange(168) * np.timedelta64(1, "h")
    rounded = np.round(calendar_features(Frequency("h"), times)[:, :14], 3)
    assert len(np.unique(rounded, axis=0)) == 168

"""Calendar features: sines and cosines of what the local clock says.

Axes: T times, F features.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from data.calendar import Frequency
from data.holidays import is_holiday

Integers = NDArray[np.int64]

DAY = 86_400
_WEEK, _YEAR = 7 * DAY, 365.25 * DAY

# Name, length in seconds and number of Fourier harmonics of each cycle. Three harmonics tell the
# seven days of a week apart exactly; a day's and a year's shapes are smoother than their steps.
_CYCLES = (("hour_of_day", DAY, 4), ("day_of_week", _WEEK, 3), ("day_of_year", _YEAR, 2))


CYCLES = tuple(name for name, _, _ in _CYCLES)


def feature_names(frequency: Frequency) -> tuple[str, ...]:
    """Names of the features of a frequency: cycles that its steps can resolve, at least two a period."""
    return tuple(f"{wave}_{name}_{k}" for name, k in _harmonics(frequency) for wave in ("sin", "cos"))


def cycles_seen(frequency: Frequency, steps: int) -> tuple[str, ...]:
    """Names of the cycles that so many steps hold at least twice.

    Of a cycle seen once, nobody can tell what comes again from what happened once: a network that reads the
    day of the year learns a single year by heart, and takes its trend for a season.
    """
    return tuple(name for name, length, _ in _CYCLES if 2 * length <= steps * frequency.seconds)


def time_features(
    frequency: Frequency, seconds: Integers, cycles: Collection[str] = CYCLES
) -> NDArray[np.float32]:
    """(T, F) the part of the features, in the order of `feature_names`, that these seconds (T,) of a local
    day decide; 0 for the others, and for cycles that are left out."""
    return _waves(frequency, len(seconds), {"hour_of_day": seconds / DAY}, cycles)


def day_features(
    frequency: Frequency, days: Integers, cycles: Collection[str] = CYCLES
) -> NDArray[np.float32]:
    """(T, F) the part of the features that these local days (T,), counted from 1970-01-01, decide; 0 for
    the others, and for cycles that are left out. The place in the year moves on with each day, not within it.
    """
    dates = days.astype("datetime64[D]")
    yearday = (dates - dates.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64)
    # Day 0 of the epoch was a Thursday, weekday 3.
    phases = {"day_of_week": (days + 3) % 7 / 7, "day_of_year": yearday * DAY / _YEAR}
    return _waves(frequency, len(days), phases, cycles)


def holiday_feature(frequency: Frequency, days: Integers, code: str) -> NDArray[np.float32]:
    """(T, 1) the share of public holidays among the days of a step that begins on these local days (T,).

    Args:
        code: of `data.holidays`.
    """
    first, last = int(days.min()), int(days.max())
    end_T = days + 1
    if frequency.text.startswith("W"):
        end_T = days + 7
    elif frequency.text == "MS":
        months = days.astype("datetime64[D]").astype("datetime64[M]")
        end_T = (months + 1).astype("datetime64[D]").astype(np.int64)
    # One more than the longest step, so that every end has its place.
    is_free = is_holiday(code, np.arange(first, last + 32))
    before = np.concatenate([[0], np.cumsum(is_free)])
    share_T = (before[end_T - first] - before[days - first]) / (end_T - days)
    share_T1: NDArray[np.float32] = share_T.astype(np.float32)[:, None]
    return share_T1


def _waves(
    frequency: Frequency, count: int, phases: Mapping[str, NDArray[np.float64]], cycles: Collection[str]
) -> NDArray[np.float32]:
    """(T, F) the waves of those cycles whose phases (T,), in periods, are given; 0 for the others."""
    known = {name: phase for name, phase in phases.items() if name in cycles}
    waves = [
        (wave(2 * np.pi * k * known[name]) if name in known else np.zeros(count)).astype(np.float32)
        for name, k in _harmonics(frequency)
        for wave in (np.sin, np.cos)
    ]
    return np.stack(waves, axis=1)


def _harmonics(frequency: Frequency) -> list[tuple[str, int]]:
    """The harmonics with at least two steps of the frequency a period."""
    return [
        (name, k)
        for name, length, most in _CYCLES
        for k in range(1, most + 1)
        if length / k >= 2 * frequency.seconds
    ]

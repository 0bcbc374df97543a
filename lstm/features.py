"""Calendar features: what the local clock knows of a grid step, past or future.

Axes: T grid steps, F features.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.calendar import Frequency, Times

_DAY, _WEEK, _YEAR = 86_400, 7 * 86_400, 365.25 * 86_400

# Name, length in seconds and number of Fourier harmonics of each cycle. Three harmonics tell the
# seven days of a week apart exactly; a day's and a year's shapes are smoother than their steps.
_CYCLES = (("hour_of_day", _DAY, 4), ("day_of_week", _WEEK, 3), ("day_of_year", _YEAR, 2))


# Steps whose features are computed at once: float64 in between costs memory for so many only.
_PIECE = 65_536


def feature_names(frequency: Frequency) -> tuple[str, ...]:
    """Names of the features of a frequency: cycles that its steps can resolve, at least two a period."""
    return tuple(f"{wave}_{name}_{k}" for name, k in _harmonics(frequency) for wave in ("sin", "cos"))


def calendar_features(frequency: Frequency, times: Times) -> NDArray[np.float32]:
    """(T, F) sines and cosines of the local time at each UTC time, in the order of `feature_names`."""
    pieces = np.array_split(times, range(_PIECE, len(times), _PIECE))
    return np.concatenate([_features(frequency, piece) for piece in pieces])


def _features(frequency: Frequency, times: Times) -> NDArray[np.float32]:
    wall = frequency.local(times)
    day = wall.astype("datetime64[D]")
    seconds = (wall - day) / np.timedelta64(1, "s")
    # Day 0 of the epoch was a Thursday, weekday 3.
    weekday = (day.astype(np.int64) + 3) % 7
    yearday = (day - wall.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64)
    phase = {
        "hour_of_day": seconds / _DAY,
        "day_of_week": weekday / 7,
        "day_of_year": (yearday * _DAY + seconds) / _YEAR,
    }
    waves = [
        wave(2 * np.pi * k * phase[name]) for name, k in _harmonics(frequency) for wave in (np.sin, np.cos)
    ]
    return np.stack(waves, axis=1).astype(np.float32)


def _harmonics(frequency: Frequency) -> list[tuple[str, int]]:
    """The harmonics with at least two steps of the frequency a period."""
    return [
        (name, k)
        for name, length, most in _CYCLES
        for k in range(1, most + 1)
        if length / k >= 2 * frequency.seconds
    ]

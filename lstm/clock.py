"""The calendar of a grid, compact: what the local clock knows of every step, past or future.

A step's features are those of its time of day plus those of its local day. Between two changes of the clock
local time advances by the same seconds each step, so that time and day follow from a few runs by arithmetic.

Axes: R runs, U times of day, D local days, F features.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from data.calendar import Frequency
from data.panel import Integers
from lstm.features import CYCLES, DAY, day_features, holiday_feature, time_features

# Steps whose local times are computed at once: each costs memory in between.
_PIECE = 65_536


# Arrays have no single truth value, so calendars compare by identity.
@dataclass(frozen=True, eq=False)
class Calendar:
    """Features of the steps 0 to `n_steps` - 1.

    At a step of run r the local clock stands `base_R[r] + step * advance` units after midnight of the first
    local day. Its features are the row of its time of day in `time_UF` plus that of its day in `day_DF`;
    each table is 0 where the other one decides.

    Args:
        n_steps: how many.
        first_R: (R,) the first step of each run, rising from 0.
        base_R: (R,) where the clock of a run would have stood at step 0, in units.
        advance: units from step to step.
        time_UF: (U, F) float32; a day has U units.
        day_DF: (D, F) float32.
    """

    n_steps: int
    first_R: Integers
    base_R: Integers
    advance: int
    time_UF: NDArray[np.float32]
    day_DF: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, int]:
        """Steps and F."""
        return self.n_steps, self.time_UF.shape[1]


def calendar(
    frequency: Frequency,
    start: np.datetime64,
    n_steps: int,
    holidays: str | None = None,
    cycles: Collection[str] = CYCLES,
) -> Calendar:
    """The calendar of `n_steps` steps, at least one, of a grid from `start` (UTC) on.

    Args:
        holidays: whose public holidays are its last feature (`data.holidays`); unset for none.
        cycles: the features of others are 0.
    """
    seconds = frequency.seconds
    first_R, base_R = _runs(frequency, start, n_steps)
    last_R = np.append(first_R[1:], n_steps) - 1
    first_day = int((base_R + seconds * first_R).min()) // DAY
    last_day = int((base_R + seconds * last_R).max()) // DAY
    base_R -= first_day * DAY
    unit = gcd(DAY, seconds, *base_R.tolist())
    time_UF = time_features(frequency, np.arange(0, DAY, unit), cycles)
    days = np.arange(first_day, last_day + 1)
    day_DF = day_features(frequency, days, cycles)
    if holidays is not None:
        time_UF = np.pad(time_UF, ((0, 0), (0, 1)))
        day_DF = np.concatenate([day_DF, holiday_feature(frequency, days, holidays)], axis=1)
    return Calendar(
        n_steps=n_steps,
        first_R=first_R,
        base_R=base_R // unit,
        advance=seconds // unit,
        time_UF=time_UF,
        day_DF=day_DF,
    )


def _runs(frequency: Frequency, start: np.datetime64, n_steps: int) -> tuple[Integers, Integers]:
    """The first step of each run, and its local second, counted from 1970, had it begun at step 0."""
    firsts, bases, before = [], [], None
    for first in range(0, n_steps, _PIECE):
        steps = np.arange(first, min(first + _PIECE, n_steps))
        times = frequency.times(frequency.shift(start, first), len(steps))
        local = frequency.local(times).astype("datetime64[s]").astype(np.int64)
        base = local - frequency.seconds * steps
        is_first = np.concatenate([[base[0] != before], base[1:] != base[:-1]])
        firsts.append(steps[is_first])
        bases.append(base[is_first])
        before = base[-1]
    return np.concatenate(firsts), np.concatenate(bases)

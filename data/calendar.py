"""The time grid: frequencies from minutes to months, in a time zone, and what a clock knows of a step.

Times are ``datetime64[us]`` in UTC everywhere. Frequencies of a day and longer step along the local
calendar of the time zone (so a day may last 23 or 25 hours); shorter ones step along UTC.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.datetime64]
Integers = NDArray[np.int64]

STANDARD_YEAR = 2025
"""Whose standard time grids of several hours follow in all years: several zones have another than in 2000."""
WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_SHORT = {"min": 60, "h": 3600}
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"\s*(\d+)\s*(min|[shdw])\s*", re.IGNORECASE)
_FREQUENCY = re.compile(r"(\d*)(min|h)|D|MS|W(?:-(MON|TUE|WED|THU|FRI|SAT|SUN))?")


def duration(text: str) -> timedelta:
    """``"90min"``, ``"36h"``, ``"4w"`` as a timedelta.

    Raises:
        ValueError: not a whole number followed by s, min, h, d or w.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write a whole number and s, min, h, d or w, as in 4w")
    return timedelta(seconds=int(match[1]) * _SECONDS[match[2].lower()])


@dataclass(frozen=True)
class Frequency:
    """A grid's step.

    Args:
        text: ``15min`` or any whole number of minutes or hours that divides a day, ``h``, ``D``,
            ``W`` (weeks stamped on Sundays; ``W-MON`` and so on for other days) or ``MS`` (month starts).
        time_zone: an IANA name, such as ``Europe/Paris`` or ``Etc/GMT-1``.

    Raises:
        ValueError: an unknown frequency or time zone.
    """

    text: str
    time_zone: str = "UTC"

    def __post_init__(self) -> None:
        match = _FREQUENCY.fullmatch(self.text)
        if match is None:
            raise ValueError(f"unknown frequency {self.text!r}; use for example 15min, h, D, W, W-MON or MS")
        if match[2] and 86_400 % (int(match[1] or 1) * _SHORT[match[2]] or 7):
            raise ValueError(f"frequency {self.text!r} does not divide a day")
        if match[2] and self.seconds == 86_400:
            raise ValueError(f"frequency {self.text!r} is a day; write D, which follows the local calendar")
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: a folder, such as Europe
            raise ValueError(
                f"unknown time zone {self.time_zone!r}; use an IANA name, as in Europe/Paris"
            ) from error

    @cached_property
    def seconds(self) -> int:
        """Nominal length of a step (a month counts 30 days)."""
        match = _FREQUENCY.fullmatch(self.text)
        assert match is not None
        if match[2]:
            return int(match[1] or 1) * _SHORT[match[2]]
        return {"D": 86_400, "M": 30 * 86_400, "W": 604_800}[self.text[0]]

    @property
    def is_calendar(self) -> bool:
        """True for days, weeks and months, which follow the local calendar."""
        return self.seconds >= 86_400

    @cached_property
    def _weekday(self) -> int:
        return WEEKDAYS.index(self.text[2:] or "SUN")

    def steps(self, text: str) -> int:
        """A duration as a whole number of steps, rounded up.

        Raises:
            ValueError: not a duration, or shorter than one step.
        """
        seconds = duration(text).total_seconds()
        if seconds < self.seconds:
            raise ValueError(f"{text} is shorter than one step of {self.text}")
        return -int(-seconds // self.seconds)

    def floor(self, times: Times) -> Times:
        """The grid time at or before each time."""
        return self._to_time(self._to_number(times))

    def steps_between(self, start: np.datetime64, times: Times) -> Integers:
        """Whole grid steps from `start` (on the grid) to each time, which is floored to the grid."""
        return self._to_number(times) - self._to_number(np.asarray([start]))

    def shift(self, time: np.datetime64, steps: int) -> np.datetime64:
        """The grid time `steps` after `time` (on the grid); negative steps go back."""
        shifted: np.datetime64 = self._to_time(self._to_number(np.asarray([time])) + steps)[0]
        return shifted

    def times(self, start: np.datetime64, count: int) -> Times:
        """(count,) consecutive grid times from `start` (on the grid)."""
        return self._to_time(self._to_number(np.asarray([start])) + np.arange(count, dtype=np.int64))

    def local(self, times: Times) -> Times:
        """Wall-clock times in the time zone."""
        moments = times.astype("datetime64[us]")
        return (moments.astype(np.int64) + self._offsets(moments)).astype("datetime64[us]")

    def format(self, time: np.datetime64) -> str:
        """A time as a person writes it, local with its offset: ``2010-11-26 21:00+01:00``."""
        microseconds = int(time.astype("datetime64[us]").astype(np.int64))
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
        local = moment.astimezone(self._zone)
        return local.isoformat(sep=" ", timespec="auto" if local.second or local.microsecond else "minutes")

    @cached_property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)

    @cached_property
    def _anchor(self) -> int:
        """Microseconds by which short steps are shifted, so that they start on the local standard hour."""
        offsets = (datetime(STANDARD_YEAR, month, 1, tzinfo=self._zone).utcoffset() for month in (1, 7))
        standard = min(int(offset.total_seconds()) for offset in offsets if offset is not None)
        return -standard % self.seconds * 1_000_000

    def _to_number(self, times: Times) -> Integers:
        """Ordinal number of the grid step at or before each time."""
        times = times.astype("datetime64[us]")
        if not self.is_calendar:
            return np.floor_divide(times.astype(np.int64) - self._anchor, self.seconds * 1_000_000)
        days = self.local(times).astype("datetime64[D]")
        if self.text == "MS":
            return days.astype("datetime64[M]").astype(np.int64)
        numbers = days.astype(np.int64)
        if self.text == "D":
            return numbers
        # Day 0 of the epoch was a Thursday, weekday 3.
        return np.floor_divide(numbers + 3 - self._weekday, 7)

    def _to_time(self, numbers: Integers) -> Times:
        if not self.is_calendar:
            return (numbers * (self.seconds * 1_000_000) + self._anchor).astype("datetime64[us]")
        if self.text == "MS":
            wall = numbers.astype("datetime64[M]")
        elif self.text == "D":
            wall = numbers.astype("datetime64[D]")
        else:
            wall = (numbers * 7 - 3 + self._weekday).astype("datetime64[D]")
        return self._to_utc(wall.astype("datetime64[us]"))

    def _offsets(self, times: Times) -> Integers:
        """UTC offset in microseconds at each UTC time.

        Asking the zone costs a microsecond, so it is asked once a day, and once for each distinct second of
        the few days within which the offset changes.
        """
        days, of_day = np.unique(times.astype("datetime64[D]"), return_inverse=True)
        at_start, at_end = self._ask(days), self._ask(np.add(days, 1))
        offsets: Integers = at_start[of_day.reshape(times.shape)]
        changing = (at_start != at_end)[of_day.reshape(times.shape)]
        if changing.any():
            seconds, of_second = np.unique(times[changing].astype("datetime64[s]"), return_inverse=True)
            offsets[changing] = self._ask(seconds)[of_second]
        return offsets

    def _ask(self, times: Times) -> Integers:
        """UTC offset in microseconds at each UTC time, one question a time."""
        moments: list[datetime] = times.astype("datetime64[s]").tolist()
        offsets = [m.replace(tzinfo=UTC).astimezone(self._zone).utcoffset() for m in moments]
        return np.array(offsets, dtype="timedelta64[us]").astype(np.int64)

    def _to_utc(self, wall: Times) -> Times:
        """UTC of local midnights: the first of two; where the clock skips midnight, the moment it does."""
        days, of_day = np.unique(wall, return_inverse=True)
        midnights: list[datetime] = days.astype("datetime64[s]").tolist()
        # Of a doubled hour fold 0 is the first; within a skipped one it keeps the offset from before.
        offsets = [m.replace(tzinfo=self._zone, fold=0).utcoffset() for m in midnights]
        moments: Times = np.subtract(days, np.array(offsets, dtype="timedelta64[us]"))
        return moments[of_day.reshape(wall.shape)]

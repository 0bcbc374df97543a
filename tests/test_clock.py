"""The compact calendar against features computed step by step, through every change of the clock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.calendar import Frequency
from lstm.clock import calendar
from lstm.features import DAY, day_features, feature_names, time_features
from lstm.kernels import using
from lstm.kernels.dispatch import Kernel
from lstm.scaling import ScaledPanel
from lstm.training.batches import Batches
from lstm.windows import Windows

# Lord Howe shifts by half an hour, Apia skipped a day, Havana changes at midnight.
ZONES = ("UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "America/Havana")
FREQUENCIES = ("15min", "30min", "h", "6h", "12h", "D", "W", "W-MON", "MS")


def plainly(frequency: Frequency, start: np.datetime64, count: int) -> np.ndarray:
    """(T, F) the features of each step from its own local time."""
    rows = []
    for time in frequency.times(start, count):
        local = int(frequency.local(np.array([time])).astype("datetime64[s]").astype(np.int64)[0])
        seconds, day = np.array([local % DAY]), np.array([local // DAY])
        rows.append(time_features(frequency, seconds) + day_features(frequency, day))
    return np.concatenate(rows)


def looked_up(
    frequency: Frequency,
    start: np.datetime64,
    count: int,
    first: Sequence[int] = (0,),
    kernel: Kernel = "auto",
) -> np.ndarray:
    """(W, H, F) the same of the steps after these first ones, as a batch reads them: horizons of windows, as
    long as the last one's may be."""
    zeros = np.zeros((count, 1))
    panel = ScaledPanel(
        values=zeros.astype(np.float32),
        observed=zeros.astype(np.bool_),
        future=np.empty((count, 0), dtype=np.float32),
        static=np.empty((1, 0), dtype=np.float32),
        numbers=np.array([0]),
        calendar=calendar(frequency, start, count),
        first_steps=np.array([0]),
        offsets=np.array([0, count]),
    )
    steps = np.array(first)
    windows, horizon = Windows.of(steps, 0 * steps, steps), count - 1 - max(first)
    batches = Batches(panel, windows, 1, horizon, torch.device("cpu"))
    with using(kernel):
        return batches.inputs(torch.arange(len(batches))).future_BHF.numpy()


@settings(max_examples=60, deadline=None)
@given(
    text=st.sampled_from(FREQUENCIES),
    zone=st.sampled_from(ZONES),
    day=st.dates(date(1965, 1, 1), date(2030, 1, 1)),
    hour=st.integers(0, 23),
    count=st.integers(2, 400),
    piece=st.sampled_from([1, 7, 65_536]),
)
def test_a_calendar_holds_the_features_of_every_step(
    text: str, zone: str, day: date, hour: int, count: int, piece: int
) -> None:
    frequency = Frequency(text, zone)
    moment = np.datetime64(str(day), "us") + np.timedelta64(hour, "h")
    start = frequency.floor(np.array([moment]))[0]
    first = [0, count // 3, count // 2]
    expected = plainly(frequency, start, count)
    windows = np.lib.stride_tricks.sliding_window_view(expected, count - 1 - count // 2, axis=0).swapaxes(
        1, 2
    )
    for kernel in ("auto", "torch"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lstm.clock._PIECE", piece)
            found = looked_up(frequency, start, count, first, kernel)
        np.testing.assert_array_equal(found, windows[1:][first])
    assert calendar(frequency, start, count).shape == expected.shape


@pytest.mark.parametrize(
    ("zone", "start"),
    [
        ("Europe/Paris", "2024-03-30T12:00"),
        ("Europe/Paris", "2024-10-26T12:00"),
        ("Australia/Lord_Howe", "2024-04-06T03:00"),
        ("America/Havana", "2024-11-03T04:00"),
        ("America/Havana", "2024-11-03T04:30"),
        ("Pacific/Apia", "2011-12-29T12:00"),
        ("Europe/Paris", "1911-03-10T12:00"),  # by 9 minutes and 21 seconds
    ],
)
@pytest.mark.parametrize("text", ["15min", "30min"])
def test_a_calendar_goes_through_a_change_of_the_clock(text: str, zone: str, start: str) -> None:
    frequency, begin = Frequency(text, zone), np.datetime64(start, "us")
    np.testing.assert_array_equal(looked_up(frequency, begin, 200)[0], plainly(frequency, begin, 200)[1:])
    assert len(calendar(frequency, begin, 200).first_R) == 2


def test_a_calendar_of_many_years_is_small() -> None:
    made = calendar(Frequency("1min", "Europe/Paris"), np.datetime64("2020-01-01", "us"), 1_000_000)
    # Paris changed its clock four times in these 695 days.
    assert len(made.first_R) == 5
    assert made.time_UF.shape == (1440, 18)
    assert len(made.day_DF) == 695


def test_the_year_moves_on_with_each_day() -> None:
    frequency = Frequency("h")
    made = looked_up(frequency, np.datetime64("2024-03-05", "us"), 48)[0]
    of_year = [number for number, name in enumerate(feature_names(frequency)) if "day_of_year" in name]
    assert len(np.unique(made[:, of_year], axis=0)) == 2


def test_the_local_clock_counts_not_utc() -> None:
    def first(zone: str, time: str) -> np.ndarray:
        return looked_up(Frequency("h", zone), np.datetime64(time, "us"), 2)[0, 0, :8]

    winter, summer = first("Europe/Paris", "2024-01-10T07:00"), first("Europe/Paris", "2024-07-10T06:00")
    np.testing.assert_array_equal(winter, summer)
    np.testing.assert_array_equal(winter, first("UTC", "2024-01-10T08:00"))

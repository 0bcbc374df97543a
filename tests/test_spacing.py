"""How far apart rows lie: a frequency that leaves nearly all steps empty is refused with the right one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.calendar import Frequency
from data.errors import DataRefused
from data.layout import Layout
from data.spacing import check_spacing

LAYOUT = Layout("made", "when", "site", "load", (), "UTC")


def spaced(times: list[datetime], declared: Frequency, series: tuple[str, ...] = ("a", "b")) -> None:
    """Check the rows of several series at these times."""
    moments = pl.Series("time", times, pl.Datetime("us", "UTC"))
    frame = pl.concat(moments.to_frame().select(series=pl.lit(name), time=pl.col("time")) for name in series)
    check_spacing(frame, LAYOUT, declared)


def every(frequency: str, count: int = 200, zone: str = "UTC") -> list[datetime]:
    grid = Frequency(frequency, zone)
    times = grid.times(grid.floor(np.array(["2024-01-10"], "datetime64[us]"))[0], count)
    return [time.replace(tzinfo=UTC) for time in times.tolist()]


@pytest.mark.parametrize(
    ("real", "declared", "apart", "zone"),
    [
        ("h", "15min", 4, "UTC"),
        ("15min", "5min", 3, "UTC"),
        ("D", "h", 24, "Europe/Paris"),
        ("6h", "h", 6, "UTC"),
        ("W-MON", "D", 7, "America/New_York"),
        ("W-SUN", "h", 168, "UTC"),
        ("MS", "D", 31, "Europe/Paris"),
        ("MS", "W-MON", 4, "UTC"),
    ],
)
def test_too_fine_a_frequency_is_refused_with_the_right_one(
    real: str, declared: str, apart: int, zone: str
) -> None:
    times = every(real, zone=zone)
    spaced(times, Frequency(real, zone))
    with pytest.raises(DataRefused) as refused:
        spaced(times, Frequency(declared, zone))
    assert f"The rows are {apart} steps of {declared} apart" in str(refused.value)
    assert refused.value.remedy.startswith(f"did you mean `frequency: {real}`? Rows that are events")
    assert refused.value.column == "when"


def test_trading_days_and_a_few_gaps_do_not_hide_it() -> None:
    days = [time for time in every("D") if time.weekday() < 5]
    with pytest.raises(DataRefused, match=r"24 steps of h apart.*did you mean `frequency: D`"):
        spaced(days, Frequency("h"))
    spaced(days, Frequency("D"))


def test_rows_beside_the_right_grid_want_an_aggregate() -> None:
    times = [time + timedelta(minutes=15) for time in every("h")]
    with pytest.raises(DataRefused, match=r"`frequency: h` with `aggregate:`\?"):
        spaced(times, Frequency("15min"))


@given(missing=st.floats(0, 0.9), seed=st.integers(0, 99), declared=st.sampled_from(["15min", "h", "D"]))
def test_rows_that_are_missing_at_random_change_nothing(missing: float, seed: int, declared: str) -> None:
    draw = np.random.default_rng(seed)
    spaced([time for time in every(declared, 1000) if draw.random() >= missing], Frequency(declared))


def test_rows_of_finer_steps_in_between_change_nothing() -> None:
    spaced(sorted({*every("h"), *every("15min", 40)}), Frequency("15min"))
    spaced([], Frequency("h"))
    spaced(every("D", 1), Frequency("h"))


def test_a_source_that_became_finer_is_not_refused_for_what_it_was() -> None:
    hours = every("h", 24 * 365)
    quarters = [hours[-1] + timedelta(minutes=15 * step) for step in range(1, 49)]
    spaced([*hours, *quarters], Frequency("15min", "UTC"))
    with pytest.raises(DataRefused):
        spaced([*hours, *quarters[:8]], Frequency("15min", "UTC"))

"""The time grid: steps along UTC or along the local calendar, through every change of the clock."""

from __future__ import annotations

import time as clock
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.calendar import Frequency, duration

ZONES = (
    "UTC",
    "Europe/Paris",
    "America/New_York",
    "America/Sao_Paulo",  # skipped midnights
    "America/Havana",  # repeats the hour after midnight
    "Africa/Cairo",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Adelaide",
    "Australia/Lord_Howe",  # a summer time of half an hour
    "Pacific/Chatham",
    "Etc/GMT-1",
)
FREQUENCIES = ("min", "15min", "h", "6h", "D", "W", "W-MON", "W-SAT", "MS")
grids = st.builds(Frequency, st.sampled_from([f for f in FREQUENCIES if f != "7min"]), st.sampled_from(ZONES))
calendar_grids = st.builds(Frequency, st.sampled_from(("D", "W", "W-WED", "MS")), st.sampled_from(ZONES))
moments = st.integers(0, 70 * 365 * 86_400).map(lambda s: np.datetime64(s, "s").astype("datetime64[us]"))


def at(text: str) -> np.datetime64:
    return np.datetime64(text, "us")


def several(*texts: str) -> np.ndarray:
    return np.array(texts, dtype="datetime64[us]")


@given(grid=grids, moment=moments)
@settings(deadline=None, max_examples=300)
def test_floor_is_the_grid_time_at_or_before(grid: Frequency, moment: np.datetime64) -> None:
    floored = grid.floor(np.array([moment]))[0]
    assert floored <= moment < grid.shift(floored, 1)
    assert grid.floor(np.array([floored]))[0] == floored
    assert grid.shift(floored, 0) == floored


@given(grid=grids, moment=moments, steps=st.integers(-500, 500))
@settings(deadline=None, max_examples=300)
def test_shift_steps_and_times_agree(grid: Frequency, moment: np.datetime64, steps: int) -> None:
    start = grid.floor(np.array([moment]))[0]
    shifted = grid.shift(start, steps)
    assert grid.steps_between(start, np.array([shifted]))[0] == steps
    assert grid.shift(shifted, -steps) == start
    if steps >= 0:
        times = grid.times(start, steps + 1)
        assert times.dtype == np.dtype("datetime64[us]")
        assert (times[0], times[-1], len(times)) == (start, shifted, steps + 1)
        assert (np.diff(times) > np.timedelta64(0)).all()
        np.testing.assert_array_equal(grid.steps_between(start, times), np.arange(steps + 1))


@given(grid=calendar_grids, moment=moments)
@settings(deadline=None, max_examples=200)
def test_calendar_steps_begin_with_the_local_day(grid: Frequency, moment: np.datetime64) -> None:
    """A microsecond before the step it was another local day, and it is the right day of week or month."""
    start = grid.floor(np.array([moment]))[0]
    zone = ZoneInfo(grid.time_zone)
    local = start.item().replace(tzinfo=UTC).astimezone(zone)
    before = (start.item() - timedelta(microseconds=1)).replace(tzinfo=UTC).astimezone(zone)
    assert before.date() < local.date()
    if grid.text == "MS":
        assert local.day == 1
    if grid.text.startswith("W"):
        assert local.weekday() == {"W": 6, "W-WED": 2}[grid.text]


@given(zone=st.sampled_from(ZONES), moment=moments)
@settings(deadline=None, max_examples=300)
def test_local_is_what_the_zone_says(zone: str, moment: np.datetime64) -> None:
    wall = Frequency("h", zone).local(np.array([moment]))[0]
    local = moment.item().replace(tzinfo=UTC).astimezone(ZoneInfo(zone))
    assert wall.item() == local.replace(tzinfo=None)


@pytest.mark.parametrize("zone", ZONES)
def test_local_through_a_year_of_minutes_at_the_changes(zone: str) -> None:
    """Every quarter of an hour of a year, against the zone asked one by one."""
    times = np.arange(at("2018-01-01"), at("2019-01-01"), np.timedelta64(15, "m"))
    expected = [t.replace(tzinfo=UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None) for t in times.tolist()]
    np.testing.assert_array_equal(Frequency("h", zone).local(times), np.array(expected, "datetime64[us]"))


def test_days_of_23_24_and_25_hours() -> None:
    grid = Frequency("D", "Europe/Paris")
    spring = grid.times(at("2024-03-29T23:00"), 4)
    assert np.diff(spring).astype("timedelta64[h]").astype(int).tolist() == [24, 23, 24]
    autumn = grid.times(at("2024-10-25T22:00"), 4)
    assert np.diff(autumn).astype("timedelta64[h]").astype(int).tolist() == [24, 25, 24]


def test_a_skipped_midnight_starts_the_day_when_the_clock_jumps() -> None:
    grid = Frequency("D", "America/Sao_Paulo")
    days = [grid.format(day) for day in grid.times(at("2018-11-03T03:00"), 3)]
    assert days == ["2018-11-03 00:00-03:00", "2018-11-04 01:00-02:00", "2018-11-05 00:00-02:00"]


def test_a_repeated_midnight_starts_the_day_the_first_time() -> None:
    grid = Frequency("D", "America/Havana")
    day = grid.floor(several("2023-11-05T05:30"))  # 00:30 the second time
    assert grid.format(day[0]) == "2023-11-05 00:00-04:00"


def test_half_hour_zones_count_from_the_local_hour() -> None:
    kolkata = Frequency("h", "Asia/Kolkata")
    assert kolkata.format(kolkata.floor(several("2024-01-01T00:00"))[0]) == "2024-01-01 05:00+05:30"
    quarter = Frequency("h", "Asia/Kathmandu")
    assert quarter.format(quarter.floor(several("2024-01-01T00:00"))[0]) == "2024-01-01 05:00+05:45"


def test_several_hours_count_from_the_local_standard_midnight() -> None:
    for zone, winter in (("Europe/Paris", "2024-01-10"), ("Australia/Sydney", "2024-07-10")):
        grid = Frequency("6h", zone)
        steps = grid.local(grid.times(grid.floor(several(f"{winter}T12:00"))[0], 4))
        hours = (steps - steps.astype("datetime64[D]")).astype("timedelta64[h]").astype(int)
        assert sorted(hours.tolist()) == [0, 6, 12, 18], zone


@pytest.mark.parametrize(
    "zone", ["Europe/Istanbul", "Europe/Minsk", "Asia/Almaty", "Asia/Amman", "Africa/Casablanca"]
)
def test_several_hours_count_from_todays_midnight_where_standard_time_has_changed(zone: str) -> None:
    grid = Frequency("6h", zone)
    steps = grid.times(grid.floor(several("2025-01-10T12:00"))[0], 4)
    assert sorted(grid.format(step)[11:16] for step in steps) == ["00:00", "06:00", "12:00", "18:00"]


@given(zone=st.sampled_from(ZONES))
def test_a_zone_that_keeps_its_standard_time_keeps_its_grid(zone: str) -> None:
    """The grid of a zone is that of its standard time at the beginning of the century, too."""
    offsets = [datetime(2000, month, 1, tzinfo=ZoneInfo(zone)).utcoffset() for month in (1, 7)]
    standard = min(offset for offset in offsets if offset is not None)
    step = Frequency("6h", zone).floor(several("2000-03-10T12:00"))[0].item()
    assert (step + standard - datetime(2000, 3, 10)) % timedelta(hours=6) == timedelta(0)  # noqa: DTZ001


def test_hours_step_along_utc_through_the_change() -> None:
    grid = Frequency("h", "Europe/Paris")
    times = grid.times(at("2024-10-26T23:00"), 4)
    assert [grid.format(t)[11:] for t in times] == [
        "01:00+02:00",
        "02:00+02:00",
        "02:00+01:00",
        "03:00+01:00",
    ]


def test_weeks_and_months() -> None:
    sunday = Frequency("W").floor(several("2024-05-15T10:00"))[0]
    monday = Frequency("W-MON").floor(several("2024-05-15T10:00"))[0]
    assert (sunday, monday) == (at("2024-05-12"), at("2024-05-13"))
    month = Frequency("MS")
    assert month.floor(several("2024-02-29T23:59"))[0] == at("2024-02-01")
    assert month.shift(at("2023-12-01"), 3) == at("2024-03-01")
    assert month.steps_between(at("2023-12-01"), several("2025-01-31")).tolist() == [13]


def test_times_before_1970() -> None:
    assert Frequency("h").floor(several("1969-12-31T23:59:59"))[0] == at("1969-12-31T23:00")
    assert Frequency("D").floor(several("1969-12-31T23:59:59"))[0] == at("1969-12-31")
    assert Frequency("MS").floor(several("1969-12-31T23:59:59"))[0] == at("1969-12-01")


def test_arrays_keep_their_shape() -> None:
    times = several("2024-01-01", "2024-07-01", "2024-03-31T00:30", "2024-03-31T01:30").reshape(2, 2)
    grid = Frequency("D", "Europe/Paris")
    assert grid.local(times).shape == grid.floor(times).shape == (2, 2)
    assert grid.local(times)[1].tolist() == [datetime(2024, 3, 31, 1, 30), datetime(2024, 3, 31, 3, 30)]  # noqa: DTZ001
    assert grid.floor(several()[:0]).shape == (0,)


@pytest.mark.parametrize("text", ["15min", "D", "MS"])
def test_a_million_times_take_well_under_a_second(text: str) -> None:
    grid = Frequency(text, "Europe/Paris")
    times = at("1990-01-01") + np.arange(1_000_000) * np.timedelta64(15, "m")
    began = clock.process_time()
    grid.floor(times)
    grid.local(times)
    assert clock.process_time() - began < 1.5


@pytest.mark.parametrize(
    ("text", "seconds", "is_calendar"),
    [
        ("min", 60, False),
        ("15min", 900, False),
        ("h", 3600, False),
        ("12h", 43_200, False),
        ("D", 86_400, True),
        ("W-TUE", 604_800, True),
        ("MS", 2_592_000, True),
    ],
)
def test_the_length_of_a_step(text: str, seconds: int, is_calendar: bool) -> None:
    assert (Frequency(text).seconds, Frequency(text).is_calendar) == (seconds, is_calendar)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("hourly", "unknown frequency 'hourly'"),
        ("W-XYZ", "unknown frequency"),
        ("2D", "unknown frequency"),
        ("", "unknown frequency"),
        ("7min", "does not divide a day"),
        ("0min", "does not divide a day"),
        ("48h", "does not divide a day"),
        ("24h", "is a day; write D"),
        ("1440min", "is a day; write D"),
    ],
)
def test_unknown_frequencies_are_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Frequency(text)


@pytest.mark.parametrize("zone", ["Europe", "Europe/Atlantis", "", "../../etc/passwd", "CEST"])
def test_unknown_zones_are_refused(zone: str) -> None:
    with pytest.raises(ValueError, match="unknown time zone"):
        Frequency("h", zone)


def test_durations_in_steps() -> None:
    assert Frequency("h").steps("4w") == 672
    assert Frequency("h").steps("90min") == 2
    assert Frequency("W").steps("8d") == 2
    assert Frequency("MS").steps("104w") == 25
    with pytest.raises(ValueError, match="23h is shorter than one step of D"):
        Frequency("D").steps("23h")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", timedelta(seconds=30)),
        ("90min", timedelta(minutes=90)),
        (" 36 H ", timedelta(hours=36)),
        ("2d", timedelta(days=2)),
        ("4w", timedelta(weeks=4)),
        ("0h", timedelta()),
    ],
)
def test_durations(text: str, expected: timedelta) -> None:
    assert duration(text) == expected


@pytest.mark.parametrize("text", ["", "4", "w", "1.5h", "-1h", "4 months", "1h30min"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        duration(text)


def test_a_time_as_text() -> None:
    grid = Frequency("h", "Etc/GMT-1")
    assert grid.format(at("2010-11-26T20:00")) == "2010-11-26 21:00+01:00"
    assert grid.format(at("2010-11-26T20:02:07")) == "2010-11-26 21:02:07+01:00"
    assert grid.format(at("1969-12-31T22:00")) == "1969-12-31 23:00+01:00"

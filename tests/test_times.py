"""The time column: whatever a source writes becomes UTC, or is refused with the reason."""

# ruff: noqa: DTZ001 (times without a zone are what is tested)

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataRefused
from data.findings import Finding
from data.layout import Layout
from data.times import is_time_text, local_text, to_utc

Z = ZoneInfo("UTC")


def convert(
    times: list[object] | pl.Series,
    zone: str = "UTC",
    series: list[str] | None = None,
    findings: list[Finding] | None = None,
) -> list[datetime]:
    layout = Layout("made", "when", "id", "load", (), zone)
    frame = pl.DataFrame({"series": series or [""] * len(times), "time": times}, strict=False)
    converted = to_utc(frame.lazy(), layout, [] if findings is None else findings).collect()
    assert converted.schema["time"] == pl.Datetime("us", "UTC")
    assert converted.columns == ["series", "time"]
    return converted["time"].to_list()


moments = st.datetimes(datetime(1990, 1, 1), datetime(2035, 1, 1)).map(
    lambda t: t.replace(second=0, microsecond=0)
)


@given(st.lists(moments, min_size=1, max_size=20), st.sampled_from(["Europe/Paris", "Asia/Kolkata", "UTC"]))
def test_times_with_their_offset_are_never_changed(times: list[datetime], zone: str) -> None:
    utc = [time.replace(tzinfo=Z) for time in times]
    texts = [time.astimezone(ZoneInfo(zone)).isoformat() for time in utc]
    assert convert(texts, "America/New_York") == utc
    assert convert(pl.Series(utc), "America/New_York") == utc


@given(moments, st.integers(1, 200), st.sampled_from([15, 60]), st.booleans())
def test_a_local_clock_is_undone_whatever_summer_time_does(
    start: datetime, count: int, minutes: int, newest_first: bool
) -> None:
    start = start.replace(minute=0, tzinfo=Z)
    utc = [start + timedelta(minutes=minutes * step) for step in range(count)]
    utc = utc[::-1] if newest_first else utc
    local = [time.astimezone(ZoneInfo("Europe/Paris")).replace(tzinfo=None) for time in utc]
    # A span that begins or ends within the repeated hour, or is all in it, cannot be told apart by order.
    edges = {utc[0].astimezone(ZoneInfo("Europe/Paris")), utc[-1].astimezone(ZoneInfo("Europe/Paris"))}
    if any(edge.replace(fold=0).utcoffset() != edge.replace(fold=1).utcoffset() for edge in edges):
        return
    assert convert(local, "Europe/Paris") == utc
    assert convert([str(time) for time in local], "Europe/Paris") == utc


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-03-05", datetime(2024, 3, 5)),
        ("2024-3-5 7:08", datetime(2024, 3, 5, 7, 8)),
        ("2024-03-05 07:08", datetime(2024, 3, 5, 7, 8)),
        (" 2024-03-05T07:08:09 ", datetime(2024, 3, 5, 7, 8, 9)),
        ("2024-03-05 07:08:09.25", datetime(2024, 3, 5, 7, 8, 9, 250_000)),
        ("2024/03/05 07:08", datetime(2024, 3, 5, 7, 8)),
        ("20240305", datetime(2024, 3, 5)),
        ("2024-03", datetime(2024, 3, 1)),
        ("05.03.2024 07:08:09", datetime(2024, 3, 5, 7, 8, 9)),
        ("25/03/2024 07:08", datetime(2024, 3, 25, 7, 8)),
        ("3/25/2024 7:08 PM", datetime(2024, 3, 25, 19, 8)),
        ("3/25/2024 7:08AM", datetime(2024, 3, 25, 7, 8)),
        ("25-03-2024", datetime(2024, 3, 25)),
        ("2024-03-05T07:08:09Z", datetime(2024, 3, 5, 7, 8, 9)),
        ("2024-03-05 07:08:09 UTC", datetime(2024, 3, 5, 7, 8, 9)),
        ("2024-03-05T07:08:09.5+01:00", datetime(2024, 3, 5, 6, 8, 9, 500_000)),
        ("2024-03-05 07:08-0530", datetime(2024, 3, 5, 12, 38)),
        ("2024-03-05 07:08 +01", datetime(2024, 3, 5, 6, 8)),
    ],
)
def test_spellings_of_a_time(text: str, expected: datetime) -> None:
    assert convert([text]) == [expected.replace(tzinfo=Z)]
    assert is_time_text(pl.Series("x", [text, None]))


def test_several_spellings_in_one_column() -> None:
    texts = ["2024-01-01", "2024-01-01 01:00", "2024-01-01T02:00:00", "2024-01-01 03:00:00.5"]
    assert [time.hour for time in convert(texts)] == [0, 1, 2, 3]
    offsets = ["2024-01-01 00:00Z", "2024-01-01T02:00:00+01:00", "2024-01-01T04:00:00 +02"]
    assert [time.hour for time in convert(offsets)] == [0, 1, 2]


def test_a_spelling_far_down_is_read_too() -> None:
    texts = ["2024-01-01 00:00"] * 1500 + ["2024-01-01T02:00:00"]
    assert convert(texts)[-1].hour == 2


def test_one_number_above_twelve_tells_day_from_month() -> None:
    assert convert(["03/04/2024", "13/04/2024"])[0] == datetime(2024, 4, 3, tzinfo=Z)
    assert convert(["03/04/2024", "03/13/2024"])[0] == datetime(2024, 3, 4, tzinfo=Z)


@pytest.mark.parametrize(
    ("times", "problem"),
    [
        (["03/04/2024"], "'03/04/2024': no day is above 12"),
        (["13/04/2024", "04/13/2024"], "both orders appear"),
        (["2024-01-01", "yesterday"], "'yesterday' is no time"),
        (["2024-01-01"] * 1500 + ["?"], "'\\?' is no time"),
        (["2024-01-01", "2024-02-30"], "'2024-02-30' is no time"),
        (
            ["2024-01-01 00:00Z", "2024-01-01 01:00"],
            "offset from UTC .'2024-01-01 00:00Z'. and others do not",
        ),
        (["2024-01-01", None], "1 rows have no time"),
        ([1704067200], "holds Int64, not times"),
    ],
)
def test_what_is_no_time_is_refused(times: list[object], problem: str) -> None:
    with pytest.raises(DataRefused, match=problem) as refused:
        convert(times)
    assert refused.value.column == "when"
    assert refused.value.remedy


def test_the_hour_that_spring_skips_is_refused() -> None:
    times = [datetime(2024, 3, 31, 1), datetime(2024, 3, 31, 2, 30), datetime(2024, 3, 31, 2)]
    with pytest.raises(DataRefused, match="02:00:00 does not exist in Europe/Paris") as refused:
        convert(times, "Europe/Paris", series=["a", "b", "c"])
    assert refused.value.series == "c"
    assert refused.value.time == "2024-03-31 02:00:00"
    assert len(convert(times, "Etc/GMT-1")) == 3


def test_the_hour_that_autumn_repeats_is_told_by_order_and_reported() -> None:
    times = [
        "2024-10-27 02:00",
        "2024-10-27 02:30",
        "2024-10-27 02:00",
        "2024-10-27 02:30",
        "2024-10-27 03:00",
    ]
    findings: list[Finding] = []
    utc = convert(times, "Europe/Paris", findings=findings)
    assert [time.strftime("%H:%M") for time in utc] == ["00:00", "00:30", "01:00", "01:30", "02:00"]
    (finding,) = findings
    assert (finding.count, finding.time, finding.column) == (4, "2024-10-27 02:00:00", "when")


def test_a_file_that_begins_with_its_newest_row_has_winter_first() -> None:
    times = ["2024-10-27 03:00", "2024-10-27 02:00", "2024-10-27 02:00", "2024-10-27 01:00"]
    assert [time.hour for time in convert(times, "Europe/Paris")] == [2, 1, 0, 23]


def test_each_series_has_its_own_repeated_hour() -> None:
    times = ["2024-10-27 02:00"] * 5
    utc = convert(times, "Europe/Paris", series=["a", "b", "a", "b", "c"])
    assert [time.hour for time in utc] == [0, 0, 1, 1, 0]


def test_a_day_copied_further_down_starts_with_summer_again() -> None:
    times = ["2024-10-27 02:00", "2024-10-27 02:30"] * 4 + ["2024-10-28 00:00"]
    assert [time.hour for time in convert(times, "Europe/Paris")[:8]] == [0, 0, 1, 1] * 2


@given(minutes=st.sampled_from([10, 15, 20, 30]), newest_first=st.booleans(), series=st.booleans())
def test_rows_sorted_by_local_time_alternate(minutes: int, newest_first: bool, series: bool) -> None:
    start = datetime(2024, 10, 26, 23, tzinfo=Z)
    utc = [start + timedelta(minutes=step) for step in range(0, 240, minutes)]
    paris = ZoneInfo("Europe/Paris")
    utc = sorted(utc, key=lambda time: time.astimezone(paris).replace(tzinfo=None))
    utc = utc[::-1] if newest_first else utc
    local: list[object] = [time.astimezone(paris).replace(tzinfo=None) for time in utc]
    if series:
        doubled = [time for time in local for _ in "ab"]
        assert convert(doubled, "Europe/Paris", ["a", "b"] * len(utc)) == [t for t in utc for _ in "ab"]
    assert convert(local, "Europe/Paris") == utc


def test_a_step_that_is_missing_leaves_the_others_in_their_half() -> None:
    """02:30 of summer is: were the rows sorted by local time, it might as well be that of winter."""
    times = ["2024-10-27 02:00", "2024-10-27 02:00", "2024-10-27 02:30"]
    assert [time.hour for time in convert(times, "Europe/Paris")] == [0, 1, 1]


def test_a_row_that_comes_twice_turns_no_clock_that_falls_elsewhere() -> None:
    minutes = ["00", "15", "15", "30", "45"]
    times = [f"2024-10-27 02:{minute}" for minute in (*minutes, *minutes)]
    assert [time.hour for time in convert(times, "Europe/Paris")] == [0] * 5 + [1] * 5


def test_two_autumns_are_independent() -> None:
    times = ["2023-10-29 02:00", "2023-10-29 02:00", "2024-10-27 02:00", "2024-10-27 02:00"]
    assert [time.hour for time in convert(times, "Europe/Paris")] == [0, 1, 0, 1]


def test_dates_stand_for_local_days_even_where_midnight_is_skipped() -> None:
    days: list[object] = [date(2018, 11, 3), date(2018, 11, 4), date(2018, 11, 5)]
    hours = [time.hour for time in convert(days, "America/Sao_Paulo")]
    assert hours == [3, 3, 2]  # the fourth of November began at one o'clock
    assert convert([str(day) for day in days], "America/Sao_Paulo") == convert(days, "America/Sao_Paulo")


def test_an_empty_column_of_text_is_no_error_here() -> None:
    assert convert(pl.Series([], dtype=pl.String)) == []
    assert not is_time_text(pl.Series("x", [None], dtype=pl.String))
    assert not is_time_text(pl.Series("x", ["2024-01-01", "north"]))


def test_a_time_reads_as_local_with_its_offset() -> None:
    assert local_text(datetime(2024, 7, 1, 12, tzinfo=Z), "Europe/Paris") == "2024-07-01 14:00+02:00"

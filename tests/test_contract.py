"""The contract, through real files: each deviation is fixed and reported, or refused with where and why."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import meter
import numpy as np
import polars as pl
import pytest
from meter import AS_OF, HOURS, START, assert_refused, edit, problems, rows, without

from data.catalog import DataSet
from data.contract import check, resolve_as_of
from data.errors import DataRefused
from data.snapshot import digest

Declare = Callable[..., DataSet]


@pytest.fixture
def declare(tmp_path: Path) -> Declare:
    return partial(meter.declare, tmp_path)


def test_clean_data_passes_without_a_finding(declare: Declare) -> None:
    checked = check(declare(rows()), AS_OF)
    assert checked.findings == ()
    panel = checked.panel
    assert (panel.data_set, panel.series, panel.columns) == ("meter", ("",), ("load", "wind"))
    assert (panel.start, panel.as_of, panel.n_steps) == (np.datetime64("2024-01-01T00", "us"), AS_OF, HOURS)
    np.testing.assert_array_equal(panel.values, rows().select("load", "wind").to_numpy())
    assert checked.seen.series == ("",)
    assert list(checked.seen.columns) == ["at", "load", "wind", "note"]


def test_nothing_after_as_of_is_seen(declare: Declare) -> None:
    past = check(declare(rows()), AS_OF)
    future = edit(rows(HOURS + 50), slice(HOURS, None), load=float("inf"), wind=-99.0)
    again = check(declare(future), AS_OF)
    assert digest(again.panel) == digest(past.panel)
    assert again.findings == ()


def test_several_series_each_begin_at_their_first_target(declare: Declare) -> None:
    frame = rows(series=("b", "a"))
    frame = edit(frame, slice(HOURS, HOURS + 10), load=None)
    checked = check(declare(frame, series="site"), AS_OF)
    panel = checked.panel
    assert panel.series == ("a", "b")
    assert panel.first_steps.tolist() == [10, 0]
    assert panel.values[panel.row(0, 10), 0] == pytest.approx(11 + np.sin(10 / 4), abs=1e-3)
    assert panel.values[panel.row(1, 0), 0] == 10
    assert checked.findings == ()


def test_a_series_too_short_to_train_on_waits(declare: Declare) -> None:
    """Lookback 12 and horizon 6 before the last 48 hours: 18 steps of history make a series ready."""
    frame = rows(series=("old", "new"))
    declared = declare(without(frame, HOURS, HOURS + 54), series="site")
    checked = check(declared, AS_OF)
    assert checked.panel.series == ("old",)
    assert problems(checked) == [
        "too short to train on: 65 steps, and it takes 66; left out until then (series new, column load)"
    ]
    assert checked.seen.series == ("new", "old")
    assert check(declare(without(frame, HOURS, HOURS + 53), series="site"), AS_OF).panel.series == (
        "new",
        "old",
    )


def test_a_series_without_any_value_waits(declare: Declare) -> None:
    frame = edit(rows(series=("old", "new")), slice(HOURS, None), load=None)
    assert check(declare(frame, series="site"), AS_OF).panel.series == ("old",)


def test_a_target_without_any_value_is_refused(declare: Declare) -> None:
    assert_refused(
        declare(edit(rows(), slice(None), load=None)),
        "No value of the target up to 2024-01-05 23:00+00:00",
        time=None,
        remedy="rows with values",
    )


def test_too_short_is_refused(declare: Declare) -> None:
    assert_refused(
        declare(rows(65)),
        "Too short: 65 steps of h, a night needs 66",
        column=None,
        time="2024-01-01 00:00+00:00",
        remedy="add 1 earlier steps",
        as_of=AS_OF - np.timedelta64(55, "h"),
    )
    assert check(declare(rows(66)), AS_OF - np.timedelta64(54, "h")).panel.n_steps == 66


@pytest.mark.parametrize("content", [b"", b"\n", b"at,load,wind,note\n"])
def test_empty_and_header_only_files_are_refused(declare: Declare, content: bytes) -> None:
    with pytest.raises(DataRefused, match=r"meter.*Remedy"):
        check(declare(content), AS_OF)


def test_a_truncated_file_is_refused(declare: Declare) -> None:
    with pytest.raises(DataRefused, match="truncated"):
        check(declare(rows().write_csv()[:-8]), AS_OF)


def test_a_frequency_that_leaves_most_steps_empty_is_refused_but_of_events(declare: Declare) -> None:
    assert_refused(
        declare(rows(), frequency="15min"),
        "The rows are 4 steps of 15min apart",
        column="at",
        time="2024-01-01 00:00+00:00",
        remedy="did you mean `frequency: h`?",
    )
    events = check(declare(rows(), frequency="15min", aggregate="sum"), AS_OF)
    assert events.panel.n_steps == 4 * (HOURS - 1) + 1


def test_mixed_zones_are_refused_where_some_rows_have_no_offset(declare: Declare) -> None:
    with pytest.raises(DataRefused, match="offset"):
        check(declare(edit(rows(), 5, at="2024-01-01 05:00:00+00:00")), AS_OF)


@pytest.mark.parametrize(
    ("encode", "said"),
    [
        (lambda text: b"\xef\xbb\xbf" + text.encode(), "byte order mark"),
        (lambda text: text.encode("utf-16"), "UTF-16"),
        (lambda text: text.replace(",", ";").encode(), "separator"),
        (lambda text: text.replace(",", ";").replace(".", ",").encode(), "decimal comma"),
    ],
)
def test_files_as_they_come(declare: Declare, encode: Callable[[str], bytes], said: str) -> None:
    checked = check(declare(encode(rows().write_csv())), AS_OF)
    assert digest(checked.panel) == digest(check(declare(rows()), AS_OF).panel)
    assert any(said in text for text in problems(checked))


def test_offsets_of_several_zones_are_one_time_line(declare: Declare) -> None:
    times = [
        (START + timedelta(hours=step)).astimezone(timezone(timedelta(hours=step % 3))).isoformat(sep=" ")
        for step in range(HOURS)
    ]
    checked = check(declare(rows().with_columns(at=pl.Series(times))), AS_OF)
    assert digest(checked.panel) == digest(check(declare(rows()), AS_OF).panel)


@pytest.mark.parametrize(("day", "hours"), [("2024-03-31", 23), ("2024-10-27", 25)])
def test_days_of_23_and_25_hours(declare: Declare, day: str, hours: int) -> None:
    """Local times of Paris without an offset, five days with the change on the fourth."""
    middle = np.datetime64(day)
    utc = np.arange(middle - 3, middle + 2, dtype="datetime64[h]")
    grid = declare(rows(), time_zone="Europe/Paris").grid
    local = grid.local(utc.astype("datetime64[us]"))
    times = pl.Series(local).dt.strftime("%Y-%m-%d %H:%M")
    declared = declare(rows().with_columns(at=times), time_zone="Europe/Paris")
    checked = check(declared, resolve_as_of(declared))
    np.testing.assert_array_equal(checked.panel.times(), utc.astype("datetime64[us]"))
    np.testing.assert_array_equal(checked.panel.values[:, 0], rows()["load"].to_numpy())
    assert int((local.astype("datetime64[D]") == middle).sum()) == hours
    assert [finding.count for finding in checked.findings] == ([2] if hours == 25 else [])


def test_local_days_weeks_and_months_aggregate_to_the_calendar(declare: Declare) -> None:
    """The file ends with a Sunday, the fourth of a February that is left out: it is not whole."""
    frame = rows(24 * 400, start=datetime(2023, 1, 1, tzinfo=UTC))
    space = {"lookback": [2], "segment_length": [1]}
    for frequency, steps, days in (("D", 400, 400), ("W-MON", 58, 400), ("MS", 13, 396)):
        declared = declare(
            frame,
            frequency=frequency,
            aggregate="sum",
            time_zone="Etc/GMT-1",
            seasons=[2],
            gaps={"longest": "4w"},
            retrain={"horizon": 1, "validation": "5w", "judge": "5w", "search_space": space},
        )
        panel = check(declared, resolve_as_of(declared)).panel
        assert panel.n_steps == steps
        local = panel.frequency.local(panel.times())
        assert (local == local.astype("datetime64[D]")).all()
        assert np.nansum(panel.values[:, 0]) == pytest.approx(frame["load"].head(24 * days).sum())


@pytest.mark.parametrize(
    ("frequency", "delay", "now", "as_of"),
    [
        ("h", "0h", "2024-05-15T10:00:00+00:00", "2024-05-15T09:00"),
        ("h", "0h", "2024-05-15T09:59:59+00:00", "2024-05-15T08:00"),
        ("h", "2h", "2024-05-15T10:00:00+00:00", "2024-05-15T07:00"),
        ("h", "0h", "2024-05-15T12:30:00+02:00", "2024-05-15T09:00"),
        ("15min", "5min", "2024-05-15T10:19:00+00:00", "2024-05-15T09:45"),
        ("D", "0h", "2024-05-15T10:00:00+00:00", "2024-05-13T22:00"),
        ("D", "0h", "2024-05-14T22:00:00+00:00", "2024-05-13T22:00"),
        ("D", "1d", "2024-05-15T10:00:00+00:00", "2024-05-12T22:00"),
        ("W-MON", "0h", "2024-05-15T10:00:00+00:00", "2024-05-05T22:00"),
        ("MS", "0h", "2024-05-15T10:00:00+00:00", "2024-03-31T22:00"),
    ],
)
def test_as_of_is_the_last_step_that_ended(
    declare: Declare, frequency: str, delay: str, now: str, as_of: str
) -> None:
    declared = declare(
        rows(),
        frequency=frequency,
        clock="wall",
        publication_delay=delay,
        time_zone="Europe/Paris",
        retrain={"horizon": 1, "validation": "60d", "judge": "60d"},
    )
    assert resolve_as_of(declared, datetime.fromisoformat(now)) == np.datetime64(as_of, "us")


def test_as_of_of_a_file_is_its_newest_step(declare: Declare) -> None:
    assert resolve_as_of(declare(rows())) == AS_OF
    assert resolve_as_of(declare(rows().reverse())) == AS_OF
    assert resolve_as_of(declare(edit(rows(), -1, at="2024-01-05 23:40:00"), aggregate="mean")) == AS_OF


def test_an_aggregated_file_ends_with_its_last_whole_step(declare: Declare) -> None:
    """An export made at 5:10 holds ten minutes of the hour from 5 on: their sum is no hour's."""

    def minutes(count: int) -> DataSet:
        times = [datetime(2024, 1, 1) + timedelta(minutes=minute) for minute in range(count)]  # noqa: DTZ001
        frame = pl.DataFrame({"at": times, "load": 1.0, "wind": 2.0}).with_columns(pl.col("at").cast(str))
        return declare(frame, aggregate="sum")

    assert resolve_as_of(minutes(5 * 60 + 10)) == np.datetime64("2024-01-01T04", "us")
    assert resolve_as_of(minutes(5 * 60)) == np.datetime64("2024-01-01T04", "us")
    assert resolve_as_of(minutes(5 * 60 - 1)) == np.datetime64("2024-01-01T03", "us")


def test_as_of_is_now_by_default(declare: Declare) -> None:
    as_of = resolve_as_of(declare(rows(), clock="wall")).astype("datetime64[us]").item()
    age = datetime.now(UTC).replace(tzinfo=None) - as_of
    assert timedelta(hours=1) <= age < timedelta(hours=2, minutes=1)


def test_now_needs_a_zone(declare: Declare) -> None:
    with pytest.raises(ValueError, match="needs a time zone"):
        resolve_as_of(declare(rows(), clock="wall"), datetime(2024, 1, 1))  # noqa: DTZ001

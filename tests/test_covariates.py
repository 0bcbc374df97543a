"""Future covariates, static features and holidays, from a file to a panel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import meter
import numpy as np
import polars as pl
import pytest
from meter import AS_OF, HOURS, assert_refused, edit, rows

from data import snapshot
from data.catalog import DataSet
from data.contract import check, resolve_as_of
from data.panel import Panel

Declare = Callable[..., DataSet]
HORIZON = 6


@pytest.fixture
def declare(tmp_path: Path) -> Declare:
    return partial(meter.declare, tmp_path, columns={"wind": "future"})


def known_ahead(hours: int = HOURS + HORIZON, series: tuple[str, ...] = ()) -> pl.DataFrame:
    """Rows whose wind is known beyond as-of, where the target is empty."""
    frame = rows(hours, series)
    is_ahead = pl.Series(np.arange(frame.height) % hours >= HOURS)
    return frame.with_columns(load=pl.when(~is_ahead).then("load"))


def with_kinds(frame: pl.DataFrame, **values: dict[str, Any]) -> pl.DataFrame:
    """The frame with a column for each static feature, its values by site."""
    return frame.with_columns(
        pl.col("site").replace_strict(by_site).alias(name) for name, by_site in values.items()
    )


def test_rows_without_a_target_give_what_is_known_ahead(declare: Declare) -> None:
    declared = declare(known_ahead())
    assert resolve_as_of(declared) == AS_OF
    checked = check(declared, AS_OF)
    panel = checked.panel
    assert checked.findings == ()
    assert (panel.columns, panel.future, panel.covariates) == (("load", "wind"), ("wind",), ())
    assert (panel.as_of, panel.n_steps) == (AS_OF, HOURS)
    wind = known_ahead()["wind"].to_numpy()
    np.testing.assert_array_equal(panel.values[:, 1], wind[:HOURS])
    np.testing.assert_array_equal(panel.ahead[0, :, 0], wind[HOURS:])


def test_of_a_past_night_only_future_covariates_are_seen(declare: Declare) -> None:
    """Rows after as-of hold a target and a past covariate by now: neither is read."""
    columns = {"wind": "future", "sun": "past"}
    frame = rows(HOURS + 50).with_columns(sun=pl.col("load") * 2)
    panel = check(declare(frame, columns=columns), AS_OF).panel
    later = edit(frame, slice(HOURS, None), load=float("inf"), sun=-1.0)
    later = edit(later, slice(HOURS + HORIZON, None), wind=float("inf"))
    assert snapshot.digest(check(declare(later, columns=columns), AS_OF).panel) == snapshot.digest(panel)
    changed = edit(frame, HOURS + HORIZON - 1, wind=5.0)
    assert snapshot.digest(check(declare(changed, columns=columns), AS_OF).panel) != snapshot.digest(panel)


def test_finer_rows_are_aggregated_ahead_as_well(declare: Declare) -> None:
    frame = known_ahead()
    halves = pl.concat([frame, frame.with_columns(pl.col("at").str.replace(":00:00", ":30:00"))])
    panel = check(declare(halves, aggregate="mean"), AS_OF).panel
    np.testing.assert_allclose(panel.ahead[0, :, 0], frame["wind"].to_numpy()[HOURS:])


@pytest.mark.parametrize("kind", ["parquet", "sql"])
def test_other_sources_give_the_same(tmp_path: Path, declare: Declare, kind: str) -> None:
    frame = known_ahead()
    panel = check(declare(frame), AS_OF).panel
    if kind == "parquet":
        frame.write_parquet(tmp_path / "meter.parquet")
        source = {"kind": "parquet", "path": "meter.parquet"}
    else:
        url = f"sqlite:///{tmp_path}/meter.db"
        frame.write_database("meter", url)
        source = {"kind": "sql", "url": url, "query": "select * from meter"}
    assert snapshot.digest(check(declare(frame, source=source), AS_OF).panel) == snapshot.digest(panel)


def test_a_future_covariate_missing_in_the_horizon_is_refused(declare: Declare) -> None:
    remedy = "give it in rows of these times, whose target stays empty"
    refused = partial(assert_refused, column="wind", remedy=remedy)
    refused(
        declare(edit(known_ahead(), slice(HOURS + 2, HOURS + 4), wind=None)),
        "no value for 2 of the 6 steps after 2024-01-05 23:00+00:00",
        time="2024-01-06 02:00+00:00",
    )
    refused(declare(rows()), "no value for 6 of the 6 steps", time="2024-01-06 00:00+00:00")
    two = known_ahead(series=("a", "b"))
    refused(
        declare(two[:-1], series="site"),
        "no value for 1 of the 6 steps",
        series="b",
        time="2024-01-06 05:00+00:00",
    )


def test_a_source_that_has_stopped_is_stale_before_it_lacks_what_is_known_ahead(declare: Declare) -> None:
    assert_refused(
        declare(known_ahead(), columns={"wind": "future"}, clock="wall", staleness="1h"),
        "Stale: the newest value is 7 hours older",
        time="2024-01-05 23:00+00:00",
        remedy="find out why the source has stopped",
        as_of=AS_OF + np.timedelta64(7, "h"),
    )


def test_a_future_covariate_missing_in_the_past_is_filled_and_said(declare: Declare) -> None:
    checked = check(declare(edit(known_ahead(), slice(20, 23), wind=None)), AS_OF)
    assert meter.problems(checked) == [
        "steps without a value, filled from the step before; the longest gap is 3 "
        "(column wind, first at 2024-01-01 20:00+00:00, 3 times)"
    ]


def test_static_features_are_numbers_or_categories(declare: Declare) -> None:
    frame = with_kinds(
        known_ahead(series=("a", "b")), size={"a": 120.0, "b": 80.5}, kind={"a": "shop", "b": "kiosk"}
    )
    frame = edit(frame, slice(0, 20), size=None)
    columns = {"wind": "future", "size": "static", "kind": "static"}
    checked = check(declare(frame, series="site", columns=columns), AS_OF)
    assert checked.findings == ()
    assert checked.panel.static == {"size": (120.0, 80.5), "kind": ("shop", "kiosk")}
    assert checked.panel.select(["b", "a"]).static == {"size": (80.5, 120.0), "kind": ("kiosk", "shop")}
    assert checked.panel.select(["b", "a"]).ahead.tolist() == checked.panel.ahead[::-1].tolist()


def test_static_features_that_are_not(declare: Declare) -> None:
    frame = with_kinds(rows(series=("a", "b")), kind={"a": "shop", "b": "kiosk"})
    declared = partial(declare, series="site", columns={"kind": "static"})
    assert_refused(
        declared(edit(frame, -1, kind="shop")),
        "one value a series; here are 'kiosk' and 'shop'",
        series="b",
        column="kind",
        time=None,
        remedy="correct the column",
    )
    assert_refused(
        declared(edit(frame, slice(HOURS, None), kind="NA")),
        "no value",
        series="b",
        column="kind",
        time=None,
        remedy="fill it in one row",
    )


@pytest.mark.parametrize(
    ("written", "problem", "remedy"),
    [
        ("inf", "is no finite number", "correct it in the source"),
        ("-Infinity", "is no finite number", "correct it in the source"),
        ("1e999", "is no finite number", "correct it in the source"),
        ("-nan", "no value", "fill it in one row"),
    ],
)
def test_a_static_number_that_is_none_is_refused(
    declare: Declare, written: str, problem: str, remedy: str
) -> None:
    """An infinite one would turn every weight of the network to NaN; one written as NaN is missing."""
    frame = with_kinds(rows(series=("a", "b")), area={"a": "80.5", "b": written})
    found = declare(frame, series="site", columns={"area": "static"})
    assert_refused(found, problem, series="b", column="area", time=None, remedy=remedy)


def test_too_many_categories(declare: Declare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.static.MOST_CATEGORIES", 2)
    names = ("a", "b", "c")
    frame = with_kinds(rows(series=names), kind={name: name for name in names})
    assert_refused(
        declare(frame, series="site", columns={"kind": "static"}),
        "3 categories; at most 2",
        column="kind",
        time=None,
        remedy="declare the column `ignore`",
    )


def test_what_follows_as_of_is_no_static_feature(declare: Declare) -> None:
    frame = edit(with_kinds(known_ahead(series=("a",)), kind={"a": "shop"}), slice(HOURS, None), kind="new")
    columns = {"wind": "future", "kind": "static"}
    assert check(declare(frame, series="site", columns=columns), AS_OF).panel.static == {"kind": ("shop",)}


def test_no_series_long_enough(declare: Declare) -> None:
    """A series of rows without a target makes the grid no longer."""
    frame = rows(series=("a", "b"))
    frame = edit(frame, slice(0, HOURS - 60), load=None)
    frame = edit(frame, slice(HOURS, 2 * HOURS - 60), load=None)
    frame = pl.concat([frame, rows(1, ("c",))])
    frame = edit(frame, -1, at="2024-01-01 00:00:00", load=None)
    assert_refused(
        declare(frame, series="site", columns={}),
        "Too short",
        series=None,
        column=None,
        time="2024-01-03 12:00+00:00",
        remedy="add 6 earlier steps",
    )


def test_a_snapshot_keeps_all_of_it(declare: Declare, tmp_path: Path) -> None:
    frame = with_kinds(known_ahead(series=("a", "b")), kind={"a": "shop", "b": "kiosk"})
    columns = {"wind": "future", "kind": "static"}
    panel = check(declare(frame, series="site", columns=columns, holidays="FR"), AS_OF).panel
    loaded = snapshot.load(snapshot.save(panel, tmp_path / "snapshots"))
    for name in ("columns", "future", "static", "holidays", "as_of", "n_ahead"):
        assert getattr(loaded, name) == getattr(panel, name), name
    np.testing.assert_array_equal(loaded.values, panel.values)
    np.testing.assert_array_equal(loaded.ahead, panel.ahead)
    digests = {snapshot.digest(each) for each in _variants(panel)}
    assert len(digests) == len(_variants(panel))


def _variants(panel: Panel) -> list[Panel]:
    return [
        panel,
        replace(panel, ahead=panel.ahead + 1),
        replace(panel, ahead=panel.ahead[:, :-1]),
        replace(panel, static={"kind": ("shop", "shop")}),
        replace(panel, static={}),
        replace(panel, holidays="DE"),
        panel.until(panel.n_steps - 1),
    ]

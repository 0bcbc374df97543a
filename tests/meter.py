"""The data set "meter": hourly rows in a CSV file and its catalog entry, for tests of the contract."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from data.catalog import DataSet, parse_data_set
from data.contract import Checked, Seen, check
from data.errors import DataRefused

START = datetime(2024, 1, 1, tzinfo=UTC)
AS_OF = np.datetime64("2024-01-05T23:00", "us")
HOURS = 120
Frame = pl.DataFrame


def rows(hours: int = HOURS, series: tuple[str, ...] = (), start: datetime = START) -> Frame:
    """Hourly rows, local to UTC and without an offset, as a spreadsheet would write them."""
    steps = np.arange(hours)
    times = [(start + timedelta(hours=int(step))).strftime("%Y-%m-%d %H:%M:%S") for step in steps]
    frames = [
        pl.DataFrame(
            {
                "at": times,
                "site": [name] * hours,
                "load": np.round(10 + number + np.sin(steps / 4), 3),
                "wind": np.round(np.cos(steps / 5), 3),
                "note": ["x"] * hours,
            }
        )
        for number, name in enumerate(series or ("",))
    ]
    return pl.concat(frames) if series else pl.concat(frames).drop("site")


def declare(folder: Path, content: Frame | str | bytes, **keys: Any) -> DataSet:
    """The data set "meter" over a CSV file that holds the rows; `keys` change its catalog entry."""
    path = folder / "meter.csv"
    if isinstance(content, pl.DataFrame):
        content = content.write_csv()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    space = {"lookback": [12], "segment_length": [1]}
    retrain = {"horizon": 6, "validation": "24h", "judge": "24h", "search_space": space}
    entry = {
        "source": {"kind": "csv", "path": path.name},
        "time": "at",
        "target": "load",
        "columns": {"wind": "past"},
        "frequency": "h",
        "clock": "data",
        "gaps": {"longest": "5h"},
        **keys,
        "retrain": {**retrain, **keys.get("retrain", {})},
    }
    return parse_data_set(folder / "catalog.yaml", "meter", entry)


def edit(frame: Frame, where: int | slice, **values: Any) -> Frame:
    """The frame with other values in some rows; None leaves a cell empty."""
    chosen = pl.Series(np.isin(np.arange(frame.height), np.arange(frame.height)[where]))
    return frame.with_columns(
        pl.when(chosen).then(pl.lit(value)).otherwise(pl.col(name)).alias(name)
        for name, value in values.items()
    )


def without(frame: Frame, first: int, last: int) -> Frame:
    return pl.concat([frame[:first], frame[last + 1 :]])


def problems(checked: Checked) -> list[str]:
    return [str(finding) for finding in checked.findings]


def assert_refused(
    declared: DataSet,
    problem: str,
    *,
    series: str | None = None,
    column: str | None = "load",
    time: str | None,
    remedy: str,
    previous: Seen | None = None,
    as_of: np.datetime64 = AS_OF,
) -> None:
    with pytest.raises(DataRefused) as refused:
        check(declared, as_of, previous)
    error = refused.value
    assert problem in error.problem
    assert (error.data_set, error.series or None, error.column, error.time) == ("meter", series, column, time)
    assert remedy in error.remedy
    assert all(str(part) in str(error) for part in ("meter", series or "", column or "", time or "", remedy))

"""Snapshots: named by what they hold, whole or not there."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.calendar import Frequency
from data.panel import Panel
from data.snapshot import SnapshotError, digest, load, save

MakePanel = Callable[..., Panel]


def assert_same(one: Panel, other: Panel) -> None:
    for name in ("data_set", "frequency", "target", "covariates", "series", "start"):
        assert getattr(one, name) == getattr(other, name), name
    for name in ("first_steps", "offsets", "values"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype


@pytest.fixture
def panel(make_panel: MakePanel) -> Panel:
    return make_panel(
        steps=60, series=("north", "Süd"), covariates=("wind",), first_steps=(0, 7), missing=0.2
    )


@given(
    values=st.lists(
        st.one_of(st.just(np.nan), st.floats(allow_nan=False, allow_infinity=False)), min_size=3, max_size=40
    ),
    first=st.integers(0, 2),
    name=st.text(string.printable + "äé€", min_size=1, max_size=8),
    frequency=st.sampled_from(["15min", "h", "D", "W-MON", "MS"]),
)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_loaded_is_what_was_saved(
    make_panel: MakePanel,
    tmp_path: Path,
    values: list[float],
    first: int,
    name: str,
    frequency: str,
) -> None:
    grid = Frequency(frequency, "Europe/Paris")
    made = make_panel(steps=len(values), series=("", name), first_steps=(0, first))
    start = grid.floor(np.array([made.start]))[0]
    column = np.array(values + values[first:])[:, None]
    made = replace(made, values=column, frequency=grid, start=start)
    path = save(made, tmp_path)
    assert path.name == f"{digest(made)}.parquet"
    assert_same(load(path), made)


def test_each_part_of_a_panel_is_part_of_the_digest(panel: Panel) -> None:
    values, unobserved, zero = panel.values.copy(), panel.values.copy(), panel.values.copy()
    values[5, 0] += 1e-12
    unobserved[np.flatnonzero(panel.observed[:, 0])[0], 0] = np.nan
    zero[np.flatnonzero(~panel.observed[:, 0])[0], 0] = 0.0
    others = [
        replace(panel, data_set="other"),
        replace(panel, frequency=Frequency("30min")),
        replace(panel, frequency=Frequency("h", "Europe/Paris")),
        replace(panel, target="price"),
        replace(panel, covariates=("sun",)),
        replace(panel, series=("north", "south")),
        replace(panel, series=("Süd", "north")),
        replace(panel, start=panel.start + np.timedelta64(1, "h")),
        replace(panel, first_steps=np.array([1, 8])),
        replace(panel, values=np.where(panel.observed, values, np.nan)),
        replace(panel, values=unobserved),
        replace(panel, values=zero),
    ]
    digests = {digest(panel), *(digest(other) for other in others)}
    assert len(digests) == len(others) + 1
    assert all(re.fullmatch("[0-9a-f]{64}", text) for text in digests)


def test_the_digest_is_of_the_data_alone(panel: Panel, make_panel: MakePanel) -> None:
    another_nan = panel.values.copy()
    another_nan[np.isnan(another_nan)] = -np.float64("nan")
    assert digest(replace(panel, values=another_nan)) == digest(panel)
    assert digest(replace(panel, values=np.asfortranarray(panel.values))) == digest(panel)
    zeros = make_panel(steps=3, noise=0)
    plus, minus = np.zeros((3, 1)), np.full((3, 1), -0.0)
    assert digest(replace(zeros, values=plus)) == digest(replace(zeros, values=minus))


def test_the_digest_never_moves(make_panel: MakePanel) -> None:
    """Stored names must stay true: a change here means another format number."""
    panel = replace(make_panel(steps=4), values=np.array([[1.0], [np.nan], [-2.5], [0.0]]))
    assert digest(panel) == "a6e31d24c65d2b359102e6d01a822a4c9df22b14f1feba32952b8d46849783a2"


def test_saving_again_changes_nothing(panel: Panel, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "snapshots"
    path = save(panel, folder)
    before = path.stat()
    assert save(panel, folder) == path
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino
    assert [p.name for p in folder.iterdir()] == [path.name]


def test_a_snapshot_is_a_table_that_others_can_read(panel: Panel, tmp_path: Path) -> None:
    frame = pl.read_parquet(save(panel, tmp_path))
    assert frame.columns == ["series", "time", "load", "wind"]
    assert frame.height == len(panel.values)
    assert frame["series"].unique(maintain_order=True).to_list() == ["north", "Süd"]
    assert frame["time"].dtype == pl.Datetime("us", "UTC")
    late = frame.filter(series="Süd")["time"].dt.replace_time_zone(None).to_numpy()
    np.testing.assert_array_equal(late, panel.times()[7:])
    assert frame["wind"].null_count() == int((~panel.observed[:, 1]).sum()) > 0


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_a_damaged_snapshot_is_refused_and_written_again(panel: Panel, tmp_path: Path, damage: str) -> None:
    path = save(panel, tmp_path)
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[:-50], "garbage": b"x" * 500, "empty": b""}[damage])
    with pytest.raises(SnapshotError, match=r"not a readable snapshot.*Remedy"):
        load(path)
    save(panel, tmp_path)
    assert_same(load(path), panel)


def test_a_missing_snapshot_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match=r"nowhere\.parquet: not a readable snapshot"):
        load(tmp_path / "nowhere.parquet")


def test_another_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    pl.DataFrame({"load": [1.0]}).write_parquet(path)
    with pytest.raises(SnapshotError, match="not a readable snapshot"):
        load(path)


def test_other_data_under_the_same_name_is_refused(panel: Panel, tmp_path: Path) -> None:
    path = save(panel, tmp_path)
    changed = save(replace(panel, values=panel.values + 1), tmp_path)
    path.write_bytes(changed.read_bytes())
    with pytest.raises(SnapshotError, match=f"holds other data than its name says .{changed.stem}"):
        load(path)


def test_another_format_is_refused(panel: Panel, tmp_path: Path) -> None:
    path = save(panel, tmp_path)
    header = pl.read_parquet_metadata(path)["nightcast"].replace('"format": 2', '"format": 99')
    pl.read_parquet(path).write_parquet(path, metadata={"nightcast": header})
    with pytest.raises(SnapshotError, match="snapshot format 99, this version reads 2"):
        load(path)

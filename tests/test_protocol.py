"""The published protocol: splits, windows, columns, gaps, and errors on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from cases import ENTRY, MakePanel, make_case, write, write_series
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import accuracy, standing
from benchmarks.protocol import Case, every_window, interpolated, read_case, split_of, split_rows, unfolded
from data.errors import DataRefused
from data.splits import Span
from lstm.windows import targets, windows


@pytest.fixture
def case(make_panel: MakePanel) -> Case:
    return make_case(make_panel)


def test_splits_are_the_published_ones() -> None:
    def lengths(steps: int, kind: Any) -> list[int]:
        splits = split_rows("made", steps, kind)
        return [len(span) for span in (splits.train, splits.validation, splits.judge)]

    assert lengths(17_420, "ETTh") == [8_640, 2_880, 2_880]
    assert lengths(69_680, "ETTm") == [34_560, 11_520, 11_520]
    assert lengths(26_304, "70/10/20") == [18_412, 2_632, 5_260]
    kinds = [split_of(stem) for stem in ("ETTh1", "etth2", "ETTm1", "weather")]
    assert kinds == ["ETTh", "ETTh", "ETTm", "70/10/20"]
    with pytest.raises(DataRefused, match=r"Too short: 300 steps.*--split 70/10/20"):
        split_rows("made", 300, "ETTh")


@given(st.integers(10, 100_000))
def test_the_parts_of_a_split_follow_each_other_and_use_every_row(steps: int) -> None:
    splits = split_rows("made", steps, "70/10/20")
    assert splits.train.first == 0
    assert splits.validation.first == splits.train.last + 1
    assert splits.judge.first == splits.validation.last + 1
    assert splits.judge.last == steps - 1


def test_windows_are_as_many_as_published(make_panel: MakePanel) -> None:
    panel, splits = make_panel(steps=14_400), split_rows("made", 14_400, "ETTh")
    found = [every_window(panel, splits.judge, horizon) for horizon in (96, 192, 336, 720)]
    assert [len(each) for each in found] == [2_785, 2_689, 2_545, 2_161]
    for lookback in (96, 720):
        ours = windows(panel, splits.judge, lookback, 96)
        assert np.array_equal(ours.origins, found[0].origins)


def test_no_window_is_dropped_for_its_lookback_and_none_without_a_target_is_scored(
    make_panel: MakePanel,
) -> None:
    panel = make_panel(steps=200, series=("a", "b"))
    values = panel.values.copy()
    values[100:120, 0] = np.nan
    panel = replace(panel, values=values)
    chosen = every_window(panel, Span(100, 199), 10)
    # Eleven horizons of series a lie within its gap.
    assert np.bincount(chosen.series).tolist() == [91 - 11, 91]
    assert not np.isnan(targets(panel, chosen, 10)).all(axis=1).any()


def test_a_series_that_starts_late_is_read_and_scored_on_rows_of_its_own(tmp_path: Path) -> None:
    case = read_case(write_series(tmp_path / "made.csv", 400, early=0, late=150), "load")
    panel = case.panel
    assert panel.first_steps.tolist() == [0, 0]
    late = panel.values[panel.rows(1), 0]
    assert np.isnan(late[:150]).all()
    assert not np.isnan(late[150:]).any()
    chosen = every_window(panel, case.splits.judge, 24)
    # One level above the other by a thousand: the rows of another series would show.
    levels = np.round(targets(panel, chosen, 24) / 1000)
    assert np.array_equal(levels, np.broadcast_to(chosen.series[:, np.newaxis], levels.shape))


def test_no_window_begins_before_its_series(make_panel: MakePanel) -> None:
    panel = make_panel(steps=100, series=("a", "b"), first_steps=(0, 90))
    chosen = every_window(panel, Span(60, 99), 5)
    assert np.bincount(chosen.series).tolist() == [36, 5]
    assert (chosen.origins >= panel.offsets[chosen.series]).all()
    assert np.array_equal(
        chosen.steps, (chosen.origins - panel.offsets[chosen.series]) + panel.first_steps[chosen.series]
    )


def test_a_series_without_a_train_row_is_refused(tmp_path: Path) -> None:
    path = write_series(tmp_path / "made.csv", 400, early=0, late=300)
    with pytest.raises(DataRefused, match=r"late: Nothing observed in train.*Remedy: leave it out"):
        read_case(path, "load").check(24, 48)


def test_a_target_that_ends_before_another_column_loses_no_row(tmp_path: Path) -> None:
    path = write(tmp_path / "made.csv")
    frame = pl.read_csv(path).with_columns(
        HUFL=pl.when(pl.int_range(pl.len()) < 270).then(pl.col("HUFL")).otherwise(None)
    )
    frame.write_csv(path)
    panel = read_case(path).panel
    assert (panel.series, panel.future, panel.n_steps) == (("HUFL", "OT"), (), 300)
    assert np.isnan(panel.values[270:300, 0]).all()
    assert panel.values[300:, 0] == pytest.approx(frame["OT"].to_numpy())


def test_a_series_of_its_own_knows_nothing_ahead(make_panel: MakePanel) -> None:
    panel = replace(
        make_panel(steps=50, covariates=("other",)),
        covariates=(),
        future=("other",),
        ahead=np.zeros((1, 5, 1)),
    )
    series = unfolded(panel)
    assert (series.series, series.future, series.ahead.size) == (("load", "other"), (), 0)


def test_with_a_target_the_other_columns_keep_their_roles(tmp_path: Path) -> None:
    path = write_series(tmp_path / "made.csv", 300, a=0, b=0, c=0)
    frame = pl.read_csv(path).with_columns(
        kind=pl.when(pl.col("meter") == "a").then(pl.lit("flat")).otherwise(pl.lit("house")),
        size=pl.col("meter").replace_strict({"a": 10.0, "b": 20.0, "c": 30.0}),
        noise=pl.int_range(pl.len()) % 17,
        warmth=pl.int_range(pl.len()) % 24,
    )
    ends = pl.col("time").rank("dense").over("meter") <= 270
    frame = frame.with_columns(pl.when(ends).then(pl.col("load", "noise")).otherwise(None))
    frame.write_csv(path)
    case = read_case(path, "load")
    panel = case.panel
    assert (panel.target, panel.covariates, panel.future) == ("load", ("noise",), ("warmth",))
    assert "warmth known ahead" in accuracy._title(case)
    assert case.data_set(6, (24,), {}).static == ("size", "kind")
    assert panel.static == {"kind": ("flat", "house", "house"), "size": (10.0, 20.0, 30.0)}
    # What was guessed to be the target is a covariate like another.
    panel = read_case(path, "noise").panel
    assert (panel.target, panel.covariates, panel.future) == ("noise", ("load",), ("warmth",))
    # Nothing reaches beyond this one, so nothing is known ahead of it.
    panel = read_case(path, "warmth").panel
    assert (panel.covariates, panel.future) == (("load", "noise"), ())


def test_columns_become_series_and_gaps_straight_lines(make_panel: MakePanel) -> None:
    panel = make_panel(steps=50, covariates=("other", "third"))
    series = unfolded(panel)
    assert series.series == ("load", "other", "third")
    for number in range(3):
        assert np.array_equal(series.values[series.rows(number), 0], panel.values[:, number])
    holed = panel.values.copy()
    holed[10:13, 1] = np.nan
    filled = interpolated(replace(panel, values=holed), 40).values
    assert filled[10:13, 1] == pytest.approx(np.linspace(holed[9, 1], holed[13, 1], 5)[1:-1])
    assert np.array_equal(filled[:, 0], panel.values[:, 0])


def test_a_gap_into_the_test_part_shows_nothing_of_it_before(make_panel: MakePanel) -> None:
    panel = make_panel(steps=50, series=("a", "b"), first_steps=(0, 10))
    values = panel.values.copy()
    for number in range(2):
        values[panel.rows(number)][38 - panel.first_steps[number] : 45 - panel.first_steps[number]] = np.nan
    holed = replace(panel, values=values)
    filled = interpolated(holed, 40)
    for number, first in enumerate(panel.first_steps):
        own, before = filled.values[filled.rows(number), 0], values[panel.rows(number), 0]
        newest, next_one = before[37 - first], before[45 - first]
        # What was seen ends with its newest value; the test part has the published line.
        assert own[38 - first : 41 - first] == pytest.approx([newest] * 3)
        assert own[41 - first : 45 - first] == pytest.approx(np.linspace(newest, next_one, 9)[4:8])
    values[-5:] += 100
    values[panel.offsets[1] - 5 : panel.offsets[1]] += 100
    other = interpolated(replace(panel, values=values), 40).until(40)
    assert np.array_equal(other.values, filled.until(40).values)


def test_errors_are_means_over_all_windows_whatever_the_pieces(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = every_window(case.panel, case.splits.judge, 6)
    y = case.scaler.scale_target(targets(case.panel, chosen, 6), chosen.series)
    zero = standing.errors(case, 6, (0.5,), lambda piece: np.zeros((len(piece), 6, 1)))
    squared, absolute = (y**2).mean(), np.abs(y).mean()
    wanted = {"mse": squared, "mse_of_median": squared, "mae": absolute, "pinball": absolute / 2}
    assert zero == pytest.approx(wanted)
    # Squared errors are those of the mean that the quantiles make; .75 stands for the levels above .625.
    skewed = np.array([0.0, 0.0, 4.0])
    found = standing.errors(case, 6, (0.25, 0.5, 0.75), lambda piece: np.tile(skewed, (len(piece), 6, 1)))
    mean = 0.375 * 4
    assert (found["mse"], found["mse_of_median"]) == pytest.approx((((y - mean) ** 2).mean(), squared))
    whole = standing.naive(case, 6)
    monkeypatch.setattr(standing, "_MOST_NUMBERS", 40)
    assert standing.naive(case, 6) == pytest.approx(whole)


def test_ridge_with_its_residuals_is_calibrated_where_the_noise_stays(make_panel: MakePanel) -> None:
    panel = make_panel(steps=3000, noise=0.5)
    case = Case("made", panel, split_rows("made", 3000, "70/10/20"), 24, ENTRY)
    rows = standing.ridge(case, 6, 48, (0.1, 0.5, 0.9))
    assert set(rows) == {"ridge", "ridge, residual quantiles"}
    assert rows["ridge, residual quantiles"]["mae"] == pytest.approx(rows["ridge"]["mae"], rel=0.05)
    assert rows["ridge"]["mse"] < standing.naive(case, 6)["mse"]
    # Of a standard normal error, the mean of pinball over these levels is .276 standard deviations.
    deviation = rows["ridge"]["mse"] ** 0.5
    assert rows["ridge, residual quantiles"]["pinball"] == pytest.approx(0.250 * deviation, rel=0.1)

"""Collections of short series: their measures, and the command on them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from cases import PLAN, campaign
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import accuracy, m4
from benchmarks.protocol import every_window
from data.errors import DataRefused
from lstm.windows import targets


def test_smape_and_naive2_by_hand() -> None:
    assert m4.smape(np.array([[100.0, 0.0]]), np.array([[50.0, 0.0]])) == pytest.approx(200 * 50 / 150 / 2)
    # Level 10 times 0.5 and 1.5 in turn: the moving average is 10 wherever it is whole.
    wave = np.tile([5.0, 15.0], 20)
    assert m4.seasonal_indices(wave, 2) == pytest.approx([0.5, 1.5])
    assert m4.is_seasonal(wave, 2)
    # The last value, 15, is 10 without its season.
    assert m4.naive2(wave, 2, 3) == pytest.approx([5, 15, 5])
    assert m4.naive2(wave[:-1], 2, 3) == pytest.approx([15, 5, 15])
    assert m4.seasonal_indices(np.tile([1.0, 2.0, 3.0], 9), 3) == pytest.approx([0.5, 1.0, 1.5])
    # Not seasonal: fewer than three seasons, a constant, no season at all.
    for values, season in ((wave[:5], 2), (np.ones(40), 2), (wave, 1)):
        assert not m4.is_seasonal(values, season)
        assert m4.naive2(values, season, 2) == pytest.approx([values[-1]] * 2)


@given(st.lists(st.floats(1, 100), min_size=12, max_size=40), st.floats(0.1, 10))
def test_naive2_scales_with_the_series(values: list[float], factor: float) -> None:
    series = np.array(values)
    assert m4.naive2(series * factor, 4, 6) == pytest.approx(factor * m4.naive2(series, 4, 6))


def collection(folder: Path, lengths: tuple[int, ...] = (40, 60, 72), horizon: int = 6) -> tuple[Path, Path]:
    train, test, generator = ['"V1","V2"'], ['"V1","V2"'], np.random.default_rng(0)
    width = max(lengths)
    for number, length in enumerate(lengths):
        wave = 50 + 20 * np.sin(np.arange(length + horizon) / 12 * 2 * np.pi + number)
        values = [f"{value:.2f}" for value in wave + generator.standard_normal(length + horizon)]
        train.append(",".join([f'"M{number}"', *values[:length], *[""] * (width - length)]))
        test.append(",".join([f'"M{number}"', *values[length:]]))
    for rows, count in ((train, width), (test, horizon)):
        rows[0] = ",".join(f'"V{column}"' for column in range(1, count + 2))
    paths = folder / "made-train.csv", folder / "made-test.csv"
    for path, rows in zip(paths, (train, test), strict=True):
        path.write_text("\n".join(rows) + "\n")
    return paths


def test_a_collection_is_aligned_at_its_ends(tmp_path: Path) -> None:
    case = m4.read_m4(*collection(tmp_path), 12)
    assert case.panel.series == ("M0", "M1", "M2")
    assert len(case.splits.judge) == len(case.splits.validation) == 6
    chosen = every_window(case.panel, case.splits.judge, 6)
    assert chosen.series.tolist() == [0, 1, 2]
    last = pl.read_csv(tmp_path / "made-test.csv")[:, 1:].to_numpy()
    assert targets(case.panel, chosen, 6) == pytest.approx(last)
    assert case.seen.n_steps == case.panel.n_steps - 6


@pytest.mark.parametrize("season", [4, 12, 24])
def test_a_collection_has_no_times_so_its_calendar_says_nothing(tmp_path: Path, season: int) -> None:
    case = m4.read_m4(*collection(tmp_path, (400, 420, 440)), season, (12,))
    assert case.scaler.cycles == ()
    task = campaign(case, tmp_path, replace(PLAN, horizons=(6,), lookbacks=(12,)))._tasks[6]
    for scaled in (case.scaler.scale(case.panel, 6), task.scaled):
        assert not scaled.calendar.time_UF.any()
        assert not scaled.calendar.day_DF.any()


def test_m4s_measures_are_relative_to_naive2(tmp_path: Path) -> None:
    case = m4.read_m4(*collection(tmp_path), 12)
    rows = m4.baselines(case, 6)
    assert rows["Naive2"]["owa"] == pytest.approx(1)
    perfect = m4.measures(case, 6, targets(case.panel, every_window(case.panel, case.splits.judge, 6), 6))
    assert perfect == {"smape": 0, "mase": 0, "owa": 0}
    past = pl.read_csv(tmp_path / "made-train.csv").to_numpy()[:, 1:].astype(float)
    future = pl.read_csv(tmp_path / "made-test.csv").to_numpy()[:, 1:].astype(float)
    each = []
    for before, after in zip(past, future, strict=True):
        seen = before[~np.isnan(before)]
        scale = np.abs(seen[12:] - seen[:-12]).mean()
        each.append(np.abs(after - seen[-12:][:6]).mean() / scale)
    assert rows["seasonal naive"]["mase"] == pytest.approx(np.mean(each))


def test_a_collection_is_measured_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = collection(tmp_path)
    options = f"--m4 {train} {test} --season 12 --seeds 1 --no-search --epochs 1 --processes 1"
    out = tmp_path / "out.json"
    accuracy.measure([*options.split(), "--work", str(tmp_path / "work"), "--json", str(out)])
    printed = capsys.readouterr().out
    assert "smape / mase / owa" in printed
    assert "Naive2" in printed
    assert set(json.loads(out.read_text())["horizons"]["6"]) == {"smape", "mase", "owa"}


def test_files_of_two_collections_are_refused(tmp_path: Path) -> None:
    train, test = collection(tmp_path)
    test.write_text(test.read_text().replace("M1", "X1"))
    with pytest.raises(DataRefused, match=r"X1: .*lacks the series.*one collection"):
        m4.read_m4(train, test, 12)
    test.write_text("id,V1\nM0,a\n")
    with pytest.raises(DataRefused, match="cannot be read as a collection"):
        m4.read_m4(train, test, 12)

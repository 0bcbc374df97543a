"""The command that measures accuracy: what it prints and writes, refuses, and goes on with after a kill."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from cases import PLAN, MakePanel, campaign, make_case, write
from forked import Fork

from benchmarks import accuracy
from benchmarks.protocol import Case
from benchmarks.published import PublishedError, read_published
from data.errors import CatalogError, DataRefused, NightcastError

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "import nursery; main = nursery.begin_accuracy(); main()"


@pytest.fixture
def case(make_panel: MakePanel) -> Case:
    return make_case(make_panel)


OPTIONS = ["--horizons", "6", "12", "--lookback", "24", "--seeds", "2", "--trials", "2"]
OPTIONS += ["--epochs", "1"]


def test_the_json_has_a_value_a_seed_the_configuration_and_the_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "made.csv")
    out, work = tmp_path / "out.json", tmp_path / "work"
    options = [str(path), *OPTIONS, "--processes", "1", "--work", str(work), "--json", str(out)]
    monkeypatch.setenv("COLUMNS", "30")
    accuracy.measure(options)
    found = json.loads(out.read_text())
    assert set(found) == {"horizons", "config", "seconds"}
    assert list(found["horizons"]) == ["6", "12"]
    for scores in found["horizons"].values():
        assert all(len(scores[metric]) == 2 for metric in ("mse", "mae"))
    assert found["config"]["recipes"]["12"][0]["model"]["horizon"] == 12
    assert found["seconds"] > 0
    printed = capsys.readouterr().out
    assert "Nightcast, searched" in printed
    assert "seasonal naive" in printed
    # On a terminal of any width: no number is cut.
    assert "…" not in printed
    assert re.search(r"Nightcast, searched +│ +24 │ +\d?\.\d{3} / \d?\.\d{3} │", printed)
    accuracy.measure(options)
    assert capsys.readouterr().out == printed
    assert json.loads(out.read_text()) == found


def test_a_target_is_forecast_from_all_columns_beside_ridge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "made.parquet"
    pl.read_csv(write(tmp_path / "made.csv", 2_000), try_parse_dates=True).write_parquet(path)
    options = f"{path} --target OT --horizons 6 --lookback 24 --seeds 1 --no-search --epochs 1 --processes 1"
    accuracy.measure(
        [*options.split(), "--work", str(tmp_path / "work"), "--json", str(tmp_path / "out.json")]
    )
    printed = capsys.readouterr().out
    assert "mse / mae / pinball" in printed
    assert "ridge, residual quantiles" in printed
    found = json.loads((tmp_path / "out.json").read_text())
    assert set(found["horizons"]["6"]) == {"mse", "mse_of_median", "mae", "pinball"}
    assert found["config"]["recipes"]["6"][0]["model"]["columns"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["absent.csv"], "There is no file"),
        (["dateless.csv"], "No column holds times.*Remedy"),
        (["made.csv", "--horizons", "96"], "leave 30 to validation; horizon 96.*smaller --horizons"),
        (["made.csv", "--horizons", "12", "--lookback", "300"], "leave 210 to train.*--lookback"),
        (["made.csv", "--target", "OTT"], "column OTT: There is no such.*HUFL, OT.*did you mean 'OT'"),
        (["made.csv", "--split", "ETTh"], "needs 14400.*--split 70/10/20"),
        (["made.csv", "--horizons", "6", "--published", "absent.yaml"], "absent.yaml.*--published"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_a_remedy(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "made.csv")
    (tmp_path / "dateless.csv").write_text("a,b\n1,2\n3,4\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NightcastError, match=message):
        accuracy.measure([*options, "--processes", "1"])
    assert not (tmp_path / ".nightcast").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--m4 a.csv b.csv --losses two", "--losses two.*M4's measures have no squared error"),
        ("made.csv --minutes 0", "--minutes: 0 is not above 0"),
        ("made.csv --minutes nan", "--minutes: nan is not above 0"),
        ("made.csv --minutes inf", "--minutes: inf"),
        ("made.csv --seeds 0", "--seeds: 0 is below 1"),
    ],
)
def test_options_that_cannot_be_are_refused_before_any_work(
    options: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(tmp_path / "made.csv")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        accuracy.measure([*options.split(), "--processes", "1"])
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / ".nightcast").exists()


def test_a_test_part_without_a_target_is_refused_before_any_work(case: Case, tmp_path: Path) -> None:
    values = case.panel.values.copy()
    for number in range(len(case.panel.series)):
        values[case.panel.rows(number)][case.splits.judge.first :] = np.nan
    empty = replace(case, panel=replace(case.panel, values=values))
    with pytest.raises(DataRefused, match=r"Nothing observed in test"):
        campaign(empty, tmp_path)
    assert not list(tmp_path.iterdir())


def test_ridge_reads_what_train_holds_or_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "made.csv", 200)
    options = "--target OT --horizons 6 --lookback 24 --seeds 1 --no-search --epochs 1 --processes 1"
    accuracy.measure([str(path), *options.split(), "--work", str(tmp_path / "work")])
    # Of 140 train steps, all but the horizon.
    assert re.search(r"ridge +│ +134 ", capsys.readouterr().out)
    # Eight hours a day make windows of four steps, but none of a week.
    frame = pl.read_csv(write(path, 300)).with_row_index()
    is_day = (pl.col("index") % 24 < 8) | (pl.col("index") > 200)
    frame.with_columns(pl.when(is_day).then("OT").otherwise(None)).drop("index").write_csv(path)
    options = options.replace("--lookback 24", "--lookback 4")
    accuracy.measure([str(path), *options.split(), "--work", str(tmp_path / "work")])
    assert re.search(r"ridge, no train window +│ +168 │ +- / - / - ", capsys.readouterr().out)


def test_a_catalog_could_not_hold_it_either(case: Case, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="max_epochs"):
        campaign(case, tmp_path, replace(PLAN, retrain={"max_epochs": 0}))


def test_published_numbers_are_read_by_the_files_name(tmp_path: Path) -> None:
    rows = read_published(ROOT / "benchmarks" / "published.yaml", "etth1")
    assert {row.model for row in rows} >= {"PatchTST/64", "iTransformer", "DLinear", "SegRNN (GRU)"}
    assert all(set(row.scores) == {96, 192, 336, 720} for row in rows)
    assert read_published(ROOT / "benchmarks" / "published.yaml", "other") == []
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("a:\n  - model: b\n")
    with pytest.raises(PublishedError, match=r"wrong.yaml.*published.yaml"):
        read_published(wrong, "a")


@pytest.mark.slow
def test_two_processes_killed_go_on_to_the_same_table(tmp_path: Path) -> None:
    path, work = write(tmp_path / "made.csv"), tmp_path / "work"
    arguments = [str(path), *OPTIONS, "--work", str(work), "--json", str(tmp_path / "out.json")]

    def start() -> Fork:
        return Fork(COMMAND, *arguments, environment={**os.environ, "OMP_NUM_THREADS": "1"}, folder=ROOT)

    first = start()
    deadline = time.monotonic() + 120
    while not list(work.glob("*/scores-*/*.json")) and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    early = {file.name: file.read_bytes() for file in work.glob("*/scores-*/horizon-*.json")}
    assert early
    assert start().wait() == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert [len(scores["mse"]) for scores in found["horizons"].values()] == [2, 2]
    for name, content in early.items():
        assert next(work.glob(f"*/scores-*/{name}")).read_bytes() == content

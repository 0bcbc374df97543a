"""The benchmarks' own arithmetic: what is counted, compared, tabulated and kept."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks import machine, picture, precision, results, scale, search, sweep, traffic
from benchmarks.__main__ import main
from benchmarks.arithmetic import lstm_training
from benchmarks.contender import Contender, PeerFailed, Process
from benchmarks.peers import seed_nightcast, sweep_cells
from benchmarks.race import Run, close, fastest, race, rotated
from benchmarks.scale import Case
from lstm.kernels import library, native, persistent
from lstm.training.fit import Fit

PEERS = sorted((Path(__file__).parent.parent / "benchmarks" / "peers").glob("*.txt"))


def test_the_seed_is_61_gflop() -> None:
    assert lstm_training(1_000, 1_000, inputs=1, hidden_size=50) == 60_800_000_000


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50), st.integers(1, 50))
def test_arithmetic_is_that_of_the_matrix_products(
    sequences: int, steps: int, inputs: int, size: int
) -> None:
    def product(rows: int, inner: int, columns: int) -> int:
        return 2 * rows * inner * columns

    forward = product(1, inputs, 4 * size) + product(1, size, 4 * size)
    weights = product(4 * size, 1, inputs) + product(4 * size, 1, size)
    state = product(1, 4 * size, size)
    assert lstm_training(sequences, steps, inputs, size) == sequences * steps * (forward + weights + state)


def test_traffic_is_what_operations_read_and_write() -> None:
    a, b, bias = torch.randn(2, 3, 5), torch.randn(2, 5, 7), torch.randn(7)
    counted = []
    for work in (
        lambda: torch.bmm(a, b),
        lambda: torch.bmm(a, b[:1].expand(2, 5, 7)),
        lambda: torch.baddbmm(bias, a, b),
        lambda: a.to(torch.bfloat16).view(6, 5).relu_(),
        lambda: torch.index_select(a, 1, torch.tensor([0, 2])),
        lambda: a.transpose(1, 2)[0].unsqueeze(0),
    ):
        with traffic.Traffic() as seen:
            work()
        counted.append((seen.moved, seen.operations))
    read, written = 4 * (30 + 70), 4 * 42
    assert counted == [
        (read + written, 1),
        (read - 4 * 35 + written, 1),
        (read + 4 * 7 + 3 * written, 1),
        (30 * (4 + 2) + 30 * (2 + 2), 2),
        (2 * 4 * 20, 1),
        (0, 0),
    ]


def test_what_counts_as_one_operation_is_counted_once_and_nothing_outside() -> None:
    a = torch.randn(4)
    with traffic.Traffic() as seen:
        with seen.as_one(100):
            _ = a + a
        _ = a * 2
    seen.add(7)
    assert (seen.moved, seen.operations) == (100 + 2 * 16, 2)


@given(st.lists(st.integers(), min_size=1, max_size=9, unique=True), st.integers(0, 30))
def test_every_round_has_every_variant_once(items: list[int], by: int) -> None:
    turned = list(rotated(items, by))
    assert sorted(turned) == sorted(items)
    assert turned[0] == items[by % len(items)]


def test_only_variants_close_to_their_contenders_best_go_on() -> None:
    names = ["a", "a", "a", "b"]
    assert close(names, [[1.0, 2.0], [1.1, 1.2], [1.2, 1.3], [9.0, 8.0]]) == [0, 1, 3]


def run(name: str, threads: int, *seconds: float) -> Run:
    return Run(name, threads, {}, 9.0, seconds, {"torch": "0"})


def test_the_best_variant_is_the_one_of_the_least_median_that_ran_every_round() -> None:
    runs = [run("a", 1, 3, 1, 5), run("a", 2, 2, 2, 9), run("a", 4, 0.1), run("b", 1, 7, 7, 7)]
    assert [(best.name, best.threads, best.median) for best in fastest(runs)] == [("a", 2, 2), ("b", 1, 7)]


def test_a_race_is_kept_as_json_with_machine_versions_and_every_repeat(tmp_path: Path) -> None:
    runs = [run("Nightcast", 2, 1, 2, 4), run("b", 1, 8, 8, 8)]
    result = results.raced("seed", "a title", runs, "windows/s", lambda seconds: 8 / seconds, {"windows": 8})
    assert result.rows == (("Nightcast", 2, 9.0, 4.0, 2.0, 8.0, 1.0), ("b", 1, 9.0, 1.0, 1.0, 1.0, 4.0))
    path = tmp_path / "results.json"
    results.keep(path, result, machine.describe())
    results.keep(path, results.Result("other", "", ("",), (), (), {}), {})
    kept = json.loads(path.read_text())
    assert set(kept) == {"seed", "other"}
    assert {"cpu", "cores", "memory_gib", "system", "versions", "load"} <= set(kept["seed"]["machine"])
    first: dict[str, Any] = kept["seed"]["details"]["runs"][0]
    assert (first["median"], first["seconds"], first["threads"]) == (2, [1, 2, 4], 2)
    picture.draw(kept["seed"], tmp_path / "seed.png")
    assert (tmp_path / "seed.png").read_bytes().startswith(b"\x89PNG")


def test_no_number_of_a_table_is_cut_on_a_narrow_terminal() -> None:
    result = results.raced("seed", "a title", [run("Nightcast", 2, 1, 2, 4)], "seconds", float, {})
    console = Console(width=30, file=io.StringIO())
    results.show(console, result.table())
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert "…" not in printed
    assert all(results.text(cell) in printed for cell in result.rows[0])


def test_our_seed_has_its_threads_for_the_kernel_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's would spin on the cores that the kernel needs, unless they are the same."""
    np.save(tmp_path / "x.npy", np.zeros((4, 3, 1), dtype=np.float32))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    seed_nightcast.prepare(
        {"data": str(tmp_path / "x.npy"), "hidden_size": 2, "batch_size": 2, "device": "cpu"}
    )()
    assert (torch.get_num_threads(), native.threads()) == (2 if library.shares_threads() else 1, 2)


def test_numbers_have_three_digits() -> None:
    assert [results.text(cell) for cell in ("a", 1_234, 1_234.5, 12.345, 0.012345)] == [
        "a",
        "1,234",
        "1,234",
        "12.3",
        "0.0123",
    ]


def test_auto_loses_where_it_chooses_the_slower_kernel() -> None:
    cell = {"torch": 1.0, "native": 1.2, "mode": "training", "hidden_size": 16, "layers": 1, "batch": 16}
    cell |= {"module": "LSTM", "steps": 24, "threads": 1}
    wrong, right = {**cell, "auto": "native"}, {**cell, "auto": "torch"}
    assert (sweep.loss(wrong, "native"), sweep.loss(right, "native")) == (pytest.approx(1.2), 1.0)
    assert sweep.row("16", [wrong, right], "native")[-2:] == (1, "20%")
    first, second = sweep.losers([wrong, right], "native")
    assert "in 1 cells" in first
    assert "native loses 20%" in second


def test_a_cell_that_is_measured_again_has_the_medians_of_its_times() -> None:
    shape = {"module": "LSTM", "mode": "training", "hidden_size": 16, "layers": 1, "batch": 16, "steps": 24}
    cell = {**shape, "torch": 1.0, "native": 1.2, "auto": "native"}
    again = [
        {**shape, "torch": 1.3, "native": 1.1},
        {**shape, "steps": 168, "torch": 9.0, "native": 9.0},
        {**shape, "torch": 1.2, "native": 1.0},
        {**shape, "skipped": True},
    ]
    assert sweep.steadied(cell, again, "native") == {**cell, "torch": 1.2, "native": 1.1}


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("sweep", "native"),
        ("sweep-gru", "native"),
        ("sweep-head", "native"),
        ("sweep-mixed", "mixed"),
        ("sweep-cuda", "persistent"),
    ],
)
def test_a_sweep_is_drawn_by_its_own_kernel(tmp_path: Path, name: str, ours: str) -> None:
    cells = [
        {sweep.RIVALS[ours][0]: 2.0, ours: 1.0, "module": "GRU", "mode": mode, "hidden_size": 16}
        for mode in ("training", "inference")
    ]
    result = results.Result(name, "a title", (), (), (), {"cells": [*cells, {"skipped": True}]})
    results.keep(tmp_path / "results.json", result, {**machine.describe(), "gpus": ["A chip"]})
    picture.main(tmp_path / "results.json", tmp_path)
    assert (tmp_path / f"bench-{name}.png").exists()


def test_precisions_are_compared_seed_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NIGHTCAST_PRECISION", raising=False)
    losses = {"float32": iter([2.0, 4.0]), "auto": iter([2.02, 3.98])}

    def trained(cell: str, layers: int, seed: int) -> Fit:
        return Fit({}, (), 1, next(losses[os.environ["NIGHTCAST_PRECISION"]]))

    monkeypatch.setattr(precision, "_trained", trained)
    monkeypatch.setattr(precision, "NETWORKS", (("gru", 1),))
    monkeypatch.setattr(precision, "SEEDS", 2)
    result = precision.run([1], 1)
    assert result.rows[0][:5] == ("gru, 1 layer", "3.0000", "3.0000", "+0.25%", "1.00%")
    assert "NIGHTCAST_PRECISION" not in os.environ
    results.keep(tmp_path / "results.json", result, machine.describe())
    picture.main(tmp_path / "results.json", tmp_path)
    assert (tmp_path / "bench-precision.png").exists()


def test_a_search_is_compared_by_its_epochs_an_hour(tmp_path: Path) -> None:
    def searched(seconds: float, epochs: int) -> dict[str, Any]:
        return {"seconds": seconds, "epochs": epochs, "pruned": 1, "failed": 0, "best": 0.2}

    found = {
        "a plain loop": [searched(36.0, 100), searched(40.0, 100), searched(36.0, 100)],
        "64 lanes": [searched(72.0, 4_000)] * 3,
    }
    result = search.compared(found)
    assert result.rows == (
        ("a plain loop", 8, 1, 12.5, 36.0, 800.0, 10_000.0, 1.0),
        ("64 lanes", 256, 1, 15.625, 72.0, 12_800.0, 200_000.0, 20.0),
    )
    results.keep(tmp_path / "results.json", result, {**machine.describe(), "gpus": ["A chip"]})
    picture.main(tmp_path / "results.json", tmp_path)
    assert (tmp_path / "bench-search-cuda.png").exists()


def test_traffic_is_counted_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "SIZES", (8, 16, 32))
    monkeypatch.setattr(traffic, "NETWORKS", traffic.NETWORKS[:1])
    monkeypatch.setattr(traffic, "ON_A_GPU", {**traffic.ON_A_GPU, "batch_size": 64, "lookback": 48})
    result = traffic.run([1], 1)
    ((name, *moved, count),) = result.rows
    assert name == "GRU, 1 layer, calendar"
    assert 0 < moved[0] < moved[1] < moved[2] < 60
    assert count > 100
    results.keep(tmp_path / "results.json", result, machine.describe())
    picture.main(tmp_path / "results.json", tmp_path)
    assert (tmp_path / "bench-lanes-traffic.png").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_sweep_on_a_gpu_is_refused_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "sweep-cuda"])
    with pytest.raises(SystemExit):
        main()
    assert "sweep-cuda needs a CUDA device" in capsys.readouterr().err


@pytest.mark.skipif(not persistent.is_installed(), reason="needs Triton")
def test_a_sweep_times_the_persistent_kernel_where_it_fits() -> None:
    """On the CPU, by Triton's interpreter."""
    shape = {"module": "LSTM", "layers": 1, "batch": 2, "steps": 2, "mode": "training"}
    cells = [{"hidden_size": 4, **shape}, {"hidden_size": 65, **shape}]
    task = {"cells": cells, "limit": 60, "device": "cpu", "kernel": "persistent"}
    contender = Contender("persistent", "sweep_cells", environment={"TRITON_INTERPRET": "1"})
    with Process(contender, task, 1) as process:
        assert process.repeat()["taken"] > 0
        assert process.repeat()["skipped"]
    with pytest.raises(PeerFailed, match="TRITON_INTERPRET=1"):
        Process(Contender("persistent", "sweep_cells"), task, 1)


@pytest.mark.skipif(not library.mixed_codes(), reason="no products of bfloat16 here")
def test_a_sweep_forces_mixed_precision_and_says_what_would_be_chosen() -> None:
    shape = {"module": "GRU", "hidden_size": 16, "layers": 1, "steps": 40, "mode": "training"}
    cells = [{"batch": batch, **shape} for batch in (16, 32)]
    task = {"cells": cells, "limit": 60, "device": "cpu", "kernel": "mixed"}
    _, small, larger = sweep_cells._cells(task)
    assert (small["auto"], larger["auto"]) == ("native", "mixed")
    assert min(small["taken"], larger["taken"]) > 0


@pytest.mark.skipif(not library.widths(), reason="no native code for this processor")
def test_a_sweep_times_heads_too(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"module": "CalendarHead", "layers": 1, "steps": 3, "mode": "training"}
    cells = [{"hidden_size": 256, "batch": batch, **shape} for batch in (16, 32)]
    task = {"cells": cells, "limit": 60, "device": "cpu", "kernel": "native"}
    monkeypatch.setattr(native, "_threads", 2)
    _, few, more = sweep_cells._cells(task)
    assert (few["auto"], more["auto"]) == ("torch", "native")
    assert min(few["taken"], more["taken"]) > 0


def test_growth_is_measured_against_the_next_smaller_panel() -> None:
    def case(points: int, window: float, peak: int) -> Case:
        return Case(1, points, window, 0.0, 8 * points, peak)

    cases = [case(10**5, 1.0, 100), case(10**6, 1.1, 200), case(10**7, 1.3, 200 + 9 * 8 * 10**6 * 3)]
    assert scale.before(cases, cases[0]) is None
    assert scale.growth(cases[1], cases[2]) == 3
    time, memory = scale.verdict(cases)
    assert time.endswith("no, not for 1 series of 10,000,000 points.")
    assert memory.endswith("no, not for 1 series of 10,000,000 points.")
    assert scale.verdict(cases[:2])[0].endswith("yes.")


def test_contenders_run_in_turn_in_processes_of_their_own() -> None:
    runs = race([Contender("floor", "sgemm")], {"flop": 2 * 2048**2, "device": "cpu"}, [1], repeats=2)
    assert [(done.name, done.threads, len(done.seconds)) for done in runs] == [("floor", 1, 2)]
    assert runs[0].versions.keys() == {"torch"}


def test_a_process_that_ends_early_says_why() -> None:
    with pytest.raises(PeerFailed, match="KeyError: 'flop'"):
        Process(Contender("floor", "sgemm"), {}, 1)
    with pytest.raises(PeerFailed, match="make bench"):
        Process(Contender("absent", "sgemm", venv="absent"), {}, 1)


@pytest.mark.parametrize("path", PEERS, ids=lambda path: path.stem)
def test_a_peer_is_pinned_to_the_version(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert all(line.count("==") == 1 and "/" not in line for line in lines)
    if any(line.startswith("torch==") for line in lines):
        ours = (path.parents[2] / "constraints.txt").read_text().splitlines()
        assert set(lines) & {line for line in ours if line.startswith("torch==")}

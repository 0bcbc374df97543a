"""Search workers as processes: racing for the last place, killed, and interrupted by signals."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from forked import Fork

from data.calendar import Frequency
from data.catalog import parse_data_set
from data.panel import Panel
from data.retrain import Budget
from data.splits import split
from lstm.search import study
from lstm.search.objective import SearchTask
from lstm.search.worker import work

pytestmark = pytest.mark.slow

NAME = "night"


def task_in(folder):
    """The same search for every process that asks."""
    entry = {
        "source": {"kind": "csv", "path": "made.csv"},
        "time": "time",
        "target": "load",
        "frequency": "h",
        "retrain": {
            "horizon": 6,
            "validation": "4d",
            "judge": "4d",
            "max_epochs": 8,
            "search_space": {
                "cell": ["gru", "rnn"],
                "hidden_size": [4],
                "num_layers": [1],
                "segment_length": [12],
                "lookback": [24],
                "batch_size": [64],
            },
        },
    }
    data_set = parse_data_set(Path("catalog.yaml"), "made", entry)
    steps = np.arange(500)
    values = np.sin(steps * 2 * np.pi / 24) + np.random.default_rng(0).normal(0, 0.1, 500)
    panel = Panel(
        "made", Frequency("h"), "load", (), ("",), np.datetime64("2024-01-01", "us"),
        np.array([0]), np.array([0, 500]), values[:, None],
    )  # fmt: skip
    return SearchTask(
        data_set,
        panel,
        split(panel, data_set.retrain),
        f"sqlite:///{folder}/study.db",
        NAME,
        folder / "checkpoints",
    )


class Marker:
    """Leaves a file for each epoch, so that another process knows where this one is, then takes its time."""

    def __init__(self, folder, pause):
        self.folder = folder
        self.pause = pause

    def started(self, number, params):
        pass

    def epoch(self, number, epoch, train_loss, validation_loss):
        (self.folder / f"{number}-{epoch}").touch()
        time.sleep(self.pause)

    def ended(self, number, state, value, reason):
        (self.folder / f"{number}-{state}").touch()


def end(number, frame):
    sys.exit(3)


def worker(folder, pause):
    """The main function of a worker process; 100 + trials run is its exit status."""
    signal.signal(signal.SIGTERM, end)
    try:
        count = work(task_in(folder), Marker(folder, pause))
    except KeyboardInterrupt:
        sys.exit(4)
    sys.exit(100 + count)


def start(folder, pause=0.0):
    code = f"import test_search_workers as own; own.worker(own.Path({str(folder)!r}), {pause})"
    return Fork(code)


def wait_for(path, process):
    for _ in range(600):
        if path.exists():
            return
        assert process.poll() is None, f"the worker ended with {process.returncode}"
        time.sleep(0.05)
    raise AssertionError(f"{path.name} did not come")


def progress(folder):
    return study.progress(task_in(folder).storage_url, NAME)


def rows(folder):
    return study.trials(task_in(folder).storage_url, NAME)


def create(folder, trials):
    folder.mkdir(exist_ok=True)
    study.create(task_in(folder).storage_url, NAME, Budget(trials=trials), 0)


def test_two_workers_share_a_budget_exactly(tmp_path):
    create(tmp_path, 5)
    workers = [start(tmp_path) for _ in range(2)]
    counts = [process.wait() - 100 for process in workers]
    own = progress(tmp_path)
    assert sum(counts) == own.complete + own.pruned == own.trials == 5
    assert (own.failed, own.running, own.waiting, own.spent) == (0, 0, 0, True)
    assert len({str(row.params) for row in rows(tmp_path)}) == 5


def test_a_killed_worker_loses_nothing_but_time(tmp_path):
    whole = tmp_path / "whole"
    create(whole, 2)
    assert work(task_in(whole), Marker(whole, 0)) == 2
    create(tmp_path, 2)
    process = start(tmp_path, pause=0.3)
    wait_for(tmp_path / "1-2", process)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert progress(tmp_path).running == 1
    # The next worker finds the dead one's trial at once and goes on from its checkpoint.
    assert work(task_in(tmp_path), Marker(tmp_path, 0)) == 1
    own = progress(tmp_path)
    assert (own.trials, own.running, own.waiting, own.failed, own.spent) == (2, 0, 0, 0, True)
    first, killed, again = rows(tmp_path)
    assert killed.reason == "its process was killed"
    expected = rows(whole)
    assert [first.curve, again.curve] == [row.curve for row in expected]
    assert [first.params, again.params] == [row.params for row in expected]
    best, other = (study.chosen(task_in(folder).storage_url, NAME) for folder in (tmp_path, whole))
    assert (best.value, best.recipe) == (other.value, other.recipe)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_signal_ends_each_worker_and_its_trial(tmp_path):
    create(tmp_path, 2)
    workers = [start(tmp_path, pause=0.3), start(tmp_path, pause=0.3)]
    for number in (0, 1):
        wait_for(tmp_path / f"{number}-2", workers[0])
    os.kill(workers[0].pid, signal.SIGINT)
    os.kill(workers[1].pid, signal.SIGTERM)
    assert [process.wait() for process in workers] == [4, 3]
    assert all((tmp_path / f"{number}-failed").exists() for number in (0, 1))
    own = progress(tmp_path)
    assert (own.running, own.waiting, own.failed, own.spent) == (0, 2, 0, False)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2

"""`search`: a worker's whole search of the sample's space, its trials in LANES or one after the other."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import household
from benchmarks.peers import plain, talk
from data.contract import check, resolve_as_of
from data.retrain import Budget
from data.splits import split
from lstm.search import study
from lstm.search.lanes import work_in_lanes
from lstm.search.objective import SearchTask
from lstm.search.space import first_trials
from lstm.search.worker import work

_MINUTES = 600.0


def prepare(task: dict[str, Any]) -> talk.Repeat:
    """Args: see `benchmarks.search`. The first repeat does nothing: a night's search is a process's first."""
    if int(os.environ.get("PLAIN", 0)):
        plain.without_graphs()
    lanes = int(os.environ.get("LANES", 1))
    searches = iter([dict, lambda: _search(task["trials"], lanes, task["device"])])
    return lambda: next(searches)()


def _search(trials: int, lanes: int, device: Any) -> dict[str, float]:
    """A study from its creation to its end: its seconds, and what became of its trials."""
    data_set = household.data_set()
    panel = check(data_set, resolve_as_of(data_set)).panel
    with TemporaryDirectory() as folder:
        url, name = f"sqlite:///{folder}/study.db", data_set.name
        task = SearchTask(
            data_set, panel, split(panel, data_set.retrain), url, name, Path(folder), device=device
        )
        begin = time.perf_counter()
        budget, retrain = Budget(trials=trials, minutes=_MINUTES), data_set.retrain
        study.create(url, name, budget, retrain.seed, first_trials(retrain))
        if lanes > 1:
            work_in_lanes(task, _Silent, lanes)
        else:
            work(task, _Silent())
        seconds = time.perf_counter() - begin
        rows = study.trials(url, name)
    states = Counter(row.state for row in rows)
    best = min(row.value for row in rows if row.value is not None)
    epochs = sum(len(row.curve) for row in rows)
    return {
        "seconds": seconds,
        "epochs": epochs,
        "pruned": states["pruned"],
        "failed": states["failed"],
        "best": best,
    }


class _Silent:
    """An observer with nothing to tell."""

    def started(self, number: int, params: dict[str, Any]) -> None:
        pass

    def epoch(self, number: int, epoch: int, train_loss: float, validation_loss: float) -> None:
        pass

    def ended(self, number: int, state: str, value: float | None, reason: str) -> None:
        pass


if __name__ == "__main__":
    talk.serve(prepare, ["nightcast", "torch", "optuna"])

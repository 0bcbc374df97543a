"""Small searches of a made panel, in studies on SQLite, and observers of them."""

from __future__ import annotations

from pathlib import Path

from data.catalog import parse_data_set
from data.retrain import Budget
from data.splits import split
from lstm.models.forecaster import build
from lstm.search import study
from lstm.search.objective import SearchTask
from lstm.training.checkpoint import EpochLoss
from lstm.training.fit import Fit

NAME = "night"
SPACE = {
    "cell": ["gru"],
    "hidden_size": [4, 6],
    "num_layers": [1],
    "segment_length": [12],
    "lookback": [24, 48],
    "learning_rate": {"low": 3e-3, "high": 3e-2},
    "batch_size": [64],
}


class Recorder:
    """An observer that keeps what it is told; may raise at an epoch."""

    def __init__(self, at_epoch=None):
        self.events = []
        self.at_epoch = at_epoch or (lambda number, epoch: None)

    def started(self, number, params):
        self.events.append(("started", number, params))

    def epoch(self, number, epoch, train_loss, validation_loss):
        self.events.append(("epoch", number, epoch, train_loss, validation_loss))
        self.at_epoch(number, epoch)

    def ended(self, number, state, value, reason):
        self.events.append(("ended", number, state, value, reason))

    def of(self, kind):
        return [event[1:] for event in self.events if event[0] == kind]


def make_task(make_panel, url, folder, trials=2, minutes=10.0, first=(), name=NAME, space=None, **panel):
    """A search in a new study of the database, with its checkpoints in the folder.

    Args:
        make_panel: the fixture.
        url: of a prepared study database.
        folder: for its checkpoints.
        trials, minutes: its budget.
        first: parameters to try first.
        name: of the study.
        space: instead of `SPACE`.
        panel: for `make_panel`; it has 500 steps if unset.
    """
    entry = {
        "source": {"kind": "csv", "path": "made.csv"},
        "time": "time",
        "target": "load",
        "frequency": "h",
        "retrain": {
            "horizon": 6,
            "validation": "4d",
            "judge": "4d",
            "quantiles": [0.2, 0.5, 0.8],
            "max_epochs": 4,
            "search_space": space or SPACE,
        },
    }
    data_set = parse_data_set(Path("catalog.yaml"), "made", entry)
    own = make_panel(**{"steps": 500, **panel})
    study.create(url, name, Budget(trials=trials, minutes=minutes), 5, first)
    splits = split(own, data_set.retrain)
    return SearchTask(data_set, own, splits, url, name, folder / name, device="cpu")


def rows(task):
    return study.trials(task.storage_url, task.study_name)


def progress(task):
    return study.progress(task.storage_url, task.study_name)


def untrained(loss):
    """In place of `fit`: initial weights, and a loss after one epoch."""

    def train(config, training, panel, train, validation, *, device, checkpoint, on_epoch):
        on_epoch(1, EpochLoss(loss, loss))
        return Fit(build(config).state_dict(), (), 1, loss)

    return train


class OrchestratorSignal(BaseException):
    """Such as Prefect raises where a flow run is cancelled."""

"""Tiny nights for tests: a home, a catalog and data of their own, and a look at every store that they write.

The series is an autoregressive walk: what was last seen says more than yesterday's same hour, so a small
model beats the seasonal naive within seconds.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psutil
import yaml
from forked import Fork
from mlflow import MlflowClient

from data.catalog import load_catalog
from lstm.promotion.ledger import Ledger
from lstm.settings import Settings

BIN = Path(sys.executable).parent
SITE = str(Path(__file__).parent / "site")
"""On the path of interpreters that a test starts."""
START = datetime(2024, 1, 1, tzinfo=UTC)
NIGHTCAST = "import sys, nursery; main = nursery.begin(); sys.exit(main())"
"""What the installed program does."""
LOOK_SECONDS = 0.25
"""Seconds between two looks at a tree of processes: a look reads about every process of the machine."""

SPACE = {
    "cell": ["gru"],
    "hidden_size": [4],
    "num_layers": [1],
    "dropout": {"low": 0.0, "high": 0.0},
    "segment_length": [12],
    "lookback": [24],
    "learning_rate": {"low": 0.003, "high": 0.003},
    "batch_size": [64],
}


def entry(name, space=None, **retrain):
    """A catalog entry whose night takes seconds."""
    return {
        "source": {"kind": "csv", "path": f"{name}.csv"},
        "time": "time",
        "target": "load",
        "frequency": "h",
        "clock": "data",
        "retrain": {
            "horizon": 6,
            "validation": "3d",
            "judge": "3d",
            "max_epochs": 3,
            "budget": {"trials": 2, "minutes": 1},
            "search_space": {**SPACE, **(space or {})},
            **retrain,
        },
    }


def walk(hours, seed=0):
    """Hourly values; the first ones do not depend on how many are asked for."""
    noise = np.random.default_rng(seed).normal(0, 1, hours)
    values = np.empty(hours)
    last = 0.0
    for hour in range(hours):
        values[hour] = last = 0.95 * last + noise[hour]
    return values + 50


class House:
    """A home with a catalog and CSV files beside it.

    Args:
        folder: for all of it.
        lived_in: a home whose databases this one takes over; a fresh one makes its own.
    """

    def __init__(self, folder: Path, lived_in: Path | None = None) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.catalog = folder / "catalog.yaml"
        self.entries: dict[str, dict[str, object]] = {}
        if lived_in is not None:
            shutil.copytree(lived_in, self.home)
        self.environment = {
            "NIGHTCAST_HOME": str(self.home),
            "NIGHTCAST_CATALOG": str(self.catalog),
            "NIGHTCAST_DEVICE": "cpu",
            "NIGHTCAST_WORKERS": "1",
            "PYTHONPATH": SITE,
        }

    def declare(self, name, space=None, **retrain):
        """Add or change a data set."""
        self.entries[name] = entry(name, space, **retrain)
        self.catalog.write_text(yaml.safe_dump(self.entries))

    def write(self, name, hours, change=None):
        """Its first hours, as CSV; `change` may spoil the lines."""
        times = [START + timedelta(hours=hour) for hour in range(hours)]
        lines = [f"{time:%Y-%m-%d %H:%M},{value:.4f}" for time, value in zip(times, walk(hours), strict=True)]
        if change is not None:
            change(lines)
        (self.folder / f"{name}.csv").write_text("\n".join(["time,load", *lines]) + "\n")

    @property
    def settings(self):
        return Settings(home=self.home, catalog=self.catalog)

    @property
    def ledger(self):
        return Ledger(self.settings.ledger_url)

    @property
    def mlflow(self):
        uri = self.settings.mlflow_uri
        return MlflowClient(tracking_uri=uri, registry_uri=uri)

    def runs(self, name, kind, status=None):
        """The MLflow runs of a data set, the oldest first."""
        experiment = self.mlflow.get_experiment_by_name(name)
        if experiment is None:
            return []
        wanted = f"tags.`nightcast.kind` = '{kind}'" + (f" and status = '{status}'" if status else "")
        return self.mlflow.search_runs([experiment.experiment_id], wanted, order_by=["start_time ASC"])

    def aliases(self, name):
        found = self.mlflow.get_registered_model(name).aliases
        return {alias: str(version) for alias, version in found.items()}

    def forecasts(self, name):
        """Stored forecasts by file name, with their bytes."""
        paths = sorted(self.settings.forecasts.glob(f"{name}/*.parquet"))
        return {path.name: path.read_bytes() for path in paths}

    def data_set(self, name):
        return load_catalog(self.catalog).get(name)


class Command:
    """`nightcast ...` in a process group of its own, as a shell starts it; forked, to save imports."""

    def __init__(self, house, *arguments, **environment):
        self.log = house.folder / f"{time.monotonic_ns()}.log"
        self.output = self.log.with_suffix(".json")
        with self.log.open("wb") as log, self.output.open("wb") as output:
            full = {
                **os.environ,
                "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
                "PYTHONUNBUFFERED": "1",
                "OMP_NUM_THREADS": "1",
                **house.environment,
                **environment,
            }
            self.process = self._start(arguments, output, log, full)
        self.seen: set[psutil.Process] = {psutil.Process(self.process.pid)}
        self._looked = 0.0

    def _start(self, arguments, output, log, environment):
        return Fork(NIGHTCAST, *arguments, stdout=output, stderr=log, environment=environment)

    @property
    def text(self):
        return self.log.read_text(errors="replace")

    def tree(self):
        """Every process that it has ever been seen with."""
        children = defaultdict(list)
        for one in psutil.process_iter(["ppid"]):
            children[one.info["ppid"]].append(one)
        waiting = [one for one in self.seen if one.is_running()]
        while waiting:
            new = set(children[waiting.pop().pid]) - self.seen
            self.seen |= new
            waiting += new
        self._looked = time.monotonic()
        return self.seen

    def _look(self):
        """See who is new in the tree, now and then."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self.tree()

    def until(self, condition, seconds=120, pause=0.05):
        """Wait until something is so, looking at the tree meanwhile."""
        deadline = time.monotonic() + seconds
        while not condition():
            if pause >= 0.05:
                self._look()
            assert self.process.poll() is None, f"ended with {self.process.returncode}\n{self.text}"
            assert time.monotonic() < deadline, f"waited too long\n{self.text}"
            time.sleep(pause)
        if pause >= 0.05:
            self.tree()

    def until_says(self, word, seconds=120):
        """Wait until a stage's line is there: it is printed when the stage is over."""
        self.until(lambda: f"\n{word} " in f"\n{self.text}", seconds)

    def end(self, seconds=120):
        """Wait for its end; the exit status."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            self._look()
            assert time.monotonic() < deadline, f"did not end\n{self.text}"
            time.sleep(0.05)
        return self.process.returncode

    def survivors(self, seconds=0.0):
        """Processes of its tree that are alive after so many seconds."""
        _, alive = psutil.wait_procs(self.tree(), timeout=seconds)
        return [f"{one.pid} {' '.join(one.cmdline())}" for one in alive if one.status() != "zombie"]

    def result(self):
        """What it printed as JSON."""
        return json.loads(self.output.read_text())

    def kill(self):
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()


class Executable(Command):
    """The same by the installed program, which imports all that it needs itself."""

    def _start(self, arguments, output, log, environment):
        return subprocess.Popen(
            [BIN / "nightcast", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=log,
            start_new_session=True,
            env=environment,
        )

"""`nightcast up` for tests, on ports of its own, and what a person does with it: by HTTP, as the UI does."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import time
from pathlib import Path

import psutil
import requests
import yaml
from forked import PIPE, STDOUT, Fork
from nights import BIN, NIGHTCAST, Command, Executable, House, walk
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from flows.stack import Addresses

WEEKS = 3
PROGRAMS = {
    "nightcast": NIGHTCAST,
    "prefect": "import sys, nursery; sys.exit(nursery.prefect())",
    "mlflow": "import sys; from mlflow.cli import cli; sys.exit(cli())",
}
"""What the installed programs do."""
SCHEDULED = ("/deployments/name/retrain/nightly", "/deployments/name/forecast/hourly")
LONG = {"max_epochs": 5000, "budget": {"trials": 8, "minutes": 10}}


def free_ports(count):
    """Ports that nobody listens on, below those that the system gives to connections: until a server takes
    its port, nothing else will by chance."""
    with contextlib.ExitStack() as stack:
        found = []
        for port in random.SystemRandom().sample(range(20_000, 32_000), 500):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                return found
    raise AssertionError("no free port")


def furnish(folder: Path, lived_in: Path | None = None) -> House:
    """A house with a data set for every scenario."""
    folder.mkdir(parents=True, exist_ok=True)
    house = House(folder, lived_in)
    house.declare("one", schedule="0 4 * * *")
    house.declare("three", schedule="30 2 * * 1-5", ensemble=True)
    house.declare("bad")
    for name in ("long", "long_again"):
        house.declare(name, **LONG)
        house.write(name, WEEKS * 168)
    house.entries["one"]["time_zone"] = "Europe/Paris"
    house.entries["three"] |= {"series": "id", "time_zone": "Etc/GMT+5", "columns": {"warmth": "past"}}
    house.catalog.write_text(yaml.safe_dump(house.entries))
    house.write("one", WEEKS * 168)
    house.write("bad", WEEKS * 168, lambda lines: lines.insert(100, "2024-01-05 03:00,inf"))
    write_three(house)
    return house


def write_three(house):
    """Three series in one file, with some values missing."""
    lines = ["time,id,load,warmth"]
    for seed, name in enumerate(("north", "south", "west")):
        for hour, value in enumerate(walk(WEEKS * 168, seed)):
            load = "" if hour % 50 == 7 else f"{value * (1 + seed):.4f}"
            warmth = "" if hour % 40 == 11 else f"{10 + hour % 24}"
            lines.append(f"2024-01-{1 + hour // 24:02d} {hour % 24:02d}:00,{name},{load},{warmth}")
    (house.folder / "three.csv").write_text("\n".join(lines) + "\n")


class Up:
    """A running `nightcast up`, with a client of both servers."""

    def __init__(self, folder: Path) -> None:
        self.house = furnish(folder)
        self.addresses = Addresses(*free_ports(2))
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()
        self.exports = self.addresses.exports(self.house.settings)
        self.command = self.start()
        self.nights: dict[str, Fork] = {}

    def start(self) -> Command:
        """Start it, from the data's folder, with relative paths: flow runs work elsewhere."""
        ports = ("--prefect-port", self.addresses.prefect_port, "--mlflow-port", self.addresses.mlflow_port)
        own = {"NIGHTCAST_HOME": "home", "NIGHTCAST_CATALOG": "catalog.yaml", "NIGHTCAST_WORKERS": "2"}
        with contextlib.chdir(self.house.folder):
            self.command = Executable(self.house, "up", *map(str, ports), **own)
        try:
            self.command.until(lambda: "Ctrl-C" in self.command.output.read_text(), 180)
        except BaseException:
            self.command.process.terminate()
            self.command.process.wait()
            raise
        self.pause()
        return self.command

    def pause(self):
        """No test wants a night because it is four o'clock."""
        for name in SCHEDULED:
            self.request("PATCH", f"/deployments/{self.get(name)['id']}", {"paused": True})

    @property
    def environment(self):
        """A shell that has done the exports that `up` printed."""
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, **self.house.environment, **self.exports, "PATH": path, "DO_NOT_TRACK": "true"}

    def run(self, program, *arguments, environment=None):
        """Start a program, forked, in a folder that has nothing to do with the project."""
        return Fork(
            PROGRAMS[program],
            *arguments,
            stdout=PIPE,
            stderr=STDOUT,
            environment={**self.environment, **(environment or {})},
            folder=self.elsewhere,
        )

    def request(self, method, path, body=None):
        """Ask Prefect's API, again where its SQLite database is busy, as Prefect's own client does."""
        with requests.Session() as session:
            patience = Retry(total=6, backoff_factor=0.5, status_forcelist=[503], allowed_methods=None)
            session.mount("http://", HTTPAdapter(max_retries=patience))
            url = f"{self.exports['PREFECT_API_URL']}{path}"
            answer = session.request(method, url, json=body, timeout=60)
        assert answer.ok, answer.text
        return answer.json() if answer.content else None

    def post(self, path, body):
        """Ask Prefect's API."""
        return self.request("POST", path, body)

    def get(self, path):
        """Ask Prefect's API."""
        return self.request("GET", path)

    def submit(self, deployment, **parameters):
        """Run a deployment; the flow run's id."""
        found = self.get(f"/deployments/name/{deployment}")
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return self.post(f"/deployments/{found['id']}/create_flow_run", body)["id"]

    def state(self, run):
        """The state of a flow run."""
        return self.get(f"/flow_runs/{run}")["state"]

    def until_ended(self, *runs, seconds=180):
        """Wait until flow runs are in final states; the states."""
        final = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
        wait(lambda: all(self.state(run)["type"] in final for run in runs), seconds, lambda: self.logs)
        return [self.state(run) for run in runs]

    def newest_run(self, name):
        """The newest flow run of that name that has begun."""
        found = self.post(
            "/flow_runs/filter",
            {"flow_runs": {"name": {"any_": [name]}}, "sort": "START_TIME_DESC", "limit": 1},
        )
        return found[0]

    def tasks(self, run):
        """The task runs of a flow run, by name."""
        found = self.post("/task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [run]}}})
        return {task["name"]: task for task in found}

    def children(self, run):
        """The flow runs that tasks of a flow run started."""
        return self.post("/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}})

    def artifact(self, key):
        """The newest Markdown of a key."""
        found = self.post(
            "/artifacts/filter", {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC", "limit": 1}
        )
        return found[0]["data"]

    def runs(self, name, kind, status=None):
        """MLflow's runs of a data set, through the server."""
        return through(self).runs(name, kind, status)

    def trials_running(self, name):
        """How many trials of a data set MLflow shows as running."""
        return len(self.runs(name, "trial", "RUNNING"))

    def local_workers(self):
        """The search processes that run beside a night."""
        found = []
        for one in psutil.Process(self.command.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [one] if "flows.worker" in one.cmdline() else []
        return found

    @property
    def logs(self):
        """The end of each log."""
        folder = self.house.home / "logs"
        return "\n".join(f"{path}:\n{path.read_text()[-3000:]}" for path in sorted(folder.glob("*.log")))

    def begin_nights(self):
        """Two nights by Prefect's command, one in a pool, and one with a wrong name."""
        run = ("prefect", "deployment", "run", "retrain/nightly", "--watch", "-p")
        pool = ("-p", "pool=nightcast-search", "-p", "workers=2")
        self.nights = {
            "three": self.run(*run, "data_set=three", "-p", 'budget={"trials": 2, "minutes": 5}', *pool),
            "bad": self.run(*run, "data_set=bad"),
            "typo": self.run(*run, "dataset=bad"),
        }

    def ensure(self):
        """Start it again where it has ended."""
        if self.command.process.poll() is not None:
            self.start()

    def interrupt(self):
        """Ctrl-C, and its end; the exit status."""
        self.command.process.send_signal(signal.SIGINT)
        return self.command.end()

    def end(self):
        """Ctrl-C where it still runs; nothing of it is left."""
        if self.command.process.poll() is None:
            assert self.interrupt() == 0, self.command.text
        assert not self.command.survivors(5)
        assert not (self.house.home / "up.json").exists()


class Through(House):
    """The same house, seen through the MLflow server."""

    def __init__(self, up: Up) -> None:
        super().__init__(up.house.folder)
        self._uri = up.addresses.mlflow

    @property
    def settings(self):
        return super().settings.model_copy(update={"tracking_uri": self._uri})


def through(up: Up) -> House:
    """The house as clients of the servers see it."""
    return Through(up)


def wait(condition, seconds, explain=lambda: ""):
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s\n{explain()}"
        time.sleep(0.5)

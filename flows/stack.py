"""`nightcast up`: Prefect server, MLflow server and workers on one machine, ended together.

Everything listens on the loopback interface and keeps its state in Nightcast's home. Should this process
be killed, the next start finds what it left behind and ends it: the children by their record, and what
outlived its own parent, such as a flow run whose worker was killed, by a mark in its environment.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data.errors import NightcastError
from data.files import write_atomically
from data.processes import Process, is_dead, process_of, this_process
from flows.loopback import HOST, answers
from flows.shutdown import MARK, WORKER, end_all, undisturbed
from lstm.settings import TELEMETRY_OFF, Settings

START_SECONDS = 120.0


class StackFailed(NightcastError):
    """A server or worker could not be started, or ended by itself."""


@dataclass(frozen=True)
class Addresses:
    """Where the servers of a stack listen."""

    prefect_port: int
    mlflow_port: int

    @property
    def prefect(self) -> str:
        """Prefect's user interface."""
        return f"http://{HOST}:{self.prefect_port}"

    @property
    def mlflow(self) -> str:
        """MLflow's user interface, and its tracking URI."""
        return f"http://{HOST}:{self.mlflow_port}"

    def exports(self, settings: Settings) -> dict[str, str]:
        """What a shell must export for `prefect`, `mlflow` and `nightcast` to meet these servers."""
        return {
            "PREFECT_API_URL": f"{self.prefect}/api",
            "MLFLOW_TRACKING_URI": self.mlflow,
            "NIGHTCAST_HOME": str(settings.root),
        }


class Stack:
    """The child processes, and a file that names them for the next start."""

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        self._logs = settings.root / "logs"
        self._record = settings.root / "up.json"
        self._mark = str(this_process())
        self._environment = {**os.environ, **environment, MARK: self._mark}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._logs.mkdir(parents=True, exist_ok=True)
        self._write_record()

    def start(self, name: str, *command: str) -> None:
        """Start a Python module as a child in a process group of its own; its output goes to a log."""
        with (self._logs / f"{name}.log").open("wb") as log:
            self._children[name] = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=self._environment,
            )
        self._write_record()

    def wait_for(self, name: str, url: str) -> None:
        """Wait until a child answers.

        Raises:
            StackFailed: it ended, or was silent for too long; shows its log's end.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.check()
            if answers(url, 2):
                return
            time.sleep(0.2)
        raise StackFailed(f"{name} did not answer at {url} in {START_SECONDS:g} s.\n{self._tail(name)}")

    def check(self) -> None:
        """Raise StackFailed where a child has ended."""
        for name, child in self._children.items():
            if child.poll() is not None:
                raise StackFailed(f"{name} ended with status {child.returncode}.\n{self._tail(name)}")

    def stop(self) -> None:
        """End everything that was started, in order.

        Impatience must not leave anything behind: a further Ctrl-C meanwhile changes nothing.
        """
        with undisturbed():
            end_all({name: child.pid for name, child in self._children.items()}, self._mark)
            for child in self._children.values():
                child.wait()
            self._children.clear()
            self._record.unlink(missing_ok=True)

    def _write_record(self) -> None:
        children = {name: str(process_of(child.pid)) for name, child in self._children.items()}
        write_atomically(self._record, json.dumps({"parent": self._mark, "children": children}).encode())

    def _tail(self, name: str) -> str:
        path = self._logs / f"{name}.log"
        return "\n".join([f"{path}:", *path.read_text(errors="replace").splitlines()[-20:]])


@contextmanager
def stack(
    settings: Settings, addresses: Addresses, say: Callable[[str], None], *, workers: bool = True
) -> Iterator[Stack]:
    """Servers, deployments and workers, up inside the block; all ended after it.

    Args:
        say: told what is being started.
        workers: also deploy the flows and start workers for both work pools.

    Raises:
        StackFailed: another stack runs in this home, a port is taken, or a part did not start.
    """
    _clean_up(settings.root / "up.json")
    _require_free(addresses)
    exports = addresses.exports(settings)
    environment = {
        **TELEMETRY_OFF,
        **exports,
        # It would win over the server that is started here.
        "NIGHTCAST_TRACKING_URI": addresses.mlflow,
        # Flow runs work in the project's folder, wherever this command was called.
        "NIGHTCAST_CATALOG": str(settings.catalog.expanduser().resolve()),
        "PREFECT_HOME": str(settings.root / "prefect"),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        # The server is next door: a run that was asked for begins at once, not ten seconds later.
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "lstm,data,flows",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    made = Stack(settings, environment)
    try:
        say("Starting the servers ...")
        _start_servers(made, settings, addresses)
        if workers:
            say("Deploying the flows ...")
            os.environ.update(environment)
            _deploy(settings)
            say("Starting the workers ...")
            _start_workers(made, settings)
        yield made
    finally:
        made.stop()


def _start_servers(made: Stack, settings: Settings, addresses: Addresses) -> None:
    made.start(
        "prefect-server", "prefect", "server", "start", "--host", HOST, "--port", str(addresses.prefect_port)
    )
    from lstm.tracking.runs import Tracker

    store = f"sqlite:///{settings.root / 'mlflow.db'}"
    # A fresh database opened by several processes at once breaks: make it first.
    Tracker(store, settings.artifacts)
    made.start(
        "mlflow-server",
        *("mlflow", "server", "--host", HOST, "--port", str(addresses.mlflow_port), "--workers", "1"),
        *("--backend-store-uri", store, "--artifacts-destination", str(settings.artifacts)),
    )
    made.wait_for("mlflow-server", f"{addresses.mlflow}/health")
    made.wait_for("prefect-server", f"{addresses.prefect}/api/health")


def _start_workers(made: Stack, settings: Settings) -> None:
    for pool, limit in (("nightcast", None), ("nightcast-search", settings.local_workers)):
        limited = () if limit is None else ("--limit", str(limit))
        made.start(f"{WORKER}{pool}", "prefect", "worker", "start", "--pool", pool, "--name", pool, *limited)


def _deploy(settings: Settings) -> None:
    from data.catalog import load_catalog
    from flows.deploy import deploy

    deploy(load_catalog(settings.catalog))


def _require_free(addresses: Addresses) -> None:
    for name, port in (("prefect", addresses.prefect_port), ("mlflow", addresses.mlflow_port)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise StackFailed(
                    f"port {port} cannot be used: {error.strerror}. "
                    f"Remedy: nightcast up --{name}-port with another one"
                ) from error


def _clean_up(record: Path) -> None:
    """End what a killed stack left behind; refuse where one is alive."""
    if not record.exists():
        return
    content = json.loads(record.read_text())
    parent = Process.parse(content["parent"])
    if not is_dead(parent):
        raise StackFailed(
            f"process {parent.pid} on {parent.host} has this home's servers up. Remedy: end it with Ctrl-C, "
            f"or use it; where that machine is no more, remove {record}"
        )
    children = {name: Process.parse(text) for name, text in content["children"].items()}
    alive = {name: child.pid for name, child in children.items() if not is_dead(child)}
    end_all(alive, content["parent"])
    record.unlink()

"""The workers of a night's search: local processes, or runs of ``search/worker`` in a Prefect work pool."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    FlowFilter,
    FlowFilterName,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.deployments import run_deployment
from prefect.states import Cancelling

from data.errors import NightcastError

PATIENCE = 20.0
"""Seconds that a worker gets to end its trial before it is killed."""


class WorkersFailed(NightcastError):
    """No search worker could be started, or all of them ended in an error."""


class Workers(Protocol):
    """Workers that have been started."""

    def are_done(self) -> bool:
        """True once every worker has ended."""

    def errors(self) -> list[str]:
        """Why workers that have ended in an error did so."""


class LocalWorkers:
    """Worker processes of this machine, each on the leash of its standard input."""

    def __init__(self, night_run: str, count: int, logs: Path) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = [logs / f"worker-{number}.log" for number in range(count)]
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for path in self._logs:
                self._processes.append(_start(night_run, path))
        except BaseException:
            self.stop()
            raise

    def are_done(self) -> bool:
        """True once every process has ended."""
        return all(process.poll() is not None for process in self._processes)

    def errors(self) -> list[str]:
        """The last lines of each process that ended in an error."""
        ended = zip(self._processes, self._logs, strict=True)
        return [_tail(log) for process, log in ended if process.poll() not in (None, 0)]

    def stop(self) -> None:
        """Ask every process to end, wait, and kill what stays."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        deadline = time.monotonic() + PATIENCE
        for process in self._processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class PoolWorkers:
    """Runs of the deployment ``search/worker`` in a work pool, children of this flow run."""

    def __init__(self, night_run: str, count: int, pool: str) -> None:
        self._runs: list[UUID] = []
        with get_client(sync_client=True) as client:
            deployment = _search_deployment(client, pool)
        try:
            for number in range(count):
                run = run_deployment(
                    deployment,
                    parameters={"night_run": night_run},
                    flow_run_name=f"search worker {number + 1} of {count}",
                    timeout=0,
                )
                self._runs.append(run.id)  # type: ignore[union-attr]
        except BaseException:
            self.stop()
            raise

    def are_done(self) -> bool:
        """True once every run is in a final state."""
        with get_client(sync_client=True) as client:
            states = [client.read_flow_run(run).state for run in self._runs]
        return all(state is not None and state.is_final() for state in states)

    def errors(self) -> list[str]:
        """The message of each run that failed or crashed."""
        with get_client(sync_client=True) as client:
            states = [client.read_flow_run(run).state for run in self._runs]
        return [
            f"{state.name}: {state.message}"
            for state in states
            if state is not None and (state.is_failed() or state.is_crashed())
        ]

    def stop(self) -> None:
        """Cancel every run that has not ended; its Prefect worker ends the process."""
        with get_client(sync_client=True) as client:
            for run in self._runs:
                state = client.read_flow_run(run).state
                if state is None or not state.is_final():
                    client.set_flow_run_state(run, Cancelling(message="The night has ended."), force=True)


@contextmanager
def local_workers(night_run: str, count: int, logs: Path) -> Iterator[Workers]:
    """`count` worker processes; none is left when the block ends."""
    workers = LocalWorkers(night_run, count, logs)
    try:
        yield workers
    finally:
        workers.stop()


@contextmanager
def pool_workers(night_run: str, count: int, pool: str) -> Iterator[Workers]:
    """`count` runs in a work pool; those that have not ended are cancelled when the block ends.

    Raises:
        WorkersFailed: no deployment of the flow `search` belongs to that pool.
    """
    workers = PoolWorkers(night_run, count, pool)
    try:
        yield workers
    finally:
        workers.stop()


def _start(night_run: str, log: Path) -> subprocess.Popen[bytes]:
    """A worker in a session of its own: a Ctrl-C reaches the night alone, which then stops its workers."""
    with log.open("wb") as output:
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "flows.worker", night_run],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def _tail(log: Path, lines: int = 15) -> str:
    text = log.read_text(errors="replace").strip().splitlines()
    return "\n".join([f"{log}:", *text[-lines:]])


def _search_deployment(client: SyncPrefectClient, pool: str) -> UUID:
    """The deployment of the flow `search` that runs in the pool."""
    found = client.read_deployments(
        flow_filter=FlowFilter(name=FlowFilterName(any_=["search"])),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
        deployment_filter=DeploymentFilter(),
    )
    if not found:
        raise WorkersFailed(
            f"no deployment of the flow `search` runs in the work pool {pool!r}. "
            f"Remedy: nightcast deploy --search-pool {pool}"
        )
    return found[0].id

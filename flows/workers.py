"""The workers of a night's search: local processes, or runs of ``search/worker`` in a Prefect work pool."""

from __future__ import annotations

import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    FlowFilter,
    FlowFilterName,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import State
from prefect.deployments import run_deployment
from prefect.states import Cancelling

from data.errors import NightcastError
from flows import leash
from flows.leash import ASKED_TO_END

PATIENCE = 20.0
"""Seconds that a worker gets to end its trial before it is killed."""

LOOK_SECONDS = 0.1
"""Seconds between two looks at whether a local worker has ended."""

SPARE = 3
"""Workers that may be started in the place of killed ones, for each that a night asked for."""


class WorkersFailed(NightcastError):
    """No search worker could be started, or all of them ended in an error."""


class Workers(ABC):
    """Workers of one night's search, started when this is made.

    Args:
        night_run: the id of the night's MLflow run.
        count: how many.
    """

    def __init__(self, night_run: str, count: int) -> None:
        self._night_run = night_run
        self._spare = count * SPARE
        self._replaced = 0
        try:
            for _ in range(count):
                self._start()
        except BaseException:
            self.stop()
            raise

    @abstractmethod
    def wait(self, seconds: float) -> bool:
        """Wait so long, or less where every worker has ended. Returns whether they have."""

    @abstractmethod
    def errors(self) -> list[str]:
        """Why workers that have ended in an error did so."""

    @abstractmethod
    def stop(self) -> None:
        """End every worker that has not ended."""

    def replace_killed(self) -> int:
        """Start another worker for each that was killed, up to a limit; returns how many were started."""
        # A run that crashed may be found to have ended well after all.
        count = max(min(self._count_killed(), self._spare) - self._replaced, 0)
        for _ in range(count):
            self._start()
            self._replaced += 1
        return count

    @abstractmethod
    def _start(self) -> None:
        """Start another one."""

    @abstractmethod
    def _count_killed(self) -> int:
        """How many were killed so far."""


class LocalWorkers(Workers):
    """Worker processes of this machine, each on the leash of its standard input."""

    def __init__(self, night_run: str, count: int, logs: Path) -> None:
        self._logs = logs
        self._processes: list[subprocess.Popen[bytes]] = []
        super().__init__(night_run, count)

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until every process has ended."""
        deadline = time.monotonic() + seconds
        while not (done := self._are_done()) and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        return done

    def errors(self) -> list[str]:
        """The last lines of each process that ended in an error."""
        ended = enumerate(self._processes)
        return [leash.tail(self._log(number)) for number, process in ended if process.poll() not in (None, 0)]

    def stop(self) -> None:
        """Ask every process to end, wait, and kill what stays."""
        leash.release(self._processes, PATIENCE)

    def _count_killed(self) -> int:
        codes = [process.poll() for process in self._processes]
        return sum(code is not None and (code < 0 or code == ASKED_TO_END) for code in codes)

    def _are_done(self) -> bool:
        return all(process.poll() is not None for process in self._processes)

    def _log(self, number: int) -> Path:
        return self._logs / f"worker-{number}.log"

    def _start(self) -> None:
        process = leash.start(
            "flows.worker",
            self._night_run,
            log=self._log(len(self._processes)),
            environment={"OMP_NUM_THREADS": "1"},
        )
        self._processes.append(process)


class PoolWorkers(Workers):
    """Runs of the deployment ``search/worker`` in a work pool, children of this flow run."""

    def __init__(self, night_run: str, count: int, pool: str) -> None:
        self._runs: list[UUID] = []
        with get_client(sync_client=True) as client:
            self._deployment = _search_deployment(client, pool)
        super().__init__(night_run, count)

    def wait(self, seconds: float) -> bool:
        """Wait so long, or less where every run is in a final state. Asks the server once."""
        done = all(state is not None and state.is_final() for state in self._states())
        if not done:
            time.sleep(seconds)
        return done

    def errors(self) -> list[str]:
        """The message of each run that failed or crashed."""
        return [
            f"{state.name}: {state.message}"
            for state in self._states()
            if state is not None and (state.is_failed() or state.is_crashed())
        ]

    def stop(self) -> None:
        """Cancel every run that has not ended; its Prefect worker ends the process."""
        with get_client(sync_client=True) as client:
            for run in self._runs:
                state = client.read_flow_run(run).state
                if state is None or not state.is_final():
                    client.set_flow_run_state(run, Cancelling(message="The night has ended."), force=True)

    def _count_killed(self) -> int:
        return sum(state is not None and state.is_crashed() for state in self._states())

    def _states(self) -> list[State[Any] | None]:
        with get_client(sync_client=True) as client:
            return [client.read_flow_run(run).state for run in self._runs]

    def _start(self) -> None:
        run = run_deployment(
            self._deployment,
            parameters={"night_run": self._night_run},
            flow_run_name=f"search worker {len(self._runs) + 1}",
            timeout=0,
        )
        self._runs.append(run.id)  # type: ignore[union-attr]


@contextmanager
def local_workers(night_run: str, count: int, logs: Path) -> Iterator[Workers]:
    """`count` worker processes; none is left when the block ends."""
    with _stopped(LocalWorkers(night_run, count, logs)) as workers:
        yield workers


@contextmanager
def pool_workers(night_run: str, count: int, pool: str) -> Iterator[Workers]:
    """`count` runs in a work pool; those that have not ended are cancelled when the block ends.

    Raises:
        WorkersFailed: no deployment of the flow `search` belongs to that pool.
    """
    with _stopped(PoolWorkers(night_run, count, pool)) as workers:
        yield workers


@contextmanager
def _stopped(workers: Workers) -> Iterator[Workers]:
    try:
        yield workers
    finally:
        workers.stop()


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

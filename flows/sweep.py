"""Putting in order what earlier nights left behind: MLflow runs, flow runs, temporary files, old logs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect import tags
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import StateType
from prefect.context import TagsContext
from prefect.runtime import flow_run
from prefect.states import Crashed

from data.files import remove_leftovers
from data.processes import Process, is_dead, this_process
from flows.night import ENDING_TAG, Night
from lstm.promotion.records import Night as Past
from lstm.tracking.server import NotFound

TAG = "process:"
KEPT_LOGS = 30
"""Nights of a data set whose worker logs are kept."""


@contextmanager
def signed() -> Iterator[None]:
    """Flow runs that begin inside the block say from their first moment that they are this process's."""
    with tags(f"{TAG}{this_process()}"):
        yield


@contextmanager
def tasks_unsigned() -> Iterator[None]:
    """Tasks that begin inside the block have the tags of the flow run that are around it, but its process's.

    For a task's tags Prefect asks the server for a place among their limits: a round trip for each.
    """
    others = {tag for tag in TagsContext.get().current_tags if not tag.startswith(TAG)}
    with TagsContext(current_tags=others):
        yield


def sweep(night: Night) -> None:
    """End what dead processes of this host left running, and sign this flow run as ours.

    Call it with the data set's lease held: then nothing of this data set that looks alive but is not ours
    can be waited for.
    """
    name, settings = night.data_set.name, night.settings
    night.tracker.sweep(name)
    if (last := night.ledger.last_result(name)) is not None:
        mend_run(night, last)
    for folder in (settings.snapshots, settings.checkpoints, settings.forecasts):
        remove_leftovers(folder)
    _drop_old_logs(settings.root / "logs", name)
    with get_client(sync_client=True) as client:
        _crash_flow_runs(client)
        _sign(client)


def mend_run(night: Night, past: Past) -> None:
    """A night that was killed after it had its result left its MLflow run unfinished, or swept as failed."""
    run = past.details["run_id"]
    try:
        info = night.tracker.run(run).info
    except NotFound:
        # A person removed it, or the store is another one now.
        return
    if info.lifecycle_stage == "active" and info.status != "FINISHED":
        night.tracker.log_tags(run, {ENDING_TAG: str(past.ending)})
        night.tracker.end(run, "FINISHED", past.reason)


def _drop_old_logs(folder: Path, name: str) -> None:
    """What became of older nights and their trials is in the ledger and in MLflow."""
    nights = sorted(path for path in folder.glob(f"{name}.*") if path.is_dir())
    for path in nights[:-KEPT_LOGS]:
        # A log that cannot be removed is no reason to do without a night.
        shutil.rmtree(path, ignore_errors=True)


def _crash_flow_runs(client: SyncPrefectClient) -> None:
    """Mark as crashed every flow run whose processes are all dead. One that is retried has had several."""
    unended = {"state": {"type": {"any_": [StateType.PENDING, StateType.RUNNING]}}}
    for run in client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(unended)):
        owners = [Process.parse(tag.removeprefix(TAG)) for tag in run.tags if tag.startswith(TAG)]
        if owners and all(map(is_dead, owners)):
            client.set_flow_run_state(run.id, Crashed(message="Its process was killed."), force=True)


def _sign(client: SyncPrefectClient) -> None:
    mine = f"{TAG}{this_process()}"
    if flow_run.id and mine not in flow_run.tags:
        client.update_flow_run(flow_run.id, tags=[*flow_run.tags, mine])

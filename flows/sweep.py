"""Putting in order what a killed night left behind: MLflow runs, flow runs and temporary files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect import tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import StateType
from prefect.runtime import flow_run
from prefect.states import Crashed

from data.files import remove_leftovers
from data.processes import Process, is_dead, this_process
from flows.night import Night

TAG = "process:"


@contextmanager
def signed() -> Iterator[None]:
    """Flow runs that begin inside the block say from their first moment that they are this process's."""
    with tags(f"{TAG}{this_process()}"):
        yield


def sweep(night: Night) -> None:
    """End what dead processes of this host left running, and sign this flow run as ours.

    Call it with the data set's lease held: then nothing of this data set that looks alive but is not ours
    can be waited for.
    """
    night.tracker.sweep(night.data_set.name)
    for folder in (night.settings.snapshots, night.settings.checkpoints, night.settings.forecasts):
        remove_leftovers(folder)
    with get_client(sync_client=True) as client:
        unended = [StateType.PENDING, StateType.RUNNING]
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": unended}}})
        )
        for run in runs:
            owners = [Process.parse(tag.removeprefix(TAG)) for tag in run.tags if tag.startswith(TAG)]
            if any(map(is_dead, owners)):
                client.set_flow_run_state(run.id, Crashed(message="Its process was killed."), force=True)
        mine = f"{TAG}{this_process()}"
        if flow_run.id and mine not in flow_run.tags:
            client.update_flow_run(flow_run.id, tags=[*flow_run.tags, mine])

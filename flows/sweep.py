"""Putting in order what a killed night left behind: MLflow runs and flow runs that nobody ends any more."""

from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import StateType
from prefect.runtime import flow_run
from prefect.states import Crashed

from data.processes import Process, is_dead, this_process
from flows.night import Night

TAG = "process:"


def sweep(night: Night) -> None:
    """End what dead processes of this host left running, and sign this flow run as ours.

    Call it with the data set's lease held: then nothing of this data set that looks alive but is not ours
    can be waited for.
    """
    night.tracker.sweep(night.data_set.name)
    with get_client(sync_client=True) as client:
        running = client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": [StateType.RUNNING]}}})
        )
        for run in running:
            owners = [Process.parse(tag.removeprefix(TAG)) for tag in run.tags if tag.startswith(TAG)]
            if any(map(is_dead, owners)):
                client.set_flow_run_state(run.id, Crashed(message="Its process was killed."), force=True)
        if flow_run.id:
            tags = [*flow_run.tags, f"{TAG}{this_process()}"]
            client.update_flow_run(flow_run.id, tags=tags)

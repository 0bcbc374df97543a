"""Deploying the flows: `prefect.yaml`, with a schedule for every data set that asks for one."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import get_current_settings
from pydantic import ValidationError

from data.catalog import Catalog, DataSet
from data.errors import NightcastError
from lstm.settings import hide_password

PROJECT = Path(__file__).resolve().parent.parent
SCHEDULED = ("nightly", "hourly")
HOURLY = "10 * * * *"
LOST = "nightcast: a flow run without a heartbeat has crashed"


class DeployFailed(NightcastError):
    """The deployments could not be applied."""


def deploy(catalog: Catalog, search_pool: str | None = None) -> list[str]:
    """Apply the deployments to the Prefect server of ``PREFECT_API_URL``; done again it changes nothing.

    Args:
        catalog: whose data sets are scheduled.
        search_pool: a further work pool that gets a deployment of the search workers.

    Returns:
        The names of the deployments.

    Raises:
        DeployFailed: no server, not in a checkout, or `prefect deploy` refused.
    """
    if answering_server() is None:
        raise DeployFailed(
            "there is no Prefect server to deploy to. Remedy: nightcast up, or export PREFECT_API_URL"
        )
    project = PROJECT / "prefect.yaml"
    if not project.exists():
        raise DeployFailed(
            f"{project} is missing. Remedy: install Nightcast from a checkout, as `make demo` does"
        )
    declared = scheduled(yaml.safe_load(project.read_text(encoding="utf-8")), catalog, search_pool)
    _ensure_pools({entry["work_pool"]["name"] for entry in declared["deployments"]})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prefect.yaml"
        path.write_text(yaml.safe_dump(declared), encoding="utf-8")
        command = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(path)]
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", *command], cwd=PROJECT, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise DeployFailed(f"`{' '.join(command[:4])}` failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    names = {
        f"{entry['entrypoint'].split('.')[-1]}/{entry['name']}": entry for entry in declared["deployments"]
    }
    for name, entry in names.items():
        _drop_old_schedules(name, {schedule["slug"] for schedule in entry.get("schedules", ())})
    _ensure_heartbeat_automation()
    return list(names)


def answering_server() -> str | None:
    """The URL of the Prefect server, which answers, as people may read it; None where none is set.

    Raises:
        DeployFailed: it does not answer.
    """
    url = get_current_settings().api.url
    if not url:
        return None
    shown = hide_password(url)
    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if problem is not None:
        raise DeployFailed(
            f"the Prefect server at {shown} does not answer: {hide_password(url, str(problem))}. "
            "Remedy: check that it runs, and PREFECT_API_URL; unset that, and nights run without a server"
        )
    return shown


def scheduled(project: Mapping[str, Any], catalog: Catalog, search_pool: str | None = None) -> dict[str, Any]:
    """The content of `prefect.yaml` with the catalog's schedules, one a data set that has one.

    A deployment that is started without a data set takes the first one of the catalog, where that does not
    have the one that the file names.

    Raises:
        DeployFailed: the search pool is that of the nights, or a schedule is none.
    """
    if search_pool in {
        entry["work_pool"]["name"] for entry in project["deployments"] if _has_schedules(entry)
    }:
        raise DeployFailed(
            f"{search_pool} is the work pool of the nights, and a night that waits for its workers must not "
            "take their places. Remedy: name another pool; it is made where it is missing"
        )
    asking = [data_set for data_set in catalog.data_sets.values() if data_set.retrain.schedule]
    _check_schedules(asking, catalog.path)
    deployments, first = [], next(iter(catalog.data_sets), None)
    for entry in project["deployments"]:
        if first and entry.get("parameters", {}).get("data_set") not in (None, *catalog.data_sets):
            entry = {**entry, "parameters": {"data_set": first}}
        if _has_schedules(entry):
            entry = {**entry, "schedules": [_schedule(entry["name"], data_set) for data_set in asking]}
        deployments.append(entry)
        if entry["name"] == "worker" and search_pool:
            pool = {**entry["work_pool"], "name": search_pool}
            deployments.append({**entry, "name": f"worker-{search_pool}", "work_pool": pool})
    return {"name": project["name"], "deployments": deployments}


def _check_schedules(asking: Sequence[DataSet], catalog: Path) -> None:
    """Else `prefect deploy` would refuse them all, without a name."""
    for data_set in asking:
        cron = data_set.retrain.schedule
        try:
            CronSchedule(cron=cron, timezone=data_set.time_zone)
        except ValidationError as error:
            raise DeployFailed(
                f"{catalog}: {data_set.name}: retrain.schedule: {cron!r} is no cron. "
                'Remedy: minute, hour, day, month and weekday, such as "0 4 * * *" for four in the morning'
            ) from error


def _has_schedules(entry: Mapping[str, Any]) -> bool:
    return entry["name"] in SCHEDULED


def _schedule(deployment: str, data_set: DataSet) -> dict[str, Any]:
    return {
        "slug": data_set.name.replace("_", "-"),
        "cron": data_set.retrain.schedule if deployment == "nightly" else HOURLY,
        "timezone": data_set.time_zone,
        "parameters": {"data_set": data_set.name},
    }


def _ensure_pools(names: set[str]) -> None:
    with get_client(sync_client=True) as client:
        there = {pool.name for pool in client.read_work_pools()}
        for name in sorted(names - there):
            try:
                client.create_work_pool(WorkPoolCreate(name=name, type="process"))
            except ObjectAlreadyExists:
                continue


def _drop_old_schedules(deployment: str, slugs: set[str]) -> None:
    """Drop schedules of data sets that ask for none any more: `prefect deploy` only adds and changes.

    One that a person made in the user interface has no slug, and stays.
    """
    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name(deployment)
        for schedule in found.schedules:
            if schedule.slug is not None and schedule.slug not in slugs:
                client.delete_deployment_schedule(found.id, schedule.id)


def _ensure_heartbeat_automation() -> None:
    """A run whose process and worker were killed says nothing more: 90 silent seconds mean a crash."""
    with get_client(sync_client=True) as client:
        wanted = {"automations": {"name": {"any_": [LOST]}}}
        if client.request("POST", "/automations/filter", json=wanted).json():
            return
    Automation(
        name=LOST,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=90),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="No heartbeat for 90 seconds.")],
    ).create()

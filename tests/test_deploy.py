"""Deployments and schedules: what prefect.yaml and the catalog say is what the server has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from servers import Up

from data.catalog import SHIPPED, Catalog, load_catalog, parse_data_set
from flows.deploy import LOST, PROJECT, DeployFailed, scheduled

NIGHTLY, HOURLY = "/deployments/name/retrain/nightly", "/deployments/name/forecast/hourly"


@pytest.fixture
def project():
    """prefect.yaml as it stands."""
    return yaml.safe_load((PROJECT / "prefect.yaml").read_text(encoding="utf-8"))


def test_the_file_agrees_with_the_shipped_catalog(project) -> None:
    assert project["deployments"] == scheduled(project, load_catalog(SHIPPED))["deployments"]


def test_a_further_search_pool_gets_a_deployment(project) -> None:
    before, after = (scheduled(project, load_catalog(SHIPPED), pool) for pool in (None, "gpu"))
    (added,) = [entry for entry in after["deployments"] if entry not in before["deployments"]]
    (worker,) = [entry for entry in before["deployments"] if entry["name"] == "worker"]
    assert added == {**worker, "name": "worker-gpu", "work_pool": {**worker["work_pool"], "name": "gpu"}}


def test_workers_take_no_places_of_nights(project) -> None:
    with pytest.raises(DeployFailed, match=r"nightcast is the work pool of the nights.* Remedy: "):
        scheduled(project, load_catalog(SHIPPED), "nightcast")


def catalog(**schedules: str | None) -> Catalog:
    """Data sets with these schedules."""
    entry = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))["household_power"]
    retrain = entry.get("retrain", {})
    entries = {name: {**entry, "retrain": {**retrain, "schedule": cron}} for name, cron in schedules.items()}
    path = Path("/somewhere/catalog.yaml")
    return Catalog(path, {name: parse_data_set(path, name, one) for name, one in entries.items()})


def test_a_schedule_that_is_none_is_refused_by_name(project) -> None:
    for cron in ("99 4 * * *", "every night"):
        with pytest.raises(DeployFailed) as refused:
            scheduled(project, catalog(good="0 4 * * *", bad=cron, none=None))
        assert f"/somewhere/catalog.yaml: bad: retrain.schedule: '{cron}' is no cron" in str(refused.value)


def test_a_deployment_takes_a_data_set_of_the_catalog_by_itself(project) -> None:
    made = scheduled(project, catalog(first=None, second="0 4 * * *"))["deployments"]
    assert [entry.get("parameters") for entry in made] == [{"data_set": "first"}] * 3 + [None]
    assert scheduled(project, catalog())["deployments"][0]["parameters"] == {"data_set": "household_power"}


def schedules(up, deployment):
    """Cron, time zone, data set and whether it is active, by slug; and the ids."""
    found = up.get(deployment)["schedules"]
    facts = {
        one["slug"]: (
            one["schedule"]["cron"],
            one["schedule"]["timezone"],
            one["parameters"]["data_set"],
            one["active"],
        )
        for one in found
    }
    return facts, {one["id"] for one in found}


@pytest.mark.slow
def test_the_server_has_the_schedules_of_the_catalog(up: Up) -> None:
    nightly, _ = schedules(up, NIGHTLY)
    assert nightly == {
        "one": ("0 4 * * *", "Europe/Paris", "one", True),
        "three": ("30 2 * * 1-5", "Etc/GMT+5", "three", True),
    }
    hourly, _ = schedules(up, HOURLY)
    assert {slug: facts[1:] for slug, facts in hourly.items()} == {
        slug: facts[1:] for slug, facts in nightly.items()
    }


@pytest.mark.slow
def test_deploying_again_changes_what_the_catalog_changed_alone(up: Up) -> None:
    """A schedule that a person paused stays paused; one that is not asked for any more goes."""

    def deploy(*arguments):
        command = up.run("nightcast", "deploy", "--json", *arguments)
        text, _ = command.communicate()
        assert command.returncode == 0, text
        return json.loads(text[text.index("{") :])["deployments"]

    standing = up.run("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", PROJECT / "prefect.yaml")
    text, _ = standing.communicate()
    assert standing.returncode == 0, text
    facts, ids = schedules(up, NIGHTLY)
    assert set(facts) == {"household-power", "one", "three"}

    (paused,) = [one["id"] for one in up.get(NIGHTLY)["schedules"] if one["slug"] == "one"]
    up.request("PATCH", f"/deployments/{up.get(NIGHTLY)['id']}/schedules/{paused}", {"active": False})
    assert deploy("--search-pool", "gpu") == [
        *("retrain/nightly", "forecast/hourly", "compare/on-demand", "search/worker", "search/worker-gpu")
    ]
    again, same = schedules(up, NIGHTLY)
    assert again == {
        "one": ("0 4 * * *", "Europe/Paris", "one", False),
        "three": ("30 2 * * 1-5", "Etc/GMT+5", "three", True),
    }
    assert same < ids
    worker = up.get("/deployments/name/search/worker-gpu")
    assert (worker["work_pool_name"], worker["entrypoint"]) == ("gpu", "flows.search.search")
    assert len(up.post("/deployments/filter", {})) == 5
    up.pause()
    assert len(up.post("/automations/filter", {"automations": {"name": {"any_": [LOST]}}})) == 1

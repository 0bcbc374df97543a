"""Nights through `nightcast up`: deployments, a work pool, cancelling, and both servers' view of it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest
import requests
from forked import Fork
from prefect.settings import PREFECT_API_URL, temporary_settings
from servers import PROGRAMS, Up, free_ports, through, wait

from flows.loopback import answers
from flows.worker import JOB_FILE, Job, OutOfReach, require_reach
from flows.workers import WorkersFailed, pool_workers
from lstm.search import study
from lstm.tracking.runs import PROCESS_TAG, Tracker

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nights(up: Up):
    """Two nights side by side: one searches in a pool and is promoted, one is refused."""
    return {name: (command.communicate()[0], command) for name, command in up.nights.items()}


def test_a_night_is_promoted(up: Up, nights) -> None:
    text, command = nights["three"]
    assert command.returncode == 0, text + up.logs
    assert "'Promoted'" in text
    run = up.newest_run("three")
    assert (run["state"]["type"], run["state"]["name"]) == ("COMPLETED", "Promoted")
    assert set(up.tasks(run["id"])) >= {
        *("check the data", "begin the MLflow run", "find the champion", "search", "train the challenger"),
        *("judge", "train what will serve", "register", "promote version 1", "forecast and report"),
    }
    artifact = up.artifact("night-three")
    assert "promoted" in artifact
    assert "seasonal naive" in artifact
    assert up.addresses.mlflow in artifact


def test_mlflow_shows_the_night(up: Up, nights) -> None:
    (night,) = up.runs("three", "night")
    assert (night.info.status, night.data.tags["nightcast.ending"]) == ("FINISHED", "promoted")
    assert night.data.params["budget_trials"] == "2"
    trials = up.runs("three", "trial")
    assert [trial.data.tags["mlflow.parentRunId"] for trial in trials] == [night.info.run_id] * 2
    assert through(up).aliases("three") == {"champion": "1", "challenger": "1"}
    # An ensemble: the two trials have a normalisation each.
    networks = through(up).mlflow.get_model_version("three", "1").tags["networks"]
    assert ("instance" in networks, "last_value" in networks) == (True, True)
    assert up.house.ledger.champion("three").version == "1"


def test_a_search_in_a_pool_is_shared_by_its_children(up: Up, nights) -> None:
    parent = up.newest_run("three")["id"]
    children = up.children(parent)
    deployment = up.get("/deployments/name/search/worker")["id"]
    tasks = {task["id"] for task in up.tasks(parent).values()}
    assert sorted(child["name"] for child in children) == ["search worker 1", "search worker 2"]
    for child in children:
        assert child["state"]["name"] == "Completed"
        assert (child["deployment_id"], child["work_pool_name"]) == (deployment, "nightcast-search")
        assert child["parent_task_run_id"] in tasks
    (night,) = up.runs("three", "night")
    job = Job.model_validate_json(Tracker(up.addresses.mlflow).read_artifact(night.info.run_id, JOB_FILE))
    states = [trial.state for trial in study.trials(up.house.settings.study_url, job.study)]
    assert states == ["finished"] * 2


def test_a_refused_night_fails_with_its_reason(up: Up, nights) -> None:
    text, command = nights["bad"]
    assert command.returncode == 1, text
    state = up.newest_run("bad")["state"]
    assert (state["type"], state["name"]) == ("FAILED", "Refused")
    assert "bad, column load" in state["message"]
    assert "Remedy" in up.artifact("night-bad")
    (night,) = up.runs("bad", "night")
    assert night.info.status == "FAILED"


def test_an_unknown_parameter_is_rejected(nights) -> None:
    text, command = nights["typo"]
    assert command.returncode == 1
    assert "'dataset'" in text


@pytest.mark.parametrize("wrong", [{"data_set": 7}, {"budget": {"trials": 0}}, {"budget": {"trial": 1}}])
def test_a_wrong_value_is_rejected(up: Up, wrong) -> None:
    found = up.get("/deployments/name/retrain/nightly")
    path = f"{up.exports['PREFECT_API_URL']}/deployments/{found['id']}/create_flow_run"
    answer = requests.post(path, json={"parameters": wrong}, timeout=60)
    assert answer.status_code == 409, answer.text


def test_a_night_is_cancelled_a_forecast_is_stored_and_networks_are_compared(up: Up, nights) -> None:
    """Cancelling as the UI does it reaches the night's process, and its runs in a pool."""
    forecast = up.submit("forecast/hourly", data_set="three")
    little = {"networks": ["gru"], "lookbacks": [24], "trials": 1, "minutes": 0.1, "seeds": 1, "workers": 1}
    comparison = up.submit("compare/on-demand", data_set="three", **little)
    night = up.submit("retrain/nightly", data_set="long", pool="nightcast-search", workers=1)
    wait(lambda: up.trials_running("long"), 180, lambda: up.logs)
    up.post(f"/flow_runs/{night}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    (child,) = up.children(night)
    cancelled, worker = (state["type"] for state in up.until_ended(night, child["id"]))
    assert cancelled == "CANCELLED"
    # A worker that was between two trials when it was asked may have ended by itself.
    assert worker in ("CANCELLED", "COMPLETED")
    assert [run.info.status for run in up.runs("long", "night")] == ["FAILED"]
    assert not up.trials_running("long")

    stored, compared = up.until_ended(forecast, comparison)
    assert stored["name"] == "Completed", stored
    assert "version 1" in stored["message"]
    assert len(up.house.forecasts("three")) == 1
    assert "q0.5" in up.artifact("forecast-three")
    assert compared["name"] == "Completed", compared
    assert "GRU" in up.artifact("comparison-three")


def test_a_pool_without_a_deployment_is_refused(up: Up) -> None:
    with (
        temporary_settings({PREFECT_API_URL: up.exports["PREFECT_API_URL"]}),
        pytest.raises(WorkersFailed, match="nightcast deploy --search-pool nowhere"),
        pool_workers("0", 1, "nowhere"),
    ):
        pass


def test_a_search_worker_out_of_reach_says_what_is_missing(up: Up, nights, tmp_path) -> None:
    (night,) = up.runs("three", "night")
    run, client = night.info.run_id, through(up).mlflow
    settings = through(up).settings
    require_reach(run, settings)
    other_home = settings.model_copy(update={"home": tmp_path})
    for night_run, where in ((run, other_home), ("0" * 32, settings)):
        with pytest.raises(OutOfReach, match=r"(?s)Remedy.*NIGHTCAST_DATABASE_URL.*MLFLOW_TRACKING_URI"):
            require_reach(night_run, where)
    process = night.data.tags[PROCESS_TAG]
    client.set_tag(run, PROCESS_TAG, "elsewhere:1:1.00")
    with pytest.raises(OutOfReach, match=r"the night runs on elsewhere .* not safe between two machines"):
        require_reach(run, settings)
    client.set_tag(run, PROCESS_TAG, process)


def test_serving_gives_the_numbers_of_the_forecast(up: Up, nights, tmp_path) -> None:
    """Of several series with a covariate, both with gaps; a request without rows is refused."""
    body = tmp_path / "request.json"
    command = up.run("nightcast", "forecast", "three", "--json", "--request", str(body))
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    model = ("-m", "models:/three@champion", "--env-manager", "local", "-p", str(port))
    with serving(up, model, f"{address}/ping"):
        text, _ = command.communicate()
        assert command.returncode == 0, text
        request = json.loads(body.read_text())
        columns = request["dataframe_split"]["columns"]
        nothing = {"dataframe_split": {"columns": columns, "data": []}}
        answer, bad = (
            requests.post(f"{address}/invocations", json=each, timeout=60) for each in (request, nothing)
        )
    assert not bad.ok
    assert {"load", "warmth"} < set(columns)
    wanted = json.loads(text[text.index("{") :])["forecast"]
    assert {row["series"] for row in wanted} == {"north", "south", "west"}
    assert answer.json()["predictions"] == wanted


@contextmanager
def serving(up: Up, arguments: Sequence[str], health: str) -> Iterator[None]:
    """Run `mlflow models serve` until its health address answers; end it and its children afterwards."""
    with (up.elsewhere / "serve.log").open("w+") as log:
        server = Fork(
            PROGRAMS["mlflow"], "models", "serve", *arguments, stdout=log, environment=up.environment
        )
        try:
            wait(lambda: server.poll() is not None or answers(health, 5), 120)
            assert server.poll() is None, (up.elsewhere / "serve.log").read_text()
            yield
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()

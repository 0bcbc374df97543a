"""A night with its ledger and its study in PostgreSQL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nights import House
from postgres_server import binaries, postgres
from pydantic import SecretStr
from servers import WEEKS, Up

from flows.worker import JOB_FILE, Job, require_reach
from lstm.promotion.ledger import Ledger
from lstm.search import study
from lstm.settings import Settings
from lstm.tracking.runs import PROCESS_TAG, Tracker

pytestmark = [
    pytest.mark.slow,
    pytest.mark.postgres,
    pytest.mark.skipif(binaries() is None, reason="needs PostgreSQL server binaries"),
]


def test_a_night_in_postgres(up: Up, tmp_path: Path) -> None:
    house = House(tmp_path)
    house.declare("shared")
    house.write("shared", WEEKS * 168)
    with postgres() as url:
        environment = {**house.environment, "NIGHTCAST_DATABASE_URL": url}
        command = up.run("nightcast", "retrain", "shared", "--json", environment=environment)
        text, _ = command.communicate()
        assert command.returncode == 0, text
        outcome = json.loads(text[text.index("\n{\n") if "\n{\n" in text else text.index("{") :])
        assert (outcome["ending"], outcome["model_version"]) == ("promoted", "1")
        champion = Ledger(url).champion("shared")
        assert champion is not None
        assert champion.version == "1"

        stores = {"tracking_uri": up.addresses.mlflow, "database_url": SecretStr(url)}
        settings = Settings(home=tmp_path / "other").model_copy(update=stores)
        (night,) = up.runs("shared", "night")
        tracker = Tracker(up.addresses.mlflow)
        job = Job.model_validate_json(tracker.read_artifact(night.info.run_id, JOB_FILE))
        assert [trial.state for trial in study.trials(url, job.study)] == ["finished"] * 2
        # A worker on another machine may join.
        tracker.log_tags(night.info.run_id, {PROCESS_TAG: "elsewhere:1:1.00"})
        require_reach(night.info.run_id, settings)
    assert not list(house.home.glob("ledger.db*"))
    assert not list(house.home.glob("optuna.db*"))

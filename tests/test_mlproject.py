"""The MLflow project: its parameters are the command line's, and `mlflow run` runs a night."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import typer
import yaml
from mlflow import MlflowClient
from servers import Up, furnish
from shim import nightcast_first

from flows.cli import app
from flows.deploy import PROJECT


@pytest.fixture
def project():
    """mlproject.yaml as it stands."""
    return yaml.safe_load((PROJECT / "mlproject.yaml").read_text(encoding="utf-8"))


def test_mlflow_finds_it_by_a_link() -> None:
    link = PROJECT / "MLproject"
    assert link.is_symlink()
    assert link.readlink() == Path("mlproject.yaml")
    listed = subprocess.run(
        ["git", "ls-files", "--stage", "MLproject"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert listed.stdout.startswith("120000 "), "git keeps a copy, not a link"


def test_parameters_are_options_with_the_same_defaults(project) -> None:
    commands = typer.main.get_command(app).commands
    for entry in project["entry_points"].values():
        program, name, *words = entry["command"].split()
        assert program == "nightcast"
        known = {option: parameter for parameter in commands[name].params for option in parameter.opts}
        used = re.findall(r"(--[\w-]+) \{(\w+)\}", " ".join(words))
        for option, parameter in used:
            assert entry["parameters"][parameter]["default"] == known[option].default, option
        given = {"data_set", *(parameter for _, parameter in used)} if words else set()
        assert set(entry.get("parameters", {})) == given


@pytest.mark.slow
def test_a_night_and_a_forecast_through_mlflow_run(up: Up, tmp_path: Path, lived_in: Path) -> None:
    """No store is chosen: the night goes to the home, whatever folder MLflow keeps its own run in."""
    house = furnish(tmp_path / "house", lived_in)

    def run(path, entry, **parameters):
        environment = {**house.environment, "MLFLOW_TRACKING_URI": "", "PATH": path}
        given = [word for name, value in parameters.items() for word in ("-P", f"{name}={value}")]
        command = up.run(
            *("mlflow", "run", PROJECT, "-e", entry, "--env-manager", "local", "-P", "data_set=one", *given),
            environment=environment,
        )
        text, _ = command.communicate()
        assert command.returncode == 0, text
        return text

    with nightcast_first(tmp_path / "bin") as path:
        assert "promoted" in run(path, "retrain", trials=1)
        told = run(path, "forecast")
    (night,) = house.runs("one", "night")
    assert (night.info.status, night.data.params["budget_trials"]) == ("FINISHED", "1")
    assert "champion version 1" in told
    assert len(house.forecasts("one")) == 1
    own = MlflowClient(f"sqlite:///{up.elsewhere / 'mlflow.db'}").search_runs(["0"])
    assert [one.info.status for one in own] == ["FINISHED"] * 2
    assert not (PROJECT / "mlflow.db").exists()

"""The command line: quick help with examples, one JSON object on standard output, exit statuses that tell."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from forked import Fork
from nights import BIN, NIGHTCAST
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner, Result

from flows.cli import app
from flows.cli.nights import DEMO, _print
from flows.cli.output import AsJson, Commands
from flows.night import Outcome
from lstm.settings import Settings

HEAVY = (
    "mlflow",
    "numpy",
    "optuna",
    "pandas",
    "polars",
    "prefect",
    "pydantic",
    "sqlalchemy",
    "torch",
    "yaml",
)
SPACE = {
    "cell": ["gru"],
    "hidden_size": [4],
    "num_layers": [1],
    "dropout": {"low": 0.0, "high": 0.0},
    "segment_length": [12],
    "lookback": [24],
    "learning_rate": {"low": 0.01, "high": 0.01},
    "batch_size": [32],
}


def commands(group: TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command as it is written after `nightcast`."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


ROOT = get_command(app)
assert isinstance(ROOT, TyperGroup)
COMMANDS = sorted(commands(ROOT))


class Shell:
    """`nightcast` in a home of its own, with a catalog that holds a tiny data set under the demo's name."""

    def __init__(self, folder: Path, lived_in: Path) -> None:
        self.folder = folder
        self.catalog = folder / "catalog.yaml"
        shutil.copytree(lived_in, folder / "home")
        retrain = {
            "horizon": 6,
            "validation": "4d",
            "judge": "4d",
            "max_epochs": 3,
            "search_space": SPACE,
            "budget": {"trials": 2, "minutes": 1},
        }
        entry = {
            "source": {"kind": "csv", "path": "load.csv"},
            "time": "time",
            "target": "load",
            "frequency": "h",
            "clock": "data",
            "retrain": retrain,
        }
        self.catalog.write_text(yaml.safe_dump({DEMO: entry}))
        walk, values = np.random.default_rng(0), [50.0]
        for noise in walk.normal(0, 1, 24 * 40):
            values.append(50 + 0.95 * (values[-1] - 50) + noise)
        start = datetime(2024, 1, 1)  # noqa: DTZ001
        rows = [f"{start + timedelta(hours=hour)},{value:.3f}" for hour, value in enumerate(values)]
        (folder / "load.csv").write_text("\n".join(["time,load", *rows]) + "\n")

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """The command in a process of its own, forked."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTCAST_")}
        own = {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "NIGHTCAST_HOME": str(self.folder / "home"),
            "NIGHTCAST_CATALOG": str(self.catalog),
            "NIGHTCAST_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
        }
        full = {**kept, **own, **environment}
        with TemporaryFile("w+") as stdout, TemporaryFile("w+") as stderr:
            files = {"stdout": stdout, "stderr": stderr}
            command = Fork(NIGHTCAST, *arguments, **files, environment=full, folder=self.folder)
            try:
                command.wait(200)
            finally:
                command.kill()
            stdout.seek(0)
            stderr.seek(0)
            return subprocess.CompletedProcess(
                arguments, command.wait(), stdout=stdout.read(), stderr=stderr.read()
            )

    @property
    def settings(self) -> Settings:
        return Settings(home=self.folder / "home", catalog=self.catalog)

    def invoke(self, *arguments: str) -> Result:
        """The same in this process, which has long imported what it needs."""
        variables = {"NIGHTCAST_HOME": str(self.settings.home), "NIGHTCAST_CATALOG": str(self.catalog)}
        return CliRunner().invoke(app, arguments, env={**variables, "COLUMNS": "80", "TERM": "dumb"})

    def here(self, status: int, *arguments: str) -> dict[str, Any]:
        """The object that a command prints in this process."""
        done = self.invoke(*arguments, "--json")
        assert done.exit_code == status, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def answer(self, status: int, *arguments: str, **environment: str) -> dict[str, Any]:
        """The one object that a command prints with ``--json``."""
        done = self(*arguments, "--json", **environment)
        assert done.returncode == status, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory, lived_in: Path) -> Shell:
    return Shell(tmp_path_factory.mktemp("shell"), lived_in)


def test_help_imports_nothing_that_takes_long() -> None:
    program = (
        "import sys; from flows.cli import main; sys.argv = ['nightcast', '--help']\n"
        "try:\n    main()\n"
        f"finally:\n    sys.exit(', '.join(name for name in {HEAVY!r} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(name in done.stdout for name in ROOT.commands)


def test_every_command_is_known() -> None:
    assert {" ".join(path) for path in COMMANDS} == {
        *(
            "demo",
            "retrain",
            "forecast",
            "explain",
            "compare",
            "history",
            "rollback",
            "retire",
            "up",
            "deploy",
            "doctor",
        ),
        *("data add", "data check", "data list"),
    }


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80", "TERM": "dumb"})
    assert shown.exit_code == 0
    text = " ".join(shown.stdout.split())
    assert f"Example: nightcast {' '.join(path)}" in text
    assert (
        shown.stdout == CliRunner().invoke(app, [*path, "-h"], env={"COLUMNS": "80", "TERM": "dumb"}).stdout
    )


@pytest.mark.parametrize("path", [("",), ("data",)])
def test_a_groups_help_has_a_line_a_command(path: tuple[str, ...]) -> None:
    """At 80 columns no summary wraps."""
    shown = CliRunner().invoke(app, [*filter(None, path), "--help"], env={"COLUMNS": "80", "TERM": "dumb"})
    listed = shown.stdout.partition("Commands")[2].splitlines()[1:]
    listed = [line.strip("│ ") for line in listed if line.startswith("│")]
    group = ROOT.commands["data"] if path == ("data",) else ROOT
    assert isinstance(group, TyperGroup)
    assert [line.split()[0] for line in listed] == list(group.commands)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["retrian"], "Did you mean 'retrain'"),
        (["data", "chek"], "Did you mean 'check'"),
        (["retrain", "x", "--trails", "3"], "Possible options: --trials"),
        (["demo", "--foo"], "No such option: --foo"),
        (["retrain"], "Missing argument 'DATA_SET'"),
        (["retrain", "household_powr"], "did you mean 'household_power'?"),
        (["forecast", "household_powr"], "did you mean 'household_power'?"),
        (["history", "zzz"], "no data set 'zzz'; it has household_power"),
        (["rollback", "houshold_power"], "did you mean 'household_power'?"),
        (["retire", "houshold_power"], "did you mean 'household_power'?"),
        (["data", "check", "houshold_power"], "did you mean 'household_power'?"),
        (["retrain", DEMO, "--trials", "many"], "--trials: 'many' is not a whole number above 0"),
        (["retrain", DEMO, "--trials", "0"], "--trials: '0' is not a whole number above 0"),
        (["retrain", DEMO, "--minutes", "nan"], "--minutes: 'nan' is not a number above 0"),
        (["retrain", DEMO, "--as-of", "yesterday"], "'yesterday' is not a time; write it as 2010-11-19T20"),
        (["retrain", DEMO, "--workers", "0"], "greater than or equal to 1"),
    ],
)
def test_wrong_usage_is_status_2_with_the_nearest_name(arguments: list[str], text: str, shell: Shell) -> None:
    environment = {"NIGHTCAST_CATALOG": str(shell.catalog), "NIGHTCAST_HOME": str(shell.folder / "home")}
    done = CliRunner().invoke(app, arguments, env={**environment, "COLUMNS": "200"})
    assert done.exit_code == 2
    assert text in done.stderr
    assert done.stdout == ""
    asked = CliRunner().invoke(app, [*arguments, "--json"], env={**environment, "COLUMNS": "200"})
    assert asked.exit_code == 2
    answer = json.loads(asked.stdout)
    assert text in answer["error"]
    assert answer["kind"] in ("WrongUsage", "UnknownDataSet")


@pytest.mark.parametrize(
    ("port", "text"),
    [("99999", "less than or equal to 65535"), ("5000", "each server needs a port of its own")],
)
def test_up_wants_two_ports(port: str, text: str) -> None:
    done = CliRunner().invoke(app, ["up", "--prefect-port", port], env={"COLUMNS": "200"})
    assert (done.exit_code, text in done.stderr) == (2, True)


def test_standard_output_is_for_the_answer_alone() -> None:
    """Whoever else writes to it, in whichever way, even while the process ends."""
    program = """
import atexit, os, subprocess, sys
from flows.cli.output import emit, keep_stdout_for_answers
print("before")
sys.stdout.flush()
keep_stdout_for_answers()
atexit.register(lambda: os.write(1, b"at exit"))
print("printed")
os.write(1, b"written")
subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)
emit({"answer": 42})
print("after")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("before\n")
    assert json.loads(done.stdout.removeprefix("before\n")) == {"answer": 42}
    for noise in ("printed", "written", "by a child", "after", "at exit"):
        assert noise in done.stderr


def test_one_object_on_success_on_refusal_and_on_wrong_usage(shell: Shell) -> None:
    found = shell.answer(0, "data", "check", DEMO)
    assert found["rows"] == 24 * 40 + 1
    assert set(found["spans"]) == {"train", "validation", "judge"}
    assert found["findings"] == []
    refused = shell.answer(1, "data", "add", "nowhere.csv")
    assert refused["kind"] == "DataRefused"
    assert "Remedy: give the path of a CSV" in refused["error"]
    assert shell.answer(2, "retrian")["kind"] == "WrongUsage"
    wrong = shell.answer(2, "data", "list", NIGHTCAST_DEVICE="gpu")
    assert wrong["error"].startswith("NIGHTCAST_DEVICE: ")
    assert wrong["kind"] == "SettingsError"


def test_a_file_that_cannot_be_written_is_no_traceback(shell: Shell) -> None:
    nowhere = shell.folder / "load.csv" / "catalog.yaml"
    done = shell("data", "add", "load.csv", NIGHTCAST_CATALOG=str(nowhere))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"{shell.folder}/load.csv" in done.stderr


def test_a_path_in_brackets_is_told_as_it_is(shell: Shell) -> None:
    """Rich would take them for its own markup."""
    path = shell.folder / "[bold]" / "mine.yaml"
    path.parent.mkdir()
    environment = {"NIGHTCAST_CATALOG": str(path), "NIGHTCAST_HOME": str(path.parent / "[/]")}
    for arguments in (["data", "add", str(shell.folder / "load.csv"), "--name", "mine"], ["data", "list"]):
        told = CliRunner().invoke(app, arguments, env={**environment, "COLUMNS": "200"})
        assert (told.exit_code, str(path) in told.stdout) == (0, True)


def test_doctor_shows_no_password_and_an_error_as_it_is(shell: Shell) -> None:
    environment = {
        "NIGHTCAST_HOME": str(shell.folder / "[/] home"),
        "NIGHTCAST_CATALOG": str(shell.folder / "[dim]" / "none.yaml"),
        "NIGHTCAST_TRACKING_URI": "http://me:hidden@127.0.0.1:9",
        "PREFECT_API_URL": "http://me:hidden@127.0.0.1:9/api",
        "NIGHTCAST_DATABASE_URL": "postgresql://me:hidden@127.0.0.1:9/night",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "PREFECT_CLIENT_MAX_RETRIES": "0",
        "COLUMNS": "400",
    }
    told = shell("doctor", **environment)
    assert told.returncode == 1
    assert "hidden" not in told.stdout + told.stderr
    for text in ("[/] home", "[dim]/none.yaml", *("http://me:***@127.0.0.1:9",) * 2):
        assert text in told.stdout
    assert told.stdout.count("***") >= 3


def test_a_file_becomes_a_data_set(shell: Shell) -> None:
    path = shell.folder / "mine.yaml"
    done = shell("data", "add", "load.csv", "--name", "mine", NIGHTCAST_CATALOG=str(path))
    assert done.returncode == 0
    assert "nightcast data check mine; nightcast retrain mine" in done.stdout
    assert yaml.safe_load(path.read_text())["mine"]["target"] == "load"
    again = shell.answer(2, "data", "add", "load.csv", "--name", "mine", NIGHTCAST_CATALOG=str(path))
    assert "the name is taken" in again["error"]
    listed = shell("data", "list", NIGHTCAST_CATALOG=str(path), COLUMNS="80")
    assert listed.stdout.splitlines()[1].split() == ["mine", "load", "h", "24,", "168", "24", "-"]


@pytest.mark.slow
def test_a_night_and_the_day_after(shell: Shell) -> None:
    """The demo as a program asks for it, then what a person does with its champion."""
    night = shell("demo", "--json", "--workers", "1")
    assert night.returncode == 0, night.stderr
    _is_a_night(json.loads(night.stdout))
    stages = {line.split()[0]: float(line.split()[1]) for line in night.stderr.splitlines() if " s" in line}
    assert " ".join(stages) == "start check record search train judge refit register report"
    assert stages["start"] > 0.1  # until a server answers
    for chatter in ("INFO", "mlflow.", "prefect.", "http://"):
        assert chatter not in night.stderr

    request, picture = shell.folder / "request.json", shell.folder / "picture.png"
    made = shell.here(0, "forecast", DEMO, "--request", str(request), "--picture", str(picture))
    assert len(made["forecast"]) == 6
    assert "dataframe_split" in json.loads(request.read_text())
    assert picture.read_bytes().startswith(b"\x89PNG")

    folder = shell.folder / "inside"
    inside = shell.here(0, "explain", DEMO, "--output", str(folder), "--at", "2024-02-05T12:30")
    assert (inside["version"], inside["cell"], inside["at"]) == ("1", "gru", "2024-02-05 12:00+00:00")
    assert set(inside["gates"]) == {"reset_gate", "update_gate"}
    assert set(inside["importance"]["columns"]) == {"load", "hour_of_day", "day_of_week", "day_of_year"}
    assert sorted(path.name for path in folder.iterdir()) == ["gates.png", "gradients.png", "importance.png"]
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in inside["pictures"].values())
    told = shell.invoke("explain", DEMO, "--output", str(folder)).stdout
    assert f"{DEMO}, champion version 1 (GRU), 24 steps up to 2024-02-" in told
    for part in ("update gate", "half forgotten after", "LSTM", "hour of day", "gates.png"):
        assert part in told
    assert (
        "a time from 2024-01-01 23:00+00:00 to"
        in shell.here(1, "explain", DEMO, "--at", "2020-01-01")["error"]
    )
    assert "no series 'x'" in shell.here(1, "explain", DEMO, "--series", "x")["error"]

    assert "no previous version" in shell.here(1, "rollback", DEMO)["error"]
    assert shell.here(0, "retire", DEMO, "--reason", "a [test]")["champion"] is None
    assert "there is no champion" in shell.here(1, "forecast", DEMO)["error"]
    assert "there is no champion" in shell.here(1, "explain", DEMO)["error"]
    assert shell.here(0, "rollback", DEMO)["champion"] == made["version"]

    kinds = [entry["kind"] for entry in shell.here(0, "history")["decisions"]]
    assert kinds == ["rolled back", "retired", "promoted"]
    told = shell.invoke("history", DEMO).stdout
    assert f"version {made['version']} serves since" in told
    assert "a [test]" in told
    assert "Night as of 2024-02-03 00:00+00:00." in told
    assert max(map(len, told.splitlines())) <= 80
    rows = shell.invoke("forecast", DEMO).stdout.splitlines()
    assert [row.split()[0] for row in rows[2:8]] == ["2024-02-10"] * 6


def _is_a_night(outcome: dict[str, Any]) -> None:
    assert outcome["ending"] == "promoted"
    assert set(outcome["scores"]) == {"challenger", "seasonal_naive", "linear"}
    for scores in outcome["scores"].values():
        assert all(isinstance(scores[key], float) for key in ("mae", "mse", "pinball"))
    assert list(outcome["seconds"])[:2] == ["start", "check"]
    assert {"search", "train", "judge", "refit", "register"} <= outcome["seconds"].keys()
    assert outcome["model_version"] == outcome["champion"] == "1"
    assert outcome["tracking_uri"].startswith("sqlite:///")


def test_the_end_is_told_in_eighty_columns(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    scores = {"mae": 0.5, "mse": 0.4, "pinball": 0.2, "coverage": 0.8}
    rivals = ("challenger", "champion", "seasonal_naive", "linear")
    reason = "MAE 0.5000 does not beat the champion's 0.5001 by the margin of 0.5%. " * 2
    outcome = Outcome(
        DEMO,
        "2010-11-19 21:00+01:00",
        "kept",
        reason,
        champion="3",
        run_id="0" * 32,
        tracking_uri="sqlite:///home/mlflow.db",
        scores=dict.fromkeys(rivals, scores),
        findings=("a gap of 9 steps in [load], masked",),
    )
    _print(shell.settings, outcome)
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= 80
    lines = [" ".join(line.split()) for line in told.splitlines()]
    for rival in rivals:
        assert f"{rival.replace('_', ' ')} 0.500 0.400 0.200 0.800" in lines
    assert lines[1] == "on the judge windows MAE MSE pinball coverage"
    assert "kept MAE 0.5000 does not beat the champion's 0.5001" in " ".join(lines)
    assert "• a gap of 9 steps in [load], masked" in lines
    for where in (f"nightcast forecast {DEMO}", f"nightcast history {DEMO}", "nightcast up"):
        assert where in told


def test_a_first_night_that_keeps_has_no_forecast_to_look_at(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    _print(shell.settings, Outcome(DEMO, "now", "refused", "Stale."))
    told = capsys.readouterr().out
    assert "refused  Stale." in told
    assert "nightcast forecast" not in told
    assert "MAE" not in told
    assert "traceback" not in told
    _print(shell.settings, Outcome(DEMO, "now", "failed", "ValueError: odd."))
    assert "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL=ERROR" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (KeyboardInterrupt(), 130, "Interrupted\nThe same command takes it up again.\n"),
        (SystemExit(143), 143, "Interrupted\nThe same command takes it up again.\n"),
        (ZeroDivisionError("odd"), 1, ""),
        (PermissionError(13, "Permission denied", "a.png"), 1, "Failed\na.png: Permission denied.\n"),
    ],
)
def test_an_unexpected_end_is_an_answer_too(error: BaseException, status: int, told: str) -> None:
    """An error that nobody expected keeps its traceback."""
    here = typer.Typer(cls=Commands)

    @here.command()
    def fail(as_json: AsJson = False) -> None:
        raise error

    @here.command()
    def other() -> None: ...

    done = CliRunner().invoke(here, ["fail", "--json"])
    assert done.exit_code == status
    kind = "Interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else type(error).__name__
    assert json.loads(done.stdout)["kind"] == kind
    assert done.stderr == told
    assert (done.exception is error) == isinstance(error, ZeroDivisionError | SystemExit)

"""Commands in a home of their own: one JSON object on standard output, and refusals that name the nearest."""

from __future__ import annotations

import contextlib
import json
import socket
import threading

import pytest
import yaml
from shells import Shell
from typer.testing import CliRunner

from flows.cli import app
from flows.cli.nights import DEMO


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


def test_a_prefect_server_that_is_away_is_a_sentence(shell: Shell) -> None:
    environment = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_CLIENT_MAX_RETRIES": "0"}
    told = shell("retrain", "household_power", **environment)
    assert told.returncode == 1
    assert "Traceback" not in told.stderr
    assert "the Prefect server at http://127.0.0.1:9/api does not answer" in told.stderr
    assert "PREFECT_API_URL" in told.stderr


def test_doctor_says_what_else_it_found_where_the_home_is_none(shell: Shell) -> None:
    path = shell.folder / "file"
    path.touch()
    told = shell("doctor", NIGHTCAST_HOME=str(path), COLUMNS="400")
    assert told.returncode == 1
    assert "Traceback" not in told.stderr
    words = " ".join(told.stdout.split())
    assert f"✗ home {path}: Not a directory. Remedy: check NIGHTCAST_HOME" in words
    assert "✓ catalog 1 data set, " in words


def test_doctor_asks_a_tracking_server_that_hangs_up_once_more_and_no_oftener(shell: Shell) -> None:
    """A night asks it for minutes; a person who asks wants to know now."""
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            with contextlib.suppress(OSError):  # shut below
                while True:
                    listener.accept()[0].close()
                    calls.append(1)

        answering = threading.Thread(target=hang_up)
        answering.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        told = shell("doctor", NIGHTCAST_TRACKING_URI=url, COLUMNS="400")
        listener.shutdown(socket.SHUT_RDWR)
        answering.join()
    assert told.returncode == 1
    assert len(calls) == 2


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

"""Settings: each from the environment, a wrong one named, and no value of it shown."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.catalog import SHIPPED
from data.errors import SettingsError
from lstm.settings import (
    BRIEF_WAIT,
    TELEMETRY_OFF,
    Settings,
    hide_password,
    load_settings,
    prepare_environment,
)

SECRET = "s3cret-pa55"


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("NIGHTCAST_", "MLFLOW_TRACKING")):
            monkeypatch.delenv(name)


def refused(**variables: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        with pytest.raises(SettingsError) as error:
            load_settings()
    return str(error.value)


def loaded(**variables: str) -> Settings:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return load_settings()


def test_nothing_needs_to_be_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    assert settings.root == tmp_path / ".nightcast"
    assert settings.catalog == SHIPPED
    assert settings.mlflow_uri == f"sqlite:///{tmp_path}/.nightcast/mlflow.db"
    assert settings.ledger_url == f"sqlite:///{tmp_path}/.nightcast/ledger.db"
    assert settings.study_url == f"sqlite:///{tmp_path}/.nightcast/optuna.db"
    folders = (settings.artifacts, settings.snapshots, settings.checkpoints, settings.forecasts)
    assert len(set(folders)) == 4
    assert {folder.parent for folder in folders} == {settings.root}
    assert settings.device == "auto"
    assert 1 <= settings.local_workers <= 4
    assert not settings.is_shared
    assert not settings.root.exists()


def test_each_has_its_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = loaded(
        NIGHTCAST_HOME=str(tmp_path / "here"),
        NIGHTCAST_CATALOG="mine.yaml",
        NIGHTCAST_TRACKING_URI="http://mlflow.example:5000",
        NIGHTCAST_DATABASE_URL=f"postgresql+psycopg://me:{SECRET}@db.example/nights",
        NIGHTCAST_DEVICE="cpu",
        NIGHTCAST_WORKERS="7",
    )
    assert settings.root == tmp_path / "here"
    assert settings.catalog == Path("mine.yaml")
    assert settings.mlflow_uri == "http://mlflow.example:5000"
    assert settings.ledger_url == settings.study_url
    assert SECRET in settings.ledger_url
    assert settings.device == "cpu"
    assert settings.local_workers == 7
    assert settings.is_shared
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert loaded(NIGHTCAST_HOME="~/nights").root == tmp_path / "nights"


def test_mlflows_own_variable_counts_too_and_ours_comes_first() -> None:
    assert loaded(MLFLOW_TRACKING_URI="http://theirs:1").mlflow_uri == "http://theirs:1"
    both = loaded(MLFLOW_TRACKING_URI="http://theirs:1", NIGHTCAST_TRACKING_URI="http://ours:1")
    assert both.mlflow_uri == "http://ours:1"


def test_an_empty_variable_is_not_set() -> None:
    assert loaded(NIGHTCAST_DEVICE="", NIGHTCAST_WORKERS="", NIGHTCAST_TRACKING_URI="") == load_settings()


@pytest.mark.parametrize(
    ("database", "tracking", "shared"),
    [
        ("postgresql+psycopg://me@db/base", "http://mlflow:5000", True),
        ("postgresql+psycopg://me@db/base", "https://mlflow", True),
        ("postgresql+psycopg://me@db/base", "sqlite:///mlflow.db", False),
        ("", "http://mlflow:5000", False),
    ],
)
def test_shared_is_what_another_machine_can_reach(database: str, tracking: str, shared: bool) -> None:
    settings = loaded(NIGHTCAST_DATABASE_URL=database, NIGHTCAST_TRACKING_URI=tracking)
    assert settings.is_shared is shared


@given(st.integers(-5, 5), st.sampled_from(["", "x", ".5"]))
def test_workers_are_a_number_above_0(number: int, rest: str) -> None:
    text = f"{number}{rest}"
    if rest == "" and number >= 1:
        assert loaded(NIGHTCAST_WORKERS=text).local_workers == number
    else:
        assert refused(NIGHTCAST_WORKERS=text).startswith("NIGHTCAST_WORKERS: Input should be")


@pytest.mark.parametrize("scheme", ["http", "https", "postgresql", "postgresql+psycopg"])
def test_an_address_is_shown_without_its_password(scheme: str) -> None:
    address = f"{scheme}://me:{SECRET}@mlflow.example.com:5000/store"
    shown = f"{scheme}://me:***@mlflow.example.com:5000/store"
    assert hide_password(address) == loaded(NIGHTCAST_TRACKING_URI=address).shown_mlflow_uri == shown
    assert hide_password(address, f"{address} is away") == f"{shown} is away"
    assert hide_password("sqlite:////home/mlflow.db") == "sqlite:////home/mlflow.db"


def test_a_wrong_value_is_named_and_not_shown() -> None:
    text = refused(NIGHTCAST_DEVICE=SECRET, NIGHTCAST_WORKERS="0")
    assert text.splitlines() == [
        "NIGHTCAST_DEVICE: Input should be 'auto', 'cpu' or 'cuda'",
        "NIGHTCAST_WORKERS: Input should be greater than or equal to 1",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIGHTCAST_DEVICE", SECRET)
        with pytest.raises(SettingsError) as error:
            load_settings()
    assert SECRET not in "".join(traceback.format_exception(error.value))


def test_an_unknown_variable_suggests_the_nearest() -> None:
    text = refused(NIGHTCAST_DATABSE_URL=f"postgresql://me:{SECRET}@host/base")
    assert text == "NIGHTCAST_DATABSE_URL: unknown setting; did you mean NIGHTCAST_DATABASE_URL?"
    text = refused(NIGHTCAST_ZZZZZ="1")
    assert "the settings are NIGHTCAST_CATALOG, NIGHTCAST_DATABASE_URL, NIGHTCAST_DEVICE" in text


@pytest.fixture
def _restored() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in (*TELEMETRY_OFF, *BRIEF_WAIT, "OMP_WAIT_POLICY"):
            patch.delenv(name, raising=False)
        yield


@pytest.mark.usefixtures("_restored")
def test_telemetry_is_off_unless_somebody_turned_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "false")
    for name in ("MLFLOW_DISABLE_TELEMETRY", "PREFECT_SERVER_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "taken back at the end")
        monkeypatch.delenv(name)
    prepare_environment()
    assert os.environ["DO_NOT_TRACK"] == "false"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


@pytest.mark.usefixtures("_restored")
def test_threads_wait_briefly_unless_somebody_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    [(name, value)] = BRIEF_WAIT.items()
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    prepare_environment()
    assert name not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setenv(name, "taken back at the end")
    monkeypatch.delenv(name)
    prepare_environment()
    assert os.environ[name] == value
    monkeypatch.setenv(name, "7")
    prepare_environment()
    assert os.environ[name] == "7"


def test_nothing_happens_on_import() -> None:
    program = "import os; before = dict(os.environ); import lstm.settings; assert dict(os.environ) == before"
    subprocess.run([sys.executable, "-c", program], check=True)

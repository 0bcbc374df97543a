"""Runs, registry and serving through a real MLflow server, over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
import numpy as np
import pytest
import requests
from bundles import make_bundle
from servers import free_ports

from data.panel import Panel
from lstm.promotion.identity import Identity
from lstm.promotion.ledger import Ledger
from lstm.tracking.bundle_files import save
from lstm.tracking.forecast import rows_of
from lstm.tracking.registry import Registry, save_model
from lstm.tracking.runs import Tracker
from lstm.tracking.server import NotFound, global_store

pytestmark = pytest.mark.slow

NIGHT = Identity("made", "2010-11-19T20:00:00Z", "0123456789ab")


@contextmanager
def serving(arguments: Sequence[str], health: str, folder: Path) -> Iterator[None]:
    """Run an MLflow command until its health address answers; end it and its children afterwards."""
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "true"}
    # `mlflow models serve` looks for uvicorn on the path.
    quiet["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [sys.executable, "-m", "mlflow", *arguments]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for(health, server, folder / "server.log")
            yield
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def wait_for(health: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and server.poll() is None:
        try:
            if requests.get(health, timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.3)
    pytest.fail(f"the server did not start:\n{log.read_text()}")


def test_a_night_through_a_server(tmp_path: Path, lived_in: Path, make_panel: Callable[..., Panel]) -> None:
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    store = f"sqlite:///{shutil.copy(lived_in / 'mlflow.db', tmp_path)}"
    arguments = ["server", "--workers", "1", "--port", str(port), "--backend-store-uri", store]
    arguments += ["--artifacts-destination", str(tmp_path / "artifacts")]
    panel = make_panel(steps=120)
    bundle = make_bundle(panel)
    with serving(arguments, f"{address}/health", tmp_path):
        tracker, registry = Tracker(address, tmp_path / "unused"), Registry(address)
        run = tracker.start_night(NIGHT)
        assert tracker.start_night(NIGHT) == run
        assert (
            tracker.link(run) == f"{address}/#/experiments/{tracker.run(run).info.experiment_id}/runs/{run}"
        )
        tracker.log_text(run, "{}", "night.json")
        assert tracker.read_artifact(run, "night.json") == "{}"
        with pytest.raises(NotFound):
            tracker.read_artifact(run, "nothing.json")
        assert registry.aliases("made") == {}
        with pytest.raises(NotFound):
            registry.load("made", "1")
        assert [registry.register(bundle, NIGHT, run, panel) for _ in range(2)] == ["1", "1"]
        loaded = registry.load("made", "1")
        np.testing.assert_array_equal(loaded.forecast(panel).values_SHQ, bundle.forecast(panel).values_SHQ)
        ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
        ledger.begin_night(NIGHT)
        ledger.promote(NIGHT, "1", None, "")
        registry.sync("made", ledger)
        assert registry.aliases("made") == {"challenger": "1", "champion": "1"}
        with global_store(address):
            served = mlflow.pyfunc.load_model("models:/made@champion")
        rows = rows_of(panel, bundle.layout, bundle.history)
        assert len(served.predict(rows)) == bundle.recipe.model.horizon
        tracker.end(run, "FINISHED")
    assert not (tmp_path / "unused").exists()


def test_models_serve_gives_the_same_numbers(tmp_path: Path, make_panel: Callable[..., Panel]) -> None:
    panel = make_panel(steps=120, series=("a", "b"), covariates=("warmth",), missing=0.1)
    bundle = make_bundle(panel, series="id")
    save_model(bundle, save(bundle, tmp_path / "bundle"), tmp_path / "bundle", panel, tmp_path / "model")
    (port,) = free_ports(1)
    arguments = ["models", "serve", "-m", str(tmp_path / "model"), "--env-manager", "local", "-p", str(port)]
    rows = rows_of(panel, bundle.layout, bundle.history)
    body = {"dataframe_split": json.loads(rows.to_json(orient="split", index=False))}
    with serving(arguments, f"http://127.0.0.1:{port}/ping", tmp_path):
        answer = requests.post(f"http://127.0.0.1:{port}/invocations", json=body, timeout=60)
        assert answer.ok, answer.text
        bad = requests.post(
            f"http://127.0.0.1:{port}/invocations",
            json={"dataframe_split": {"columns": body["dataframe_split"]["columns"], "data": []}},
            timeout=60,
        )
        assert not bad.ok
    wanted = bundle.forecast(panel).to_frame()
    given = answer.json()["predictions"]
    assert [(row["series"], row["time"]) for row in given] == list(
        zip(wanted["series"], wanted["time"], strict=True)
    )
    for name in ("q0.1", "q0.5", "q0.9"):
        np.testing.assert_allclose([row[name] for row in given], wanted[name], rtol=1e-5)

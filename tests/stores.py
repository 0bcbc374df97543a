"""Databases that have their tables already, as a first night leaves them; making them takes seven seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock
from nights import SITE

from flows import embedded
from lstm.tracking.runs import Tracker


def make_lived_in(folder: Path) -> Path:
    """A home that has seen a night: once for all processes that share the folder."""
    home = folder / "lived-in"
    with FileLock(f"{home}.lock"):
        if not home.exists():
            made = folder / "lived-in.new"
            _make_tables(made)
            made.rename(home)
    return home


def _make_tables(home: Path) -> None:
    """What `nightcast retrain` does of it, by the same means; the server is no fork."""
    home.mkdir()
    Tracker(f"sqlite:///{home}/mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        patch.setenv("PREFECT_HOME", str(home / "prefect"))
        patch.setenv("PYTHONPATH", SITE)
        server = embedded.Server(home / "prefect.log")
        with server.used():
            server.stop()
    for log in home.rglob("*.l*"):
        log.unlink()

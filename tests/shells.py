"""`nightcast` as a person uses it: in a home of its own, by processes or in this one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import yaml
from forked import Fork
from nights import BIN, NIGHTCAST, entry
from typer.testing import CliRunner, Result

from flows.cli import app
from flows.cli.nights import DEMO
from lstm.settings import Settings


class Shell:
    """`nightcast` in a home of its own, with a catalog that holds a tiny data set under the demo's name."""

    def __init__(self, folder: Path, lived_in: Path) -> None:
        self.folder = folder
        self.catalog = folder / "catalog.yaml"
        shutil.copytree(lived_in, folder / "home")
        space = {"learning_rate": {"low": 0.01, "high": 0.01}, "batch_size": [32]}
        made = entry("load", space, validation="4d", judge="4d")
        self.catalog.write_text(yaml.safe_dump({DEMO: made}))
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

"""A contender: a script in a process of its own, warm before its first timed repeat."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class PeerFailed(RuntimeError):
    """A contender's process ended before its answer."""


@dataclass(frozen=True)
class Contender:
    """Who runs.

    Args:
        name: as the table shows it.
        script: a module of `benchmarks.peers`.
        venv: the folder of its virtual environment in `.venv-bench`; None for ours.
        environment: variables of its process.
        options: variants to try, each a few entries for its task; the fastest one counts.
    """

    name: str
    script: str
    venv: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    options: tuple[Mapping[str, Any], ...] = field(default=({},))

    @property
    def python(self) -> Path:
        """The interpreter."""
        if self.venv is None:
            return Path(sys.executable)
        return ROOT / ".venv-bench" / self.venv / "bin" / "python"


class Process:
    """A running contender with one variant and one number of threads.

    Raises:
        PeerFailed: it ended early; the message has the end of what it printed.
    """

    def __init__(self, contender: Contender, task: Mapping[str, Any], threads: int) -> None:
        self._name = f"{contender.name}, {threads} threads"
        if not contender.python.exists():
            raise PeerFailed(f"{contender.name}: no {contender.python}. Remedy: make bench installs it")
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        number = str(threads)
        self._process = subprocess.Popen(  # noqa: S603
            [contender.python, "-m", f"benchmarks.peers.{contender.script}"],
            cwd=ROOT,
            env={**os.environ, **contender.environment, "OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        try:
            answer = self._ask(json.dumps(task))
        except BaseException:
            self._close(at_once=True)
            raise
        self.first: float = answer["first"]
        self.versions: dict[str, str] = answer["versions"]

    def repeat(self) -> dict[str, Any]:
        """One more repeat: its `seconds`, and what else the script measures."""
        return self._ask("")

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(at_once=kind is not None)

    def _close(self, at_once: bool) -> None:
        """End the process: after what it is doing, or at once."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if at_once:
            self._process.terminate()
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            text = self._process.stdout.readline()
        except BrokenPipeError:
            text = ""
        if not text:
            self._log.seek(0)
            end = "".join(self._log.readlines()[-30:])
            raise PeerFailed(f"{self._name} ended with status {self._process.wait()}:\n{end}")
        answer: dict[str, Any] = json.loads(text)
        return answer

"""The narrator: says what a campaign does, and keeps the seconds that it takes over all its starts."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from data.files import write_atomically

_KEEP_SECONDS = 10.0


class Narrator:
    """A campaign's watcher, which writes to standard error.

    Args:
        path: where the seconds are kept; None for a process that helps another one, which counts them.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seconds = json.loads(path.read_text()) if path is not None and path.exists() else 0.0
        self._since = time.monotonic()
        self._console = Console(stderr=True, highlight=False)

    @property
    def seconds(self) -> float:
        """As last kept."""
        return float(self._seconds)

    def keep(self) -> None:
        """Count up to now."""
        now = time.monotonic()
        self._seconds, self._since = self._seconds + now - self._since, now
        if self._path is not None:
            write_atomically(self._path, json.dumps(self._seconds).encode())

    def started(self, number: int, params: dict[str, Any]) -> None:
        """A trial begins."""
        self._say(f"trial {number}: {', '.join(f'{key} {_short(value)}' for key, value in params.items())}")

    def epoch(self, number: int, epoch: int, train_loss: float, validation_loss: float) -> None:
        """An epoch of a trial has ended."""
        self.tick()

    def ended(self, number: int, state: str, value: float | None, reason: str) -> None:
        """A trial has ended."""
        self._say(f"trial {number} {state}: {reason if value is None else f'validation loss {value:.4f}'}")

    def scored(self, unit: object, scores: Mapping[str, float]) -> None:
        """A seed has been scored."""
        self._say(f"{unit}: {', '.join(f'{name} {value:.4f}' for name, value in scores.items())}")

    def tick(self) -> None:
        """Something goes on: a killed process loses a few seconds of the count."""
        if time.monotonic() - self._since > _KEEP_SECONDS:
            self.keep()

    def _say(self, text: str) -> None:
        self.keep()
        self._console.print(f"{self._seconds:7,.0f} s  {text}", soft_wrap=True)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

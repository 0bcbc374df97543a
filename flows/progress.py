"""What a person sees of a long night: its stages, and the trials of the search.

The flows report here; who watches (a terminal, nobody) is the caller's choice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)


class Watcher(Protocol):
    """Somebody who watches a night."""

    def begin(self, stage: str) -> None:
        """A stage has begun."""

    def advance(self, stage: str, done: int, total: int, note: str) -> None:
        """`done` of `total` pieces of the stage are done."""

    def end(self, stage: str, seconds: float, note: str) -> None:
        """The stage is over."""


class Nobody:
    """Watches nothing."""

    def begin(self, stage: str) -> None:
        """Ignore."""

    def advance(self, stage: str, done: int, total: int, note: str) -> None:
        """Ignore."""

    def end(self, stage: str, seconds: float, note: str) -> None:
        """Ignore."""


class Terminal:
    """Live bars on a terminal; one line a finished stage where there is none."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._current: str | None = None

    def __enter__(self) -> Terminal:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, stage: str) -> None:
        """A spinner for the stage; one that was announced before and never ended is over."""
        if self._current is not None:
            self.end(self._current, 0.0, "")
        self._current = stage
        self._tasks[stage] = self._bars.add_task(stage, total=1, note="")

    def advance(self, stage: str, done: int, total: int, note: str) -> None:
        """The stage's bar and note."""
        if stage in self._tasks:
            self._bars.update(self._tasks[stage], completed=min(done, total), total=total, note=note)

    def end(self, stage: str, seconds: float, note: str) -> None:
        """A full bar, or a plain line."""
        self._current = None
        if stage in self._tasks:
            bar = self._bars.tasks[self._tasks[stage]]
            self._bars.update(self._tasks[stage], completed=bar.total, note=note or bar.fields["note"])
        if not self._console.is_terminal:
            self._console.print(f"{stage:<10} {seconds:6.1f} s  {note}", highlight=False, soft_wrap=True)


_watcher: ContextVar[Watcher] = ContextVar("watcher", default=Nobody())  # noqa: B039


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Report to `watcher` inside the block."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


@dataclass
class Stage:
    """A running stage; `note` is shown when it ends."""

    name: str
    note: str = ""

    def advance(self, done: int, total: int, note: str) -> None:
        """`done` of `total` pieces are done."""
        _watcher.get().advance(self.name, done, total, note)


@dataclass
class Stages:
    """The stages of one night and the seconds that each took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Measure the block and tell the watcher; a stage that raises is measured too."""
        stage = Stage(name)
        watcher = _watcher.get()
        watcher.begin(name)
        started = time.monotonic()
        try:
            yield stage
        finally:
            self.seconds[name] = round(time.monotonic() - started, 2)
            watcher.end(name, self.seconds[name], stage.note)

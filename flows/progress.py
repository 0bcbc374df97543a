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

from rich.console import Console, RenderableType
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

QUIET_SECONDS = 30.0
"""Without a terminal, pieces are told at most this often."""


class Watcher(Protocol):
    """Somebody who watches a night."""

    def begin(self, stage: str) -> None:
        """A stage has begun."""

    def advance(self, stage: str, done: int, total: int, note: str) -> None:
        """`done` of `total` pieces of the stage are done."""

    def end(self, stage: str, seconds: float, note: str, ok: bool) -> None:
        """The stage is over; not `ok` where an error ended it."""


class Nobody:
    """Watches nothing."""

    def begin(self, stage: str) -> None:
        """Ignore."""

    def advance(self, stage: str, done: int, total: int, note: str) -> None:
        """Ignore."""

    def end(self, stage: str, seconds: float, note: str, ok: bool) -> None:
        """Ignore."""


class Terminal:
    """Live lines on a terminal, with a bar where pieces are counted; elsewhere one line a finished stage,
    and now and then one of how far it is.

    Attributes:
        announced: seconds of the stages that nobody ended: each lasts until the next one begins.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines = Progress(
            _Mark(),
            TextColumn("{task.description:<8}"),
            _Seconds(),
            _Rest(),
            console=console,
            # Lines end where their text does: one that fills the terminal lets a typed ^C push them down.
            expand=False,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._running: tuple[str, float] | None = None
        self._told = 0.0, 0
        self.announced: dict[str, float] = {}

    def __enter__(self) -> Terminal:
        self._lines.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end_announced(ok=kind is None)
        self._lines.stop()

    def begin(self, stage: str) -> None:
        """A spinner for the stage; one that was announced before and never ended is over."""
        self._end_announced()
        self._running = stage, time.monotonic()
        self._told = time.monotonic(), 0
        self._tasks[stage] = self._lines.add_task(stage, total=None, note="", seconds=None, ok=True)

    def advance(self, stage: str, done: int, total: int, note: str) -> None:
        """The stage's bar and note."""
        if stage in self._tasks:
            self._lines.update(self._tasks[stage], completed=min(done, total), total=total, note=note)
        told, pieces = self._told
        if not self._console.is_terminal and done > pieces and time.monotonic() - told >= QUIET_SECONDS:
            self._told = time.monotonic(), done
            self._say(f"  {done}/{total}  {note}")

    def end(self, stage: str, seconds: float, note: str, ok: bool = True) -> None:
        """A line that stays."""
        self._running = None
        if stage in self._tasks:
            self._lines.update(
                self._tasks[stage], completed=1, total=1, note=note, seconds=seconds, ok=ok, refresh=True
            )
        if not self._console.is_terminal:
            self._say(f"{stage:<8} {seconds:6.1f} s  {note if ok else _ended_by_error(note)}")

    def _say(self, line: str) -> None:
        self._console.print(line.rstrip(), highlight=False, markup=False, soft_wrap=True)

    def _end_announced(self, ok: bool = True) -> None:
        if self._running is not None:
            stage, began = self._running
            self.announced[stage] = round(time.monotonic() - began, 2)
            self.end(stage, self.announced[stage], "", ok)


class _Mark(SpinnerColumn):
    """A spinner, then how it ended."""

    def render(self, task: Task) -> RenderableType:
        if task.fields["seconds"] is None:
            return super().render(task)
        return Text("✓", style="green") if task.fields["ok"] else Text("✗", style="red")


class _Seconds(ProgressColumn):
    """The stage's seconds, running or measured."""

    def render(self, task: Task) -> Text:
        measured = task.fields["seconds"]
        return Text(f"{(task.elapsed or 0.0) if measured is None else measured:6.1f} s", style="cyan")


class _Rest(ProgressColumn):
    """A bar while pieces are being counted, and the note."""

    def render(self, task: Task) -> RenderableType:
        note = Text(task.fields["note"], style="dim", no_wrap=True, overflow="ellipsis")
        if task.fields["seconds"] is not None:
            return note if task.fields["ok"] else Text(_ended_by_error(note.plain), style="red")
        if task.total is None:
            return note
        line = Table.grid(padding=(0, 1, 0, 0))
        bar = ProgressBar(total=task.total, completed=task.completed, width=16)
        line.add_row(bar, f"{task.completed:.0f}/{task.total:.0f}", note)
        return line


def _ended_by_error(note: str) -> str:
    return f"{note}, ended by an error" if note else "ended by an error"


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
        ok = False
        try:
            yield stage
            ok = True
        finally:
            self.seconds[name] = round(time.monotonic() - started, 2)
            watcher.end(name, self.seconds[name], stage.note, ok)

"""What a person sees of a night: stages with their real times, on a terminal and without one."""

from __future__ import annotations

import io
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from flows import progress
from flows.progress import Nobody, Stages, Terminal, watched_by


def plain(width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=width)


def live(width: int = 80) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=True, width=width, color_system=None, legacy_windows=False
    )


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def test_a_stage_is_measured_and_told_as_one_line() -> None:
    console, stages = plain(), Stages()
    with Terminal(console) as terminal, watched_by(terminal):
        with stages.stage("check") as stage:
            time.sleep(0.11)
            stage.note = "5 rows, [0] findings"
        with stages.stage("judge"):
            pass
    lines = text(console).splitlines()
    check, judge = stages.seconds.values()
    assert lines == [f"check    {check:6.1f} s  5 rows, [0] findings", f"judge    {judge:6.1f} s"]
    assert check >= 0.11
    assert judge < check
    assert list(stages.seconds) == ["check", "judge"]


def test_an_announced_stage_lasts_until_the_next_one() -> None:
    console = plain()
    with Terminal(console) as terminal, watched_by(terminal):
        terminal.begin("start")
        time.sleep(0.11)
        with Stages().stage("check"):
            pass
    first, second = text(console).splitlines()
    assert first == f"start    {terminal.announced['start']:6.1f} s"
    assert second.startswith("check")
    assert terminal.announced["start"] >= 0.11
    assert list(terminal.announced) == ["start"]


def test_an_announced_stage_is_told_even_where_nothing_follows() -> None:
    console = plain()
    with Terminal(console) as terminal:
        terminal.begin("start")
    assert text(console).splitlines() == ["start       0.0 s"]
    console = plain()
    terminal = Terminal(console)
    terminal.begin("start")
    terminal.__exit__(RuntimeError)
    assert text(console).splitlines() == ["start       0.0 s  ended by an error"]


def fail(stages: Stages) -> None:
    with stages.stage("search") as stage:
        stage.note = "1 finished"
        raise ZeroDivisionError


def test_a_stage_that_raises_is_measured_and_says_so() -> None:
    for console in (plain(), live()):
        stages = Stages()
        with Terminal(console) as terminal, watched_by(terminal), pytest.raises(ZeroDivisionError):
            fail(stages)
        assert "1 finished, ended by an error" in text(console)
        assert "search" in stages.seconds
    assert "✗" in text(console)
    assert "✓" not in text(console)


@given(done=st.integers(0, 12), total=st.integers(1, 8), width=st.sampled_from([40, 80, 120]))
def test_a_terminal_shows_pieces_while_they_are_counted(done: int, total: int, width: int) -> None:
    """Never more than all of them, and never over the terminal's edge."""
    console = live(width)
    with Terminal(console) as terminal, watched_by(terminal), Stages().stage("search") as stage:
        stage.advance(done, total, "best loss 0.1234, " + "and so on " * 20)
        terminal._lines.refresh()
        shown = text(console)
        stage.note = "all done"
    assert f"{min(done, total)}/{total}" in shown
    assert all(len(line) <= width for line in re.split(r"[\r\n]+", text(console)))
    assert "✓ search" in text(console)
    assert "all done" in text(console).splitlines()[-1]


def test_without_a_terminal_pieces_are_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    console = plain()
    with Terminal(console) as terminal, watched_by(terminal), Stages().stage("search") as stage:
        stage.advance(1, 8, "1 finished")
        monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
        stage.advance(2, 8, "2 finished")
        stage.advance(2, 8, "2 finished")
        monkeypatch.setattr(progress, "QUIET_SECONDS", 60.0)
        stage.advance(3, 8, "3 finished")
        stage.note = "3 finished"
    assert text(console).splitlines() == ["  2/8  2 finished", "search      0.0 s  3 finished"]


def test_nobody_needs_to_watch() -> None:
    stages = Stages()
    with stages.stage("check") as stage:
        stage.advance(1, 2, "half")
    assert "check" in stages.seconds
    assert isinstance(progress._watcher.get(), Nobody)


def test_watching_ends_with_the_block() -> None:
    console = plain()
    with Terminal(console) as terminal, watched_by(terminal):
        pass
    with Stages().stage("check"):
        pass
    assert text(console) == ""


def test_a_line_ends_where_its_text_does() -> None:
    """What is typed meanwhile, as ^C, then stays on it."""
    console = live(80)
    with Terminal(console) as terminal, watched_by(terminal), Stages().stage("check") as stage:
        stage.note = "5 rows"
    assert 0 < max(len(line) for line in re.split(r"[\r\n]+", text(console))) < 40

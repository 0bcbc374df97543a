"""The command line: quick help with examples, an output kept for the answer, exit statuses that tell."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pandas as pd
import pytest
import typer
from rich.console import Console
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from flows.cli import app
from flows.cli.models import _rows
from flows.cli.output import AsJson, Commands

HEAVY = (
    "mlflow",
    "numpy",
    "optuna",
    "pandas",
    "polars",
    "prefect",
    "pydantic",
    "sqlalchemy",
    "torch",
    "yaml",
)


def commands(group: TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command as it is written after `nightcast`."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


ROOT = get_command(app)
assert isinstance(ROOT, TyperGroup)
COMMANDS = sorted(commands(ROOT))


def test_help_imports_nothing_that_takes_long() -> None:
    program = (
        "import sys; from flows.cli import main; sys.argv = ['nightcast', '--help']\n"
        "try:\n    main()\n"
        f"finally:\n    sys.exit(', '.join(name for name in {HEAVY!r} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(name in done.stdout for name in ROOT.commands)


def test_every_command_is_known() -> None:
    assert {" ".join(path) for path in COMMANDS} == {
        *(
            "demo",
            "retrain",
            "forecast",
            "explain",
            "compare",
            "history",
            "rollback",
            "retire",
            "up",
            "deploy",
            "doctor",
        ),
        *("data add", "data check", "data list"),
    }


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80", "TERM": "dumb"})
    assert shown.exit_code == 0
    text = " ".join(shown.stdout.split())
    assert f"Example: nightcast {' '.join(path)}" in text
    assert (
        shown.stdout == CliRunner().invoke(app, [*path, "-h"], env={"COLUMNS": "80", "TERM": "dumb"}).stdout
    )


@pytest.mark.parametrize("path", [("",), ("data",)])
def test_a_groups_help_has_a_line_a_command(path: tuple[str, ...]) -> None:
    """At 80 columns no summary wraps."""
    shown = CliRunner().invoke(app, [*filter(None, path), "--help"], env={"COLUMNS": "80", "TERM": "dumb"})
    listed = shown.stdout.partition("Commands")[2].splitlines()[1:]
    listed = [line.strip("│ ") for line in listed if line.startswith("│")]
    group = ROOT.commands["data"] if path == ("data",) else ROOT
    assert isinstance(group, TyperGroup)
    assert [line.split()[0] for line in listed] == list(group.commands)


@pytest.mark.parametrize(
    ("port", "text"),
    [("99999", "less than or equal to 65535"), ("5000", "each server needs a port of its own")],
)
def test_up_wants_two_ports(port: str, text: str) -> None:
    done = CliRunner().invoke(app, ["up", "--prefect-port", port], env={"COLUMNS": "200"})
    assert (done.exit_code, text in done.stderr) == (2, True)


def test_standard_output_is_for_the_answer_alone() -> None:
    """Whoever else writes to it, in whichever way, even while the process ends."""
    program = """
import atexit, os, subprocess, sys
from flows.cli.output import emit, keep_stdout_for_answers
print("before")
sys.stdout.flush()
keep_stdout_for_answers()
atexit.register(lambda: os.write(1, b"at exit"))
print("printed")
os.write(1, b"written")
subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)
emit({"answer": 42})
print("after")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("before\n")
    assert json.loads(done.stdout.removeprefix("before\n")) == {"answer": 42}
    for noise in ("printed", "written", "by a child", "after", "at exit"):
        assert noise in done.stderr


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (KeyboardInterrupt(), 130, "Interrupted\nThe same command takes it up again.\n"),
        (SystemExit(143), 143, "Interrupted\nThe same command takes it up again.\n"),
        (ZeroDivisionError("odd"), 1, ""),
        (PermissionError(13, "Permission denied", "a.png"), 1, "Failed\na.png: Permission denied.\n"),
    ],
)
def test_an_unexpected_end_is_an_answer_too(error: BaseException, status: int, told: str) -> None:
    """An error that nobody expected keeps its traceback."""
    here = typer.Typer(cls=Commands)

    @here.command()
    def fail(as_json: AsJson = False) -> None:
        raise error

    @here.command()
    def other() -> None: ...

    done = CliRunner().invoke(here, ["fail", "--json"])
    assert done.exit_code == status
    kind = "Interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else type(error).__name__
    assert json.loads(done.stdout)["kind"] == kind
    assert done.stderr == told
    assert (done.exception is error) == isinstance(error, ZeroDivisionError | SystemExit)


def test_a_reader_that_goes_away_is_no_interrupt() -> None:
    script = """
import typer
from flows.cli.output import Commands, console
app = typer.Typer(cls=Commands)
app.callback()(lambda: None)
app.command("say")(lambda: console.print("nobody reads this"))
app(["say"])
"""
    reads, writes = os.pipe()
    os.close(reads)
    try:
        ended = subprocess.run(
            [sys.executable, "-c", script], stdout=writes, stderr=subprocess.PIPE, text=True, timeout=60
        )
    finally:
        os.close(writes)
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.parametrize("width", [66, 80, 200])
@pytest.mark.parametrize("names", [("",), ("Bahnhof", "Schiefe Brücke")])
@pytest.mark.parametrize("frequency", ["h", "D"])
def test_a_forecast_has_a_line_a_step(width: int, names: tuple[str, ...], frequency: str) -> None:
    """The bar makes room first: a time never wraps."""
    times = [time.isoformat() for time in pd.date_range("2026-03-01", periods=4, freq=frequency, tz="UTC")]
    records = [
        {"series": name, "time": time, "q0.1": -1.234e7, "q0.5": 2.0 * number, "q0.9": 65535.0}
        for name in names
        for number, time in enumerate(times)
    ]
    console = Console(width=width, file=io.StringIO())
    console.print(_rows(pd.DataFrame(records), console.width))
    assert isinstance(console.file, io.StringIO)
    _, *lines = console.file.getvalue().splitlines()
    assert len(lines) == len(records)
    for line, record in zip(lines, records, strict=True):
        assert record["time"][: 10 if frequency == "D" else 16].replace("T", " ") in line
        assert ("00:00" in line) == (frequency == "h" and record["time"][11:16] == "00:00")
    assert "█" in lines[-1] or width == 66

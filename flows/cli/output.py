"""What every command shares: errors and exit status, one JSON object on standard output, tables."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from data.errors import CatalogError, NightcastError
from lstm.settings import Settings, silence_telemetry

P = ParamSpec("P")
R = TypeVar("R")

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")
]
DataSetName = Annotated[str, typer.Argument(help="The data set's name in the catalog.", metavar="DATA_SET")]

console = Console()
stderr = Console(stderr=True)


def prepare() -> Settings:
    """Settings, and the environment of the tools below, before any of them is imported.

    Without a server of its own, Prefect keeps its state in Nightcast's home; its chatter stays in its
    logs, since the command shows progress itself.
    """
    silence_telemetry()
    settings = Settings()
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    if "PREFECT_API_URL" not in os.environ:
        os.environ.setdefault("PREFECT_HOME", str(settings.root / "prefect"))
    return settings


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn an expected error into a sentence and an exit status; anything else stays a traceback."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except NightcastError as error:
            if kwargs.get("as_json"):
                emit({"error": str(error), "kind": type(error).__name__})
            stderr.print(f"[bold red]{_title(error)}[/]", highlight=False)
            stderr.print(str(error), highlight=False, markup=False, soft_wrap=True)
            raise typer.Exit(2 if isinstance(error, CatalogError) else 1) from error

    return wrapped


def emit(value: Mapping[str, Any]) -> None:
    """One JSON object, alone on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False, default=str) + "\n")
    sys.stdout.flush()


@contextmanager
def quiet_stdout(active: bool) -> Iterator[None]:
    """Send everything that anybody prints to standard error, even child processes and C code."""
    if not active:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def table(*columns: str, title: str | None = None, numbers: int = 0) -> Table:
    """A plain table; its last `numbers` columns are right-aligned."""
    made = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for position, column in enumerate(columns):
        is_number = position >= len(columns) - numbers
        made.add_column(column, justify="right" if is_number else "left", no_wrap=is_number)
    return made


def _title(error: NightcastError) -> str:
    return {
        "DataRefused": "Refused",
        "CatalogError": "Wrong catalog",
        "UnknownDataSet": "Unknown data set",
    }.get(type(error).__name__, "Failed")

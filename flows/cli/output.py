"""What every command shares: errors and exit status, one JSON object on standard output, tables.

Typer and rich alone are imported here, so that ``--help`` answers at once; the rest of the house comes in
when a command runs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from data.errors import CatalogError, NightcastError, SettingsError

if TYPE_CHECKING:
    from lstm.settings import Settings

AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object on standard output, nothing else."),
]
DataSetName = Annotated[str, typer.Argument(help="The data set's name in the catalog.", metavar="DATA_SET")]


class _Console(Console):
    """Where nobody reads on, as after `head`, the command ends and says nothing."""

    def on_broken_pipe(self) -> None:
        try:
            super().on_broken_pipe()
        except SystemExit as end:
            # Not to be taken for a SIGTERM.
            raise typer.Exit(1) from end


console = _Console()
stderr = _Console(stderr=True)

_answers: ContextVar[TextIO | None] = ContextVar("answers", default=None)

_TITLES = {
    "CatalogError": "Wrong catalog",
    "DataRefused": "Refused",
    "Interrupted": "Interrupted",
    "SettingsError": "Wrong setting",
    "UnknownDataSet": "Unknown data set",
}


class Commands(TyperGroup):
    """The root of the commands: an expected error ends as a sentence and an exit status."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Read the root's own options."""
        with _reporting("--json" in args):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        with _reporting("--json" in ctx.args):
            return super().invoke(ctx)


def prepare() -> Settings:
    """Settings, and the environment of the tools below, before any of them is imported.

    Without a server of its own, Prefect keeps its state in Nightcast's home; its chatter and MLflow's stay
    off the terminal, since the command shows progress itself.

    Raises:
        SettingsError: a variable of the environment has a wrong value.
    """
    from flows.loopback import leave_out_proxies
    from lstm.settings import load_settings, prepare_environment

    leave_out_proxies()
    _leave_project_run()
    prepare_environment()
    settings = load_settings()
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # MLflow's own patience with a server that is away is four minutes a question.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    if not os.environ.get("PREFECT_API_URL"):
        os.environ.setdefault("PREFECT_HOME", str(settings.root / "prefect"))
    return settings


def _leave_project_run() -> None:
    """Under `mlflow run`: a night's run is its own, in the store that was chosen, if one was.

    MLflow exports the run that it made for the project, and where no store was chosen its default: the file
    mlflow.db of the folder where `mlflow run` was called, away from the ledger.
    """
    if os.environ.pop("MLFLOW_RUN_ID", None) is None:
        return
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
    store = os.environ.get("MLFLOW_TRACKING_URI", "")
    if store.startswith("sqlite:///") and store.endswith("/mlflow.db"):
        del os.environ["MLFLOW_TRACKING_URI"]


def keep_stdout_for_answers() -> None:
    """Give standard output to `emit` alone, until the process ends.

    Whatever else writes there, even a child process or C code, writes to standard error.
    """
    _answers.set(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)


def emit(value: Mapping[str, Any]) -> None:
    """One JSON object, alone on standard output."""
    stream = _answers.get() or sys.stdout
    stream.write(json.dumps(value, indent=2, allow_nan=False, default=str) + "\n")
    stream.flush()


def table(*columns: str, numbers: int = 0, fixed: Sequence[str] = ()) -> Table:
    """A plain table; its last `numbers` columns are right-aligned, and `fixed` ones never wrap."""
    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for position, column in enumerate(columns):
        is_number = position >= len(columns) - numbers
        made.add_column(
            column, justify="right" if is_number else "left", no_wrap=is_number or column in fixed
        )
    return made


@contextmanager
def _reporting(as_json: bool) -> Iterator[None]:
    """Turn an expected error into a sentence and an exit status; anything else stays a traceback."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except typer.TyperException as error:
        # Typer prints wrong usage itself; called without a command it prints the help, and has no message.
        if as_json:
            emit({"error": error.format_message(), "kind": "WrongUsage"})
        raise
    except NightcastError as error:
        kind = type(error).__name__
        _tell(as_json, kind, str(error))
        raise typer.Exit(2 if isinstance(error, CatalogError | SettingsError) else 1) from error
    except OSError as error:
        # A file or folder that cannot be read or written is the user's to change.
        if error.filename is None:
            if as_json:
                emit({"error": str(error), "kind": type(error).__name__})
            raise
        _tell(as_json, type(error).__name__, f"{error.filename}: {error.strerror}.")
        raise typer.Exit(1) from error
    except (KeyboardInterrupt, SystemExit):
        # Ctrl-C, or the SIGTERM that `main` turns into an exit.
        _tell(as_json, "Interrupted", "The same command takes it up again.")
        raise
    except BaseException as error:
        if as_json:
            emit({"error": str(error), "kind": type(error).__name__})
        raise


def _tell(as_json: bool, kind: str, text: str) -> None:
    """An error for a person, and for a program that asked for JSON."""
    if as_json:
        emit({"error": text, "kind": kind})
    stderr.print(f"[bold red]{_TITLES.get(kind, 'Failed')}[/]", highlight=False)
    # Wrapped at words for a person; a log gets a sentence a line, whatever its length.
    stderr.print(text, highlight=False, markup=False, soft_wrap=not stderr.is_terminal)

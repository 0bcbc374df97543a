"""The command `nightcast`: a thin command for each flow and for what a person does between nights.

Exit status: 0 done (promoted, kept, skipped), 1 refused or failed with the reason, 2 wrong usage. Whatever
takes long to import is imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys

import typer

from flows.cli.comparisons import compare
from flows.cli.data_sets import app as data_sets
from flows.cli.explanation import explain
from flows.cli.models import forecast, retire, rollback
from flows.cli.nights import demo, history, retrain
from flows.cli.output import Commands, keep_stdout_for_answers
from flows.cli.servers import deploy, doctor, up
from flows.interrupts import obey

app = typer.Typer(
    name="nightcast",
    cls=Commands,
    help="Forecasts that keep themselves fresh: every night a challenger, judged before it is promoted.\n\n"
    "Example: nightcast demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (demo, retrain, forecast, explain, compare, history, rollback, retire, up, deploy, doctor):
    app.command()(command)
app.add_typer(data_sets, name="data")


def main() -> None:
    """Entry point of the console script."""
    obey()
    if "--json" in sys.argv:
        keep_stdout_for_answers()
    app()

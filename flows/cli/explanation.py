"""`nightcast explain`: what the champion does with its inputs."""

from __future__ import annotations

from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from flows.cli.models import known
from flows.cli.nights import NEWEST, moment_of
from flows.cli.output import AsJson, DataSetName, console, emit, prepare, table

if TYPE_CHECKING:
    from rich.table import Table

    from flows.explaining import Explained
    from lstm.training.diagnostics.gates import Gates
    from lstm.training.diagnostics.gradients import Gradients
    from lstm.training.diagnostics.importance import Importance

_MOST_ROWS = 10


def explain(
    name: DataSetName,
    series: Annotated[str | None, typer.Option(help="Whose window; the first one when not given.")] = None,
    at: Annotated[
        str,
        typer.Option(help="The window's last step: a date or time, ISO 8601; `newest` for the newest one."),
    ] = NEWEST,
    output: Annotated[Path | None, typer.Option(help="Folder for the pictures (PNG).")] = None,
    as_json: AsJson = False,
) -> None:
    """What the champion does with its inputs, as pictures.

    Example: nightcast explain household_power --at 2010-11-19T20:00+01:00
    """
    settings = prepare()
    when = moment_of(at, "--at")
    known(settings, name)
    from flows.imports import importing

    with importing():
        from flows.explaining import explain as explain_champion

    found = explain_champion(settings, name, series, when, output or settings.root / "explanations" / name)
    if as_json:
        emit(found.to_dict())
        return
    _print(found)


def _print(found: Explained) -> None:
    whose = f", series {escape(found.series)}" if found.series else ""
    which = f", the best of {found.networks} networks" if found.networks > 1 else ""
    network = f"{found.recipe.model.cell.upper()}{which}"
    console.print(
        f"[bold]{found.data_set}[/], champion version {found.version} ({network}){whose}, "
        f"{found.recipe.model.lookback} steps up to {found.at}",
        highlight=False,
        soft_wrap=True,
    )
    gates = found.found.gates
    console.print()
    if gates is None:
        console.print(f"A {found.recipe.model.cell} has no gates.", highlight=False)
    elif not gates.gates:
        console.print("A plain RNN has no gates; the picture shows its hidden state.", highlight=False)
    else:
        console.print(_gates(gates))
    console.print()
    console.print(_gradients(found.found.gradients))
    if found.found.importance is not None:
        console.print()
        console.print(_importance(found.found.importance))
    console.print()
    for path in found.paths.values():
        console.print(f"[dim]Picture: {escape(str(path))}[/]", highlight=False, soft_wrap=True)


def _gates(gates: Gates) -> Table:
    """How open each gate was, and how long units remember."""
    rows = table("over the window", "mean", "least open unit", "most open unit", numbers=3)
    for name, part_TU in gates.gates.items():
        open_U = part_TU.mean(axis=0)
        numbers = (open_U.mean(), open_U.min(), open_U.max())
        rows.add_row(name.replace("_", " "), *(f"{number:.0%}" for number in numbers))
    kept_U = gates.kept
    assert kept_U is not None
    lives = [_half_life(float(kept)) * gates.segment for kept in (kept_U.mean(), kept_U.min(), kept_U.max())]
    rows.add_row("half forgotten after, steps", *(f"{life:.3g}" for life in lives))
    return rows


def _half_life(kept: float) -> float:
    """Steps after which half of a state is left, of which this share is kept at each."""
    return log(0.5) / log(min(max(kept, 1e-12), 1 - 1e-12))


def _gradients(gradients: Gradients) -> Table:
    """How large each cell's gradient is, how far it reaches, and what clipping leaves of it."""
    rows = table("before training", "gradient", "clipped to", "reaches back, steps", numbers=3)
    for name, norm in gradients.total.items():
        reach = gradients.reach(name)
        reached = f"all {len(gradients.by_lag_K[name])}" if reach is None else str(reach)
        rows.add_row(name, f"{norm:.3g}", f"{norm * gradients.factor(name):.3g}", reached)
    return rows


def _importance(importance: Importance) -> Table:
    """What the error grows by without each column, cycle and block of lags: the largest first."""
    rows = table("without", "error grows by", numbers=1)
    columns = [(name.replace("_", " "), importance.share(name).mean()) for name in importance.columns_R]
    lags = [(f"steps {a} to {b} back", importance.share((a, b)).mean()) for a, b in importance.lags_R]
    for group in (columns, lags):
        for name, share in sorted(group, key=lambda row: -row[1])[:_MOST_ROWS]:
            rows.add_row(escape(name), f"{share:.1%}")
        if group is columns:
            rows.add_section()
    return rows

"""Results: what a benchmark found, as a table to read and as JSON to keep."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.race import Run, fastest
from data.files import write_atomically

Cell = str | int | float

# More columns of text than any table has.
_WIDEST = 1_000


@dataclass(frozen=True)
class Result:
    """One benchmark's outcome.

    Args:
        name: the benchmark's.
        title: what was done, in a line.
        columns: the table's, the first one naming what a row is.
        rows: the table.
        notes: what a reader must know beside the table.
        details: everything measured; JSON-safe.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]
    details: Mapping[str, Any]

    def table(self) -> Table:
        """For a terminal."""
        table = Table(title=self.title, caption="\n".join(self.notes), caption_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left", no_wrap=not number)
        for row in self.rows:
            table.add_row(*(text(cell) for cell in row))
        return table


def raced(
    name: str,
    title: str,
    runs: Sequence[Run],
    measure: str,
    value: Callable[[float], float],
    details: Mapping[str, Any],
) -> Result:
    """The result of a race: each contender's best variant.

    Args:
        measure: the unit of the column of medians.
        value: from the seconds of a repeat to that unit.
        details: what else belongs into the JSON.
    """
    columns = (
        "",
        "threads",
        "first, s",
        f"median, {measure}",
        "slowest",
        "fastest",
        "relative",
    )
    best = fastest(runs)
    rows = [
        (
            " ".join([run.name, *(f"{key}={entry}" for key, entry in run.option.items())]),
            run.threads,
            run.first,
            value(run.median),
            value(max(run.seconds)),
            value(min(run.seconds)),
            run.median / best[0].median,
        )
        for run in best
    ]
    notes = ("relative: median seconds, in those of the first line; first: with what is compiled once.",)
    return Result(
        name, title, columns, tuple(rows), notes, {**details, "runs": [run.to_dict() for run in runs]}
    )


def text(cell: Cell) -> str:
    """Three digits of a float, thousands apart."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int) or abs(cell) >= 100:
        return f"{cell:,.0f}"
    return f"{cell:#.3g}"


def show(console: Console, table: Table) -> None:
    """Print a whole table: a narrow terminal wraps its lines; squeezed, its numbers would be cut."""
    wanted = console.measure(table, options=console.options.update(max_width=_WIDEST)).maximum
    console.width = max(console.width, wanted)
    console.print(table)


def keep(path: Path, result: Result, machine: Mapping[str, Any]) -> None:
    """Write a result into a JSON file, beside those of the other benchmarks that it holds.

    Args:
        machine: what it was measured on, as described before the measurement.
    """
    every = json.loads(path.read_text()) if path.exists() else {}
    every[result.name] = {**asdict(result), "machine": machine}
    write_atomically(path, (json.dumps(every, indent=1, sort_keys=True) + "\n").encode())

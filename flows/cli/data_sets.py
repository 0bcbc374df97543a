"""`nightcast data`: the catalog's data sets, checked and added."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from flows.cli.output import AsJson, DataSetName, console, emit, prepare, table

app = typer.Typer(help="The catalog's data sets: list, check, add.", no_args_is_help=True)


@app.command("list")
def list_data_sets(as_json: AsJson = False) -> None:
    """The data sets of the catalog.

    Example: nightcast data list
    """
    settings = prepare()
    from data.catalog import load_catalog

    catalog = load_catalog(settings.catalog)
    if as_json:
        emit({name: data_set.model_dump(mode="json") for name, data_set in catalog.data_sets.items()})
        return
    rows = table("name", "target", "every", "season", "horizon", "schedule", fixed=("name", "schedule"))
    for name, data_set in catalog.data_sets.items():
        retrain = data_set.retrain
        seasons = ", ".join(map(str, data_set.seasons))
        rows.add_row(
            name,
            escape(data_set.target),
            data_set.frequency,
            seasons,
            str(retrain.horizon),
            retrain.schedule or "-",
        )
    console.print(rows)
    console.print(f"[dim]{escape(str(catalog.path))}[/]", highlight=False, soft_wrap=True)


@app.command()
def check(name: DataSetName, as_json: AsJson = False) -> None:
    """Hold a data set against its contract. Changes nothing.

    Example: nightcast data check household_power
    """
    settings = prepare()
    from data.catalog import load_catalog
    from data.contract import check as check_contract
    from data.contract import resolve_as_of
    from data.splits import split

    data_set = load_catalog(settings.catalog).get(name)
    checked = check_contract(data_set, resolve_as_of(data_set))
    panel = checked.panel
    splits = split(panel, data_set.retrain)
    grid = data_set.grid
    spans = {
        span: (
            grid.format(grid.shift(panel.start, part.first)),
            grid.format(grid.shift(panel.start, part.last)),
        )
        for span, part in vars(splits).items()
    }
    if as_json:
        emit(
            {
                "data_set": name,
                "as_of": grid.format(panel.as_of),
                "series": list(panel.series),
                "columns": list(panel.columns),
                "rows": len(panel.values),
                "missing": int((~panel.observed[:, 0]).sum()),
                "spans": spans,
                "findings": [str(finding) for finding in checked.findings],
            }
        )
        return
    missing = int((~panel.observed[:, 0]).sum())
    series = f"{len(panel.series)} series, " if panel.series != ("",) else ""
    console.print(
        f"[bold]{name}[/]  {series}{len(panel.values):,} rows every {panel.frequency.text}, "
        f"{missing:,} without {escape(panel.target)}",
        highlight=False,
    )
    rows = table("span", "first target", "last target")
    for span, (first, last) in spans.items():
        rows.add_row(span, first, last)
    console.print(rows)
    for finding in checked.findings:
        console.print(f"[yellow]•[/] {escape(str(finding))}", highlight=False, soft_wrap=True)
    console.print("[green]Fit for a night.[/]")


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="A CSV or Parquet file, one row a step (and series).")],
    name: Annotated[str | None, typer.Option(help="The data set's name; else made from the file's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look at a file and write a first catalog entry for it.

    Example: nightcast data add sales.csv --name sales
    """
    settings = prepare()
    from data.guess import add as add_entry

    data_set = add_entry(settings.catalog, file, name)
    if as_json:
        emit(data_set.model_dump(mode="json"))
        return
    where = escape(str(settings.catalog))
    console.print(f"Added [bold]{data_set.name}[/] to {where}", highlight=False, soft_wrap=True)
    rows = table("key", "value")
    for key in ("time", "target", "series", "frequency", "time_zone", "clock"):
        rows.add_row(key, escape(str(getattr(data_set, key) or "none")))
    rows.add_row("past covariates", escape(", ".join(data_set.covariates) or "none"))
    for role, columns in (("future covariates", data_set.future), ("static features", data_set.static)):
        if columns:
            rows.add_row(role, escape(", ".join(columns)))
    rows.add_row("seasons", ", ".join(map(str, data_set.seasons)))
    rows.add_row("horizon", str(data_set.retrain.horizon))
    console.print(rows)
    console.print(
        f"Look it over, then: nightcast data check {data_set.name}; nightcast retrain {data_set.name}",
        highlight=False,
        soft_wrap=True,
    )

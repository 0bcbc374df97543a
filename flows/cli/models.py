"""`nightcast forecast`, `rollback`, `retire`: what a person does with the champion between nights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from flows.cli.output import AsJson, DataSetName, console, emit, prepare, table

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from lstm.promotion.ledger import Ledger
    from lstm.settings import Settings
    from lstm.tracking.registry import Registry

_LONGEST_BAR = 16
"""Characters."""


def forecast(
    name: DataSetName,
    picture: Annotated[Path | None, typer.Option(help="Where to write the picture (PNG).")] = None,
    request: Annotated[
        Path | None,
        typer.Option(help="Also write the body that `mlflow models serve` takes for this forecast."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The champion's forecast, as a table and a picture.

    Example: nightcast forecast household_power
    """
    settings = prepare()
    known(settings, name)
    from flows.imports import importing

    with importing():
        from flows.forecasting import make_forecast, write_picture, write_request

    made = make_forecast(settings, name)
    path = write_picture(made, picture or settings.forecasts / name / "newest.png")
    if request is not None:
        write_request(made, request)
    if as_json:
        emit({**made.to_dict(), "picture": str(path)})
        return
    console.print(
        f"[bold]{name}[/], champion version {made.forecast.version}, "
        f"as of {made.panel.frequency.format(made.panel.as_of)}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_rows(made.forecast.to_frame(), console.width))
    console.print(f"[dim]Picture: {escape(str(path))}[/]", highlight=False, soft_wrap=True)


def rollback(
    name: DataSetName,
    reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")] = "by hand",
    as_json: AsJson = False,
) -> None:
    """Make the previous champion the champion again.

    Example: nightcast rollback household_power --reason "forecasts too low since Monday"
    """
    settings = prepare()
    known(settings, name)
    ledger, registry = _stores(settings)
    registry.sync(name, ledger)
    champion = ledger.rollback(name, reason)
    registry.sync(name, ledger)
    if as_json:
        emit({"data_set": name, "champion": champion.version, "previous": champion.previous})
        return
    console.print(f"[bold]{name}[/]: version {champion.version} is the champion again.", highlight=False)


def retire(
    name: DataSetName,
    reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")] = "by hand",
    as_json: AsJson = False,
) -> None:
    """Leave a data set without a champion. Rollback undoes it.

    Example: nightcast retire household_power --reason "the horizon is 48 hours now"
    """
    settings = prepare()
    known(settings, name)
    ledger, registry = _stores(settings)
    registry.sync(name, ledger)
    ledger.retire(name, reason)
    registry.sync(name, ledger)
    if as_json:
        emit({"data_set": name, "champion": None})
        return
    console.print(f"[bold]{name}[/] has no champion now.", highlight=False)


def known(settings: Settings, name: str) -> None:
    """Check the name before anything that takes long is imported.

    Raises:
        UnknownDataSet: the catalog has no such data set.
    """
    from data.catalog import load_catalog

    load_catalog(settings.catalog).get(name)


def _stores(settings: Settings) -> tuple[Ledger, Registry]:
    from lstm.promotion.ledger import Ledger
    from lstm.tracking.registry import Registry

    settings.root.mkdir(parents=True, exist_ok=True)
    return Ledger(settings.ledger_url), Registry(settings.mlflow_uri)


def _rows(frame: pd.DataFrame, width: int) -> Table:
    """A row a step, with a bar for the median where the terminal is wide enough."""
    levels = [column for column in frame.columns if column.startswith("q")]
    words = {"time": _times(frame["time"].astype(str).tolist())}
    if (frame["series"] != "").any():
        words = {"series": [escape(name) for name in frame["series"].astype(str)], **words}
    numbers = {level: [f"{value:.4g}" for value in frame[level]] for level in levels}
    columns = {**words, **numbers}
    taken = sum(2 + max(map(len, [name, *cells])) for name, cells in columns.items())
    room = min(max(width - taken - 2, 0), _LONGEST_BAR)
    medians = frame["q0.5"].abs()
    parts = (medians / max(float(medians.max()), 1e-12) * room).round().astype(int)
    rows = table(*words, "", *levels, numbers=len(levels), fixed=tuple(words))
    for *told, part in zip(*columns.values(), parts, strict=True):
        rows.add_row(*told[: len(words)], f"[cyan]{'█' * part}[/]", *told[len(words) :])
    return rows


def _times(texts: Sequence[str]) -> list[str]:
    """To the minute; to the day where all are its first minute."""
    minutes = [text[:16].replace("T", " ") for text in texts]
    is_daily = all(minute.endswith(" 00:00") for minute in minutes)
    return [minute[:10] for minute in minutes] if is_daily else minutes

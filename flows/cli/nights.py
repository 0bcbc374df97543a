"""`nightcast demo`, `retrain`, `history`: nights run here, and what came of the earlier ones."""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.padding import Padding

from flows.cli.output import AsJson, DataSetName, console, emit, prepare, stderr, table

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from data.catalog import DataSet
    from data.retrain import Budget
    from flows.night import Outcome
    from lstm.promotion.records import Entry
    from lstm.settings import Settings

DEMO = "household_power"
DEMO_DAYS_BEFORE_END = 7

FROM_CATALOG = "catalog"
NEWEST = "newest"

COLORS = {"promoted": "green", "refused": "red", "failed": "red"}
REASON = 240
"""Longest reason that the history shows; `--json` has all of it."""

Trials = Annotated[str, typer.Option(help="Trials of the search: a number, or the catalog's.", metavar="N")]
Minutes = Annotated[str, typer.Option(help="Minutes of searching: a number, or the catalog's.", metavar="N")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Search workers; one a core, at most four, when not given.")
]


def demo(workers: Workers = None, as_json: AsJson = False) -> None:
    """One night on the sample data, a week before its end.

    Example: nightcast demo
    """
    settings = prepare()
    from data.catalog import load_catalog
    from data.source import newest_time

    end = newest_time(load_catalog(settings.catalog).get(DEMO)).astype(datetime)
    as_of = end.replace(tzinfo=UTC) - timedelta(days=DEMO_DAYS_BEFORE_END)
    _show(settings, _run(settings, DEMO, as_of, None, workers, None), as_json)


def retrain(
    name: DataSetName,
    as_of: Annotated[
        str,
        typer.Option(
            help="Where the past ends: a date or time, ISO 8601; `newest` for the newest complete step."
        ),
    ] = NEWEST,
    trials: Trials = FROM_CATALOG,
    minutes: Minutes = FROM_CATALOG,
    workers: Workers = None,
    pool: Annotated[
        str | None, typer.Option(help="Search in this Prefect work pool, not in processes of this machine.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """One night, run here, from newest data to forecast.

    Example: nightcast retrain household_power --trials 12 --minutes 5
    """
    settings = prepare()
    from data.catalog import load_catalog

    data_set = load_catalog(settings.catalog).get(name)
    moment, budget = moment_of(as_of), _budget(data_set.retrain.budget, trials, minutes)
    _show(settings, _run(settings, name, moment, budget, workers, pool), as_json)


def history(
    name: Annotated[
        str | None, typer.Argument(help="A data set; all when not given.", metavar="DATA_SET")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many decisions.")] = 20,
    as_json: AsJson = False,
) -> None:
    """The champions, and the newest decisions.

    Example: nightcast history household_power
    """
    settings = prepare()
    from data.catalog import load_catalog

    catalog = load_catalog(settings.catalog)
    names = [catalog.get(name).name] if name else sorted(catalog.data_sets)
    from lstm.promotion.ledger import Ledger

    ledger = Ledger(settings.ledger_url)
    entries = ledger.decisions(name, limit)
    champions = {one: ledger.champion(one) for one in names}
    if as_json:
        emit(
            {
                "champions": {one: champion and vars(champion) for one, champion in champions.items()},
                "decisions": [vars(entry) for entry in entries],
            }
        )
        return
    for one, champion in champions.items():
        serving = "no champion"
        if champion is not None:
            before = f"; before it: version {champion.previous}" if champion.previous else ""
            serving = f"version {champion.version} serves since {_local(champion.decided_at)}{before}"
        console.print(f"[bold]{one}[/]  {serving}", highlight=False)
    for entry in entries:
        _print_entry(entry, catalog.data_sets.get(entry.data_set))


def _print_entry(entry: Entry, data_set: DataSet | None) -> None:
    """One decision: when and what, and below it why."""
    what = [_local(entry.decided_at), f"[{COLORS.get(entry.kind, 'yellow')}]{entry.kind:<11}[/]"]
    what += [f"[bold]{entry.data_set}[/]", *([f"version {entry.version}"] if entry.version else [])]
    night = f"[dim]Night as of {_as_of(entry.night, data_set)}.[/] " if entry.night else ""
    reason = textwrap.shorten(entry.reason.partition("\n")[0], REASON, placeholder=" …")
    console.print()
    console.print("  ".join(what), highlight=False, soft_wrap=True)
    console.print(Padding(night + escape(reason), (0, 0, 0, 2)), highlight=False)


def _local(text: str) -> str:
    """A moment of the ledger in this machine's time, to the minute."""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M")


def _as_of(night: str, data_set: DataSet | None) -> str:
    """A night's as-of, in the data set's time zone while the catalog has it."""
    import numpy as np

    moment = datetime.strptime(night.split(".")[1], "%Y%m%dT%H%M%SZ")  # noqa: DTZ007
    return data_set.grid.format(np.datetime64(moment, "us")) if data_set else f"{moment:%Y-%m-%d %H:%M}Z"


def _run(
    settings: Settings,
    name: str,
    as_of: datetime | None,
    budget: Budget | None,
    workers: int | None,
    pool: str | None,
) -> Outcome:
    """Run the flow in this process, under the watch of the terminal."""
    from dataclasses import replace

    from flows import embedded
    from flows.imports import importing
    from flows.progress import Terminal, watched_by

    # Prefect's own server makes its folder, but not the one above it.
    settings.root.mkdir(parents=True, exist_ok=True)
    server = embedded.start(settings.root)
    with Terminal(stderr) as terminal, watched_by(terminal):
        terminal.begin("start")
        with importing():
            import flows.steps  # noqa: F401 - now, while the server starts
            from flows.night import NightLost, Outcome
            from flows.retrain import retrain as flow
            from flows.sweep import signed

        with server.used(), signed():
            state: State[Any] = flow(
                data_set=name, as_of=as_of, budget=budget, workers=workers, pool=pool, return_state=True
            )
    result = state.result(raise_on_failure=False)
    if isinstance(result, NightLost):
        outcome = result.outcome
    elif isinstance(result, BaseException):
        raise result
    else:
        outcome = Outcome(**result)
    return replace(outcome, seconds={**terminal.announced, **outcome.seconds})


def _show(settings: Settings, outcome: Outcome, as_json: bool) -> None:
    """The outcome as a table and a sentence, and the exit status."""
    if as_json:
        emit(outcome.to_dict())
    else:
        _print(settings, outcome)
    if not outcome.is_good:
        raise typer.Exit(1)


def _print(settings: Settings, outcome: Outcome) -> None:
    console.print()
    if outcome.scores:
        rows = table("on the judge windows", "MAE", "MSE", "pinball", "coverage", numbers=4)
        for forecaster, scores in outcome.scores.items():
            numbers = [_number(scores.get(key)) for key in ("mae", "mse", "pinball", "coverage")]
            style = "bold" if forecaster == "challenger" else None
            rows.add_row(forecaster.replace("_", " "), *numbers, style=style)
        console.print(rows)
        console.print("[dim]errors in standard deviations of the target[/]", highlight=False)
        console.print()
    color = COLORS.get(outcome.ending, "yellow")
    console.print(f"[bold {color}]{outcome.ending}[/]  {escape(outcome.reason)}", highlight=False)
    for finding in outcome.findings:
        console.print(f"[dim]• {escape(finding)}[/]", highlight=False)
    console.print()
    where = [("history", f"nightcast history {outcome.data_set}")]
    if outcome.champion is not None:
        where.insert(0, ("forecast", f"nightcast forecast {outcome.data_set}"))
    if outcome.ending == "failed":
        where.append(
            ("traceback", "nightcast up, or again with PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL=ERROR")
        )
    if settings.tracking_uri is None:
        where.append(("browser", "nightcast up"))
    if outcome.run_id is not None:
        where.append(("MLflow run", outcome.run_link or f"{outcome.run_id} in {outcome.tracking_uri}"))
    for label, what in where:
        console.print(f"{label:<10}  {escape(what)}", highlight=False, soft_wrap=True)


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-"


def _budget(declared: Budget, trials: str, minutes: str) -> Budget | None:
    """The catalog's budget with what was given; None where nothing was."""
    given = {
        name: value for name, value in (("trials", trials), ("minutes", minutes)) if value != FROM_CATALOG
    }
    if not given:
        return None
    from pydantic import ValidationError

    try:
        return type(declared).model_validate({**declared.model_dump(), **given})
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        number = "a whole number above 0" if name == "trials" else "a number above 0"
        raise typer.BadParameter(
            f"{given[name]!r} is not {number}; `{FROM_CATALOG}` takes the catalog's", param_hint=f"--{name}"
        ) from error


def moment_of(text: str, option: str = "--as-of") -> datetime | None:
    """The time that an option names; None for the newest.

    Raises:
        typer.BadParameter: it is no time.
    """
    if text == NEWEST:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is not a time; write it as 2010-11-19T20:00+01:00", param_hint=option
        ) from error

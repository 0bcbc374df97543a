"""`nightcast demo`, `retrain`, `history`: nights run here, and what came of the earlier ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from data.catalog import load_catalog
from data.retrain import Budget
from flows.cli.output import (
    AsJson,
    DataSetName,
    console,
    emit,
    prepare,
    quiet_stdout,
    reports_errors,
    stderr,
    table,
)
from lstm.settings import Settings

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from flows.night import Outcome

DEMO = "household_power"
DEMO_DAYS_BEFORE_END = 7

FROM_CATALOG = "catalog"
NEWEST = "newest"

Trials = Annotated[str, typer.Option(help="Trials of the search: a number, or the catalog's.", metavar="N")]
Minutes = Annotated[str, typer.Option(help="Minutes of searching: a number, or the catalog's.", metavar="N")]
Workers = Annotated[int | None, typer.Option(min=1, help="Search workers; one a core when not given.")]


@reports_errors
def demo(workers: Workers = None, as_json: AsJson = False) -> None:
    """One night on the sample data, a week before its end, and what happened.

    Example: nightcast demo
    """
    settings = prepare()
    with quiet_stdout(as_json):
        from data.source import newest_time

        end = newest_time(load_catalog(settings.catalog).get(DEMO)).astype(datetime)
        as_of = end.replace(tzinfo=UTC) - timedelta(days=DEMO_DAYS_BEFORE_END)
        outcome = _run(settings, DEMO, as_of, None, workers, None)
    _show(settings, outcome, as_json)


@reports_errors
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
    """One night of one data set, run here: check, search, train, judge, promote, forecast.

    Example: nightcast retrain household_power --trials 12 --minutes 5
    """
    settings = prepare()
    data_set = load_catalog(settings.catalog).get(name)
    budget = _budget(data_set.retrain.budget, trials, minutes)
    moment = _moment(as_of)
    with quiet_stdout(as_json):
        outcome = _run(settings, name, moment, budget, workers, pool)
    _show(settings, outcome, as_json)


@reports_errors
def history(
    name: Annotated[
        str | None, typer.Argument(help="A data set; all when not given.", metavar="[DATA_SET]")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many decisions.")] = 20,
    as_json: AsJson = False,
) -> None:
    """The ledger: the newest decisions, and the champions.

    Example: nightcast history household_power
    """
    settings = prepare()
    catalog = load_catalog(settings.catalog)
    names = [catalog.get(name).name] if name else sorted(catalog.data_sets)
    with quiet_stdout(as_json):
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
        serving = f"version {champion.version}" if champion else "no champion yet"
        console.print(f"[bold]{one}[/]: {serving}", highlight=False)
    rows = table("decided (UTC)", "data set", "what", "version", "why")
    for entry in entries:
        rows.add_row(
            entry.decided_at[:16].replace("T", " "),
            entry.data_set,
            entry.kind,
            entry.version or "-",
            escape(entry.reason),
        )
    console.print(rows)


def _run(
    settings: Settings,
    name: str,
    as_of: datetime | None,
    budget: Budget | None,
    workers: int | None,
    pool: str | None,
) -> Outcome:
    """Run the flow in this process, under the watch of the terminal."""
    from flows.progress import Terminal, watched_by

    # Prefect's own server makes its folder, but not the one above it.
    settings.root.mkdir(parents=True, exist_ok=True)
    with Terminal(stderr) as terminal, watched_by(terminal):
        terminal.begin("start")
        from flows.night import Outcome
        from flows.retrain import retrain as flow

        state: State[Any] = flow(
            data_set=name, as_of=as_of, budget=budget, workers=workers, pool=pool, return_state=True
        )
    result = state.result(raise_on_failure=False)
    if isinstance(result, BaseException):
        raise result
    return Outcome(**result)


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
        rows = table("on the judge windows, standardised", "MAE", "MSE", "pinball", "coverage", numbers=4)
        for forecaster, scores in outcome.scores.items():
            style = "bold" if forecaster == "challenger" else None
            numbers = [_number(scores.get(key)) for key in ("mae", "mse", "pinball", "coverage")]
            rows.add_row(forecaster.replace("_", " "), *numbers, style=style)
        console.print(rows)
        console.print()
    color = "green" if outcome.ending == "promoted" else "yellow" if outcome.is_good else "red"
    console.print(f"[bold {color}]{outcome.ending}[/]  {escape(outcome.reason)}", highlight=False)
    for finding in outcome.findings:
        console.print(f"[dim]• {escape(finding)}[/]", highlight=False)
    console.print()
    where = [
        ("forecast", f"nightcast forecast {outcome.data_set}"),
        ("history", f"nightcast history {outcome.data_set}"),
    ]
    if settings.tracking_uri is None:
        where.append(("see it", "nightcast up"))
    where.append(("runs", outcome.tracking_uri))
    rows = table("where to look", "")
    for label, command in where:
        rows.add_row(label, escape(command))
    console.print(rows, soft_wrap=True)


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-"


def _budget(declared: Budget, trials: str, minutes: str) -> Budget | None:
    """The catalog's budget with what was given; None where nothing was."""
    if trials == FROM_CATALOG and minutes == FROM_CATALOG:
        return None
    try:
        return Budget(
            trials=declared.trials if trials == FROM_CATALOG else int(trials),
            minutes=declared.minutes if minutes == FROM_CATALOG else float(minutes),
        )
    except ValueError as error:
        raise typer.BadParameter(
            "trials and minutes must be numbers above 0", param_hint="--trials"
        ) from error


def _moment(text: str) -> datetime | None:
    if text == NEWEST:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is not a time; write it as 2010-11-19T20:00+01:00", param_hint="--as-of"
        ) from error

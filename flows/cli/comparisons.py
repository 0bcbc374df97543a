"""`nightcast compare`: which network suits a data set, and why."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.markup import escape

from flows.cli.nights import FROM_CATALOG, NEWEST, Workers, moment_of
from flows.cli.output import AsJson, DataSetName, console, emit, prepare, stderr, table

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from data.catalog import DataSet

ALL = "all"
FITTING = "fitting"


def compare(
    name: DataSetName,
    networks: Annotated[str, typer.Option(help="Some of them, as `lstm,gru`.")] = ALL,
    lookbacks: Annotated[
        str,
        typer.Option(
            help="Steps, as `48,168`; `fitting` for a quarter, a half and all of the catalog's longest."
        ),
    ] = FITTING,
    as_of: Annotated[str, typer.Option(help="Where the past ends: ISO 8601, or `newest`.")] = NEWEST,
    trials: Annotated[
        str, typer.Option(help="The most of each search: a number, or the catalog's.", metavar="N")
    ] = FROM_CATALOG,
    minutes: Annotated[
        float,
        typer.Option(
            min=0.01,
            help="For searching and training, all together; the first round, a trial and a training of each "
            "network at each lookback, always ends.",
        ),
    ] = 5.0,
    seeds: Annotated[int, typer.Option(min=1, help="The most trainings of each chosen recipe.")] = 3,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """LSTM, GRU, RNN, Transformer on your data: which one, and why.

    Example: nightcast compare household_power --minutes 6
    """
    settings = prepare()
    from data.catalog import load_catalog

    data_set = load_catalog(settings.catalog).get(name)
    wish: dict[str, Any] = {
        "data_set": name,
        "as_of": _pinned(data_set, moment_of(as_of)),
        "networks": _networks(networks),
        "lookbacks": ()
        if lookbacks == FITTING
        else tuple(_number(word, "--lookbacks") for word in _words(lookbacks, "--lookbacks")),
        "trials": None if trials == FROM_CATALOG else _number(trials, "--trials"),
        "minutes": minutes,
        "seeds": seeds,
        "workers": workers,
    }
    settings.root.mkdir(parents=True, exist_ok=True)
    try:
        outcome = _run(settings.root, wish)
    except (KeyboardInterrupt, SystemExit):
        if (moment := wish["as_of"]) is not None:
            stderr.print(f"To go on later: --as-of {moment.isoformat()}", highlight=False, soft_wrap=True)
        raise
    if as_json:
        emit(outcome)
        return
    _print(outcome)


def _networks(text: str) -> tuple[str, ...]:
    from data.retrain import Encoder

    known: tuple[str, ...] = get_args(Encoder)
    chosen = known if text == ALL else _words(text, "--networks")
    if unknown := [word for word in chosen if word not in known]:
        raise typer.BadParameter(f"{unknown[0]!r} is not one of {', '.join(known)}", param_hint="--networks")
    return chosen


def _run(root: Any, wish: dict[str, Any]) -> dict[str, Any]:
    """Run the flow in this process, under the watch of the terminal."""
    from flows import embedded
    from flows.imports import importing
    from flows.progress import Terminal, watched_by

    server = embedded.start(root)
    with Terminal(stderr) as terminal, watched_by(terminal):
        terminal.begin("start")
        with importing():
            import flows.comparison_steps  # noqa: F401 - now, while the server starts
            from flows.compare import compare as flow
            from flows.sweep import signed

        with server.used(), signed():
            state: State[Any] = flow(**wish, return_state=True)
    result = state.result(raise_on_failure=False)
    if isinstance(result, BaseException):
        raise result
    return {**result, "seconds": {**terminal.announced, **result["seconds"]}}


def _print(outcome: dict[str, Any]) -> None:
    from flows.comparison_report import rows

    advice = outcome["recommendation"]
    console.print()
    shown = table(
        "on the judge windows", "lookback", "MAE", "95% interval", "behind the best", "s/epoch", numbers=5
    )
    taken = next(n for n, one in enumerate(outcome["favourites"]) if one["network"] == advice["network"])
    for number, row in enumerate(rows(outcome)):
        shown.add_row(*row, style="bold" if number == taken else None)
    console.print(shown)
    console.print("[dim]errors in standard deviations of the target[/]\n", highlight=False)
    console.print(f"[bold green]{escape(advice['headline'])}[/]", highlight=False)
    for reason in advice["reasons"]:
        console.print(f"• {escape(reason)}", highlight=False)
    console.print(f"[bold]How sure: {advice['sureness']}.[/] {escape(advice['because'])}", highlight=False)
    console.print()
    where = outcome["run_link"] or f"{outcome['run_id']} in {outcome['tracking_uri']}"
    for label, what in (("page", outcome["page"]), ("MLflow run", where)):
        console.print(f"{label:<10}  {escape(what)}", highlight=False, soft_wrap=True)


def _pinned(data_set: DataSet, moment: datetime | None) -> datetime | None:
    """The moment, by a wall clock that of now: so that an interrupted comparison can be gone on with."""
    from data.contract import resolve_as_of

    if moment is not None or data_set.clock == "data":
        return moment
    return datetime.fromisoformat(data_set.grid.format(resolve_as_of(data_set)))


def _words(text: str, option: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    if not words:
        raise typer.BadParameter(f"{text!r} names nothing", param_hint=option)
    return words


def _number(text: str, option: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"{text!r} is not a whole number above 0", param_hint=option)
    return int(text)

"""The command: how accurate Nightcast is on a file, by the protocol of published tables.

    python -m benchmarks.accuracy ETTh1.csv --lookback 96 --published benchmarks/published.yaml
    python -m benchmarks.accuracy household_power.parquet --target global_active_power --horizons 24
    python -m benchmarks.accuracy --m4 Monthly-train.csv Monthly-test.csv --season 12

The configuration is found by the library's own search on the validation part; the test part is only scored.
Killed and started again, it goes on; finished, the same command prints its table at once.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import m4, standing
from benchmarks.campaign import Campaign, Plan
from benchmarks.narrator import Narrator
from benchmarks.protocol import Case, read_case
from benchmarks.published import Row, read_published, table
from benchmarks.results import show
from data.errors import NightcastError
from data.files import write_atomically
from flows import leash
from lstm.training.device import set_threads

HORIZONS = (96, 192, 336, 720)
SPLITS = ("ETTh", "ETTm", "70/10/20")
WORK = Path(".nightcast") / "accuracy"

# A week of hours: what the linear baseline reads, or all that train holds.
_RIDGE_LOOKBACK = 168
_PATIENCE = 20.0


def measure(arguments: Sequence[str]) -> None:
    """Measure, print the table, write the JSON.

    Raises:
        NightcastError: the data or the options cannot be used, or the search failed; changes nothing else.
    """
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.m4 and chosen.losses == "two":
        parser.error("--losses two: M4's measures have no squared error; leave it out")
    set_threads(1)
    case = _case(chosen)
    published = [] if chosen.published is None else read_published(chosen.published, case.name)
    campaign = Campaign(case, _plan(chosen, case), m4.score if chosen.m4 else standing.errors, chosen.work)
    narrator = Narrator(None if chosen.helper else campaign.folder / "seconds.json")
    if not campaign.is_finished:
        _run(campaign, narrator, 1 if chosen.helper else chosen.processes, arguments)
    if chosen.helper:
        return
    rows = [_ours(campaign, chosen.search), *_baselines(campaign, chosen), *published]
    shown = table(_title(case), rows, _metrics(chosen))
    show(Console(highlight=False), shown)
    if chosen.json is not None:
        found = json.dumps(result(campaign, narrator.seconds), indent=1)
        write_atomically(chosen.json, f"{found}\n".encode())


def result(campaign: Campaign, seconds: float) -> dict[str, Any]:
    """What `--json` writes: each metric's value for each seed, by horizon; the configuration; the seconds."""
    horizons = sorted(campaign.plan.horizons)
    return {
        "horizons": {str(horizon): campaign.scores(horizon) for horizon in horizons},
        "config": {
            "data_set": campaign.case.name,
            **campaign.plan.search(),
            "losses": list(campaign.plan.losses),
            "seeds": list(campaign.plan.seeds),
            "recipes": {
                str(horizon): [recipe.to_dict() for recipe in campaign.recipes(horizon)]
                for horizon in horizons
            },
        },
        "seconds": round(seconds, 1),
    }


def _run(campaign: Campaign, narrator: Narrator, processes: int, arguments: Sequence[str]) -> None:
    """The campaign, with helpers: the same command again, on the leash of this process."""
    helpers = [
        leash.start(
            "benchmarks.accuracy",
            *arguments,
            "--helper",
            log=campaign.folder / f"helper-{number}.log",
            environment={"OMP_NUM_THREADS": "1"},
        )
        for number in range(1, processes)
    ]
    try:
        campaign.run(narrator)
    finally:
        leash.release(helpers, _PATIENCE)
        narrator.keep()


def _case(chosen: argparse.Namespace) -> Case:
    if chosen.m4:
        train, test = chosen.m4
        return m4.read_m4(train, test, chosen.season, chosen.lookback)
    return read_case(chosen.file, chosen.target, chosen.split, interpolate=chosen.interpolate)


def _plan(chosen: argparse.Namespace, case: Case) -> Plan:
    horizons = (len(case.splits.judge),) if chosen.m4 else tuple(dict.fromkeys(chosen.horizons))
    return Plan(
        horizons=horizons,
        lookbacks=tuple(chosen.lookback),
        losses=("pinball", "squared") if chosen.losses == "two" else ("pinball",),
        seeds=tuple(range(chosen.seeds)),
        trials=chosen.trials if chosen.search else 0,
        minutes=chosen.minutes,
        retrain={
            **({} if chosen.epochs is None else {"max_epochs": chosen.epochs}),
            **({"ensemble": True} if chosen.ensemble else {}),
        },
    )


def _metrics(chosen: argparse.Namespace) -> tuple[str, ...]:
    if chosen.m4:
        return ("smape", "mase", "owa")
    return ("mse", "mae", "pinball") if chosen.target else ("mse", "mae")


def _title(case: Case) -> str:
    """With the columns that count as known ahead: whoever reads the errors must know of them."""
    known = f", {', '.join(case.panel.future)} known ahead" if case.panel.future else ""
    return f"{case.name}: errors on the test part{known}"


def _ours(campaign: Campaign, is_searched: bool) -> Row:
    horizons = sorted(campaign.plan.horizons)
    found = [campaign.recipes(horizon) for horizon in horizons]
    lookbacks = {recipe.model.lookback for recipes in found for recipe in recipes}
    most = max(len(recipes) for recipes in found)
    return Row(
        f"Nightcast, {'searched' if is_searched else 'defaults'}{f', mean of {most}' if most > 1 else ''}",
        ", ".join(str(lookback) for lookback in sorted(lookbacks)),
        {horizon: campaign.scores(horizon) for horizon in horizons},
    )


def _baselines(campaign: Campaign, chosen: argparse.Namespace) -> list[Row]:
    """Seasonal naive, and ridge for a single target; Naive2 for M4."""
    case, found = campaign.case, dict[str, tuple[int, dict[int, Any]]]()
    week = min(_RIDGE_LOOKBACK, len(case.splits.train) - max(campaign.plan.horizons))

    def note(name: str, lookback: int, horizon: int, scores: dict[str, float]) -> None:
        each = {metric: (value,) for metric, value in scores.items()}
        found.setdefault(name, (lookback, {}))[1][horizon] = each

    for horizon in campaign.plan.horizons:
        if chosen.m4:
            for name, scores in m4.baselines(case, horizon).items():
                note(name, case.season, horizon, scores)
            continue
        note("seasonal naive", case.season, horizon, standing.naive(case, horizon))
        if chosen.target:
            levels = campaign.recipes(horizon)[0].model.quantiles
            ridge = standing.ridge(case, horizon, week, levels) or {"ridge, no train window": {}}
            for name, scores in ridge.items():
                note(name, week, horizon, scores)
    return [Row(name, str(lookback), scores) for name, (lookback, scores) in found.items()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("file", type=Path, nargs="?", metavar="FILE", help="CSV or Parquet, with dates")
    data.add_argument("--m4", type=Path, nargs=2, metavar=("TRAIN", "TEST"), help="short series, a row each")
    parser.add_argument(
        "--target", metavar="COLUMN", help="forecast one column from all; by default each from itself"
    )
    parser.add_argument(
        "--split", choices=SPLITS, help="train, validation, test; by default by the file's name"
    )
    parser.add_argument(
        "--interpolate", action="store_true", help="fill gaps linearly, and score what was filled"
    )
    parser.add_argument(
        "--season", type=_count, default=1, metavar="STEPS", help="of M4's series; 1 for none"
    )
    parser.add_argument("--horizons", type=_count, nargs="+", default=HORIZONS, metavar="STEPS")
    parser.add_argument(
        "--lookback", type=_count, nargs="+", default=(), metavar="STEPS", help="to choose among"
    )
    parser.add_argument("--seeds", type=_count, default=3, metavar="NUMBER")
    parser.add_argument(
        "--losses",
        choices=("one", "two"),
        default="one",
        help="two: MSE from a second model by squared errors",
    )
    parser.add_argument("--trials", type=_count, default=16, help="of the search at the shortest horizon")
    parser.add_argument(
        "--minutes", type=_positive, default=20.0, help="the longest that the search may take"
    )
    parser.add_argument("--epochs", type=_count, help="the most of a training")
    parser.add_argument(
        "--ensemble", action="store_true", help="forecast the mean of one network of each normalisation"
    )
    parser.add_argument("--no-search", dest="search", action="store_false", help="the library's defaults")
    parser.add_argument("--published", type=Path, metavar="FILE", help="YAML of rows to print beside ours")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write what was found")
    parser.add_argument("--work", type=Path, default=WORK, metavar="FOLDER", help="what was done so far")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=2)
    parser.add_argument("--helper", action="store_true", help=argparse.SUPPRESS)
    return parser


def _count(text: str) -> int:
    """A whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def _positive(text: str) -> float:
    """A finite number above 0."""
    number = float(text)
    if not 0 < number < inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and finite")
    return number


def main(*arguments: str) -> None:
    """As a program: errors as text, and an end by SIGTERM that loses no trial."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # A training that begins again because code or data changed is meant to.
    logging.getLogger("lstm").setLevel(logging.ERROR)
    try:
        measure(arguments)
    except NightcastError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])

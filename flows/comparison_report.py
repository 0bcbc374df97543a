"""What a comparison leaves to look at: a page, numbers on its MLflow run, a table in Prefect."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data.files import write_atomically
from flows.comparing import Comparing
from lstm.comparison.contenders import contenders
from lstm.comparison.recommendation import p_value, spoken
from lstm.comparison.results import Comparison, Result

PAGE = "comparison.html"


def write_page(comparing: Comparing, comparison: Comparison) -> Path:
    """The comparison's page, in its folder."""
    # Plotly takes long to import, and only the end of a comparison needs it.
    from lstm.tracking.comparison_page import render

    path = comparing.folder / PAGE
    write_atomically(path, render(comparison, _facts(comparing)).encode())
    return path


def log_numbers(comparing: Comparing, run: str, comparison: Comparison) -> None:
    """Every number, as a file and as metrics, whose step is the lookback: MLflow draws lines over it."""
    text = json.dumps(comparison.to_dict(), indent=1, allow_nan=False)
    comparing.tracker.log_text(run, text, "comparison.json")
    for one in comparison.results:
        metrics = {f"{one.network}/{name}": value for name, value in _metrics(one).items()}
        comparing.tracker.log_metrics(run, metrics, step=one.lookback)


def outcome_of(comparing: Comparing, run: str, page: Path, comparison: Comparison) -> dict[str, Any]:
    """What the flow returns and the command prints; JSON-safe."""
    told, panel = comparison.to_dict(), comparing.ground.panel
    return {
        "data_set": panel.data_set,
        "as_of": panel.frequency.format(panel.as_of),
        "recommendation": told["recommendation"],
        "favourites": told["favourites"],
        "findings": list(comparing.findings),
        "seconds": dict(comparing.stages.seconds),
        "page": str(page),
        "run_id": run,
        "run_link": comparing.tracker.link(run),
        "tracking_uri": comparing.settings.shown_mlflow_uri,
    }


def markdown(outcome: Mapping[str, Any]) -> str:
    """Recommendation and table."""
    advice = outcome["recommendation"]
    lines = [
        f"# {outcome['data_set']}: {advice['headline']}",
        "",
        *(f"- {reason}" for reason in advice["reasons"]),
        "",
        f"How sure: **{advice['sureness']}**, {advice['because']}",
        "",
        "| | lookback | MAE | 95% interval | behind the best | seconds an epoch |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(f"| {' | '.join(row)} |" for row in rows(outcome)),
        "",
    ]
    run = outcome["run_id"]
    where = f"[run {run}]({outcome['run_link']})" if outcome["run_link"] else f"run {run}"
    return "\n".join(
        [*lines, f"The page {PAGE} is an artifact of MLflow {where} in {outcome['tracking_uri']}"]
    )


def rows(outcome: Mapping[str, Any]) -> list[list[str]]:
    """The favourites as cells: who, lookback, MAE, interval, behind the best, seconds an epoch."""
    behind = outcome["recommendation"]["behind"]
    return [
        [
            spoken(one["network"]),
            "" if one["network"] == "seasonal_naive" else str(one["lookback"]),
            f"{one['mae']['mean']:.3f}",
            _interval(one["mae"]),
            p_value(behind[one["network"]]["p"]) if one["network"] in behind else "best",
            f"{one['cost']['epoch_seconds']:.2f}" if one["cost"] else "–",
        ]
        for one in outcome["favourites"]
    ]


def _interval(mae: Mapping[str, float | None]) -> str:
    return "not known" if mae["low"] is None else f"{mae['low']:.3f} to {mae['high']:.3f}"


def _metrics(one: Result) -> dict[str, float]:
    metrics = {"mae": one.mae.mean, "pinball": one.pinball, "mse": one.mse, "coverage": one.coverage}
    if one.cost is not None:
        metrics |= {
            "epoch_seconds": one.cost.epoch_seconds,
            "training_mib": one.cost.training_megabytes,
            "forecasts_per_second": one.cost.windows_per_second,
        }
    return metrics


def _facts(comparing: Comparing) -> dict[str, str]:
    """What a reader of the page may ask."""
    panel, retrain = comparing.ground.panel, comparing.job.data_set.retrain
    space = retrain.search_space.model_dump(mode="json")
    until = panel.frequency.format(panel.as_of)
    return {
        "Data": f"{len(panel.series)} series, {len(panel.values):,} rows up to {until}",
        "Snapshot": comparing.job.snapshot,
        "Found in the data": " ".join(f"{finding}." for finding in comparing.findings) or "nothing",
        "Search space": "; ".join(f"{name} {_choices(value)}" for name, value in space.items()),
        "Searched and trained": f"{_seconds(comparing) / 60:.1f} minutes, over all contenders",
        "Made": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z} by Nightcast {version('nightcast')}",
    }


def _seconds(comparing: Comparing) -> float:
    """What the contenders have taken, also before an interruption: kept with what they have made."""
    total = 0.0
    for one in contenders(comparing.ground.data_set):
        records = comparing.records(one)
        seeds = filter(records.has_forecast, range(comparing.wish.seeds))
        total += records.searched().seconds + sum(map(records.training_seconds, seeds))
    return total


def _choices(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{value['low']:g} to {value['high']:g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

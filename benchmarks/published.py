"""Published numbers, from a YAML file, as rows beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from rich.table import Table

from data.errors import NightcastError


class PublishedError(NightcastError):
    """A file of published numbers that cannot be used."""


class Published(BaseModel):
    """A model's row: each metric by horizon; M4's have none, so theirs stand under 0.

    Attributes:
        lookback: 0 where it has none to speak of.
        source: who published it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    lookback: int = 0
    source: str
    scores: Mapping[int, Mapping[str, float]]


@dataclass(frozen=True)
class Row:
    """One line of the table: each metric by horizon, a value each seed."""

    model: str
    lookback: str
    scores: Mapping[int, Mapping[str, Sequence[float]]]


def read_published(path: Path, name: str) -> list[Row]:
    """The rows of a data set; none where the file does not name it.

    Raises:
        PublishedError: the file is missing, or not what `Published` describes, by data set.
    """
    try:
        raw = yaml.safe_load(path.read_text())
        every = TypeAdapter(Mapping[str, list[Published]]).validate_python(raw)
    except OSError as error:
        raise PublishedError(f"{path}: {error.strerror}. Remedy: name a file with --published") from error
    except (yaml.YAMLError, ValidationError) as error:
        remedy = "Remedy: write it as benchmarks/published.yaml is written"
        raise PublishedError(f"{path}: {str(error).splitlines()[0]}. {remedy}") from error
    found = [rows for key, rows in every.items() if key.lower() == name.lower()]
    return [
        Row(
            one.model,
            str(one.lookback or ""),
            {h: {metric: (value,) for metric, value in scores.items()} for h, scores in one.scores.items()},
        )
        for one in (found[0] if found else [])
    ]


def table(title: str, rows: Sequence[Row], metrics: Sequence[str], notes: Sequence[str] = ()) -> Table:
    """The rows, by horizon and as a mean over the horizons that all of ours have, the lowest first.

    A cell is the mean over seeds, with their standard deviation where there are several.
    """
    horizons = sorted({horizon for row in rows for horizon in row.scores})
    made = Table(title=title, caption="\n".join(notes), caption_justify="left", title_justify="left")
    made.add_column("model")
    made.add_column("lookback", justify="right")
    for horizon in horizons:
        made.add_column(
            f"{horizon}\n{' / '.join(metrics)}" if horizon else " / ".join(metrics), justify="right"
        )
    if len(horizons) > 1:
        made.add_column("mean", justify="right")
    for row in sorted(rows, key=lambda row: _mean(row, horizons, metrics[0])):
        cells = [
            " / ".join(_cell(row.scores.get(h, {}).get(metric, ())) for metric in metrics) for h in horizons
        ]
        if len(horizons) > 1:
            cells.append(" / ".join(_text(_mean(row, horizons, metric)) for metric in metrics))
        made.add_row(row.model, row.lookback, *cells)
    return made


def _mean(row: Row, horizons: Sequence[int], metric: str) -> float:
    """Over all horizons; infinite where one is missing."""
    values = [row.scores.get(horizon, {}).get(metric, ()) for horizon in horizons]
    return fmean(fmean(each) for each in values) if all(values) else float("inf")


def _cell(values: Sequence[float]) -> str:
    if len(values) < 2:
        return _text(values[0]) if values else ""
    return f"{_text(fmean(values))} ±{_text(stdev(values))}"


def _text(value: float) -> str:
    """Three decimals, without the zero before the point."""
    return "" if value == float("inf") else f"{value:.3f}".removeprefix("0")

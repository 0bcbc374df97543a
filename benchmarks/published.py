"""Published numbers, from a YAML file, as rows beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import fmean, stdev

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from rich.table import Table

from data.errors import NightcastError


class PublishedError(NightcastError):
    """A file of published numbers that cannot be used."""


class Published(BaseModel):
    """A model's row: each metric by horizon.

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


def table(title: str, rows: Sequence[Row], metrics: Sequence[str]) -> Table:
    """The rows at the horizons of the first one, ours, and their mean over these; the lowest first.

    A cell is the mean over seeds. Below stands by how much they differ.
    """
    horizons = sorted(rows[0].scores)
    made = Table(title=title, caption=_spread(rows[0], metrics), caption_justify="left", title_justify="left")
    made.add_column("model", no_wrap=True)
    made.add_column("lookback", justify="right")
    names = [f"{horizon}" for horizon in horizons] + ["mean"] * (len(horizons) > 1)
    for name in names:
        made.add_column(f"{name}\n{' / '.join(metrics)}", justify="right", no_wrap=True)
    for row in sorted(rows, key=lambda row: _mean(row, horizons, metrics[0])):
        cells = [[row.scores.get(horizon, {}).get(metric, ()) for metric in metrics] for horizon in horizons]
        means = [[_mean(row, horizons, metric) for metric in metrics]] * (len(horizons) > 1)
        shown = [[fmean(values) if values else inf for values in cell] for cell in cells] + means
        style = "bold" if row is rows[0] else None
        made.add_row(row.model, row.lookback, *(" / ".join(map(_text, cell)) for cell in shown), style=style)
    return made


def _spread(row: Row, metrics: Sequence[str]) -> str:
    """The standard deviation over seeds, where there are several."""
    found = [
        f"{horizon}: {' / '.join(_text(stdev(scores[metric])) for metric in metrics)}"
        for horizon, scores in sorted(row.scores.items())
        if len(scores[metrics[0]]) > 1
    ]
    count = len(next(iter(row.scores.values()))[metrics[0]])
    return f"{row.model}: standard deviation over {count} seeds: {'; '.join(found)}" if found else ""


def _mean(row: Row, horizons: Sequence[int], metric: str) -> float:
    """Over these horizons; infinite where one is missing."""
    values = [row.scores.get(horizon, {}).get(metric, ()) for horizon in horizons]
    return fmean(fmean(each) for each in values) if all(values) else inf


def _text(value: float) -> str:
    """Three decimals, without the zero before the point."""
    return "-" if value == inf else f"{value:.3f}".removeprefix("0")

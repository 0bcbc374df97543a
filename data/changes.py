"""What a data set looked like last night, and what has changed since: columns, types, series."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Self

from data.catalog import DataSet
from data.errors import DataRefused
from data.findings import Finding

STATIC = "static"
"""What a column holds that is declared so: numbers or text."""


@dataclass(frozen=True)
class Seen:
    """What a night saw of a data set's shape; the next night compares with it.

    Args:
        columns: every column of the source and what it holds (number, text, time, boolean, empty),
            or `STATIC` where it is declared so.
        series: the series ids, sorted; ``("",)`` without a series column.
        series_column: the column that tells the series apart.
    """

    columns: dict[str, str]
    series: tuple[str, ...]
    series_column: str | None = None

    def to_json(self) -> str:
        """As one line of JSON, for the ledger."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`.

        Raises:
            ValueError: not what `to_json` writes.
        """
        try:
            raw = json.loads(text)
            return cls(dict(raw["columns"]), tuple(raw["series"]), raw["series_column"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a record of what was seen: {text[:80]!r}") from error


def compare(data_set: DataSet, previous: Seen, seen: Seen) -> tuple[Finding, ...]:
    """Changes since last night that do no harm.

    A new series is reported, and so is any change of a column that the catalog does not use. A column in use
    that is gone or retyped was refused while reading.

    Raises:
        DataRefused: a series vanished.
    """
    return (*_columns(previous, seen), *_series(data_set, previous, seen))


def _columns(previous: Seen, seen: Seen) -> list[Finding]:
    """What has become of the columns that the catalog does not use, then or now."""
    before, now = previous.columns, seen.columns
    added = [Finding("new column since last night", column=name) for name in _new(before, now)]
    gone = [Finding("unused column gone since last night", column=name) for name in _new(now, before)]
    retyped = [
        Finding(f"unused column retyped since last night, from {before[name]} to {now[name]}", column=name)
        for name in before
        if name in now and before[name] != now[name] and STATIC not in (before[name], now[name])
    ]
    return [*added, *gone, *retyped]


def _series(data_set: DataSet, previous: Seen, seen: Seen) -> list[Finding]:
    if previous.series_column != seen.series_column:
        return [Finding("the catalog names another series column than last night", column=seen.series_column)]
    vanished = [name for name in _new(seen.series, previous.series) if name not in data_set.exclude]
    if vanished:
        others = f", and {len(vanished) - 1} more" if len(vanished) > 1 else ""
        raise DataRefused(
            f"The series was there last night and has vanished{others}.",
            data_set=data_set.name,
            series=vanished[0],
            column=data_set.series,
            remedy=f"bring it back in the source, or set `{data_set.excluding(vanished)}` in the catalog.",
        )
    return [
        Finding("new series since last night", series=name) for name in _new(previous.series, seen.series)
    ]


def _new(before: dict[str, str] | tuple[str, ...], after: dict[str, str] | tuple[str, ...]) -> list[str]:
    """What `after` holds and `before` does not, in its order."""
    known = set(before)
    return [name for name in after if name not in known]

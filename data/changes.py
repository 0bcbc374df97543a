"""What a data set looked like last night, and what has changed since: columns, types, series."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Self

from data.catalog import DataSet
from data.errors import DataRefused
from data.findings import Finding

_KINDS = {
    "number": ("Int", "UInt", "Float", "Decimal"),
    "time": ("Date", "Datetime", "Time", "Duration"),
    "true or false": ("Boolean",),
}


@dataclass(frozen=True)
class Seen:
    """What a night saw of a data set's shape; the next night compares with it.

    Args:
        columns: every column of the source and its type as read.
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

    A new series or column is reported, and so is any change of a column that the catalog does not use.

    Raises:
        DataRefused: a series vanished, or a column in use was removed or holds another kind of value.
    """
    return (*_columns(data_set, previous, seen), *_series(data_set, previous, seen))


def _columns(data_set: DataSet, previous: Seen, seen: Seen) -> list[Finding]:
    added = [
        Finding("new column since last night", column=name) for name in _new(previous.columns, seen.columns)
    ]
    removed = [_removed(data_set, name, seen, added) for name in _new(seen.columns, previous.columns)]
    retyped = [
        _retyped(data_set, name, previous.columns[name], seen.columns[name])
        for name in previous.columns
        if name in seen.columns and _kind(previous.columns[name]) != _kind(seen.columns[name])
    ]
    return [*added, *removed, *(finding for finding in retyped if finding)]


def _removed(data_set: DataSet, name: str, seen: Seen, added: list[Finding]) -> Finding:
    if name not in _used(data_set):
        return Finding("column gone since last night; the catalog does not use it", column=name)
    renamed = f" (was it renamed to {added[0].column}?)" if len(added) == 1 else ""
    raise DataRefused(
        f"column gone since last night{renamed}; the source has {', '.join(seen.columns)}.",
        data_set=data_set.name,
        column=name,
        remedy="bring it back in the source, or give its new name or remove it in the catalog.",
    )


def _retyped(data_set: DataSet, name: str, before: str, now: str) -> Finding | None:
    """Values read from text or written as text were parsed or refused by the reader already."""
    if not name or "empty" in (_kind(before), _kind(now)):
        return None
    numeric = name in (data_set.target, *data_set.covariates)
    if not numeric or "text" in (_kind(before), _kind(now)):
        return Finding(f"column was {before} last night and is {now}", column=name)
    raise DataRefused(
        f"column retyped since last night: it was {before} and is {now}.",
        data_set=data_set.name,
        column=name,
        remedy="restore its type in the source"
        + (f", or set `columns: {{{name}: ignore}}` in the catalog." if name != data_set.target else "."),
    )


def _series(data_set: DataSet, previous: Seen, seen: Seen) -> list[Finding]:
    if previous.series_column != seen.series_column:
        return [Finding("the catalog names another series column than last night", column=seen.series_column)]
    vanished = [name for name in _new(seen.series, previous.series) if name not in data_set.exclude]
    if vanished:
        others = f", and {len(vanished) - 1} more" if len(vanished) > 1 else ""
        raise DataRefused(
            f"series {vanished[0]!r} was there last night and has vanished{others}.",
            data_set=data_set.name,
            series=vanished[0],
            column=data_set.series,
            remedy=f"bring it back in the source, or set `exclude: [{', '.join(vanished)}]` in the catalog.",
        )
    return [
        Finding("new series since last night", series=name) for name in _new(previous.series, seen.series)
    ]


def _used(data_set: DataSet) -> set[str]:
    """The columns that the catalog reads."""
    series = [data_set.series] if data_set.series else []
    return {data_set.time, data_set.target, *series, *data_set.covariates}


def _new(before: dict[str, str] | tuple[str, ...], after: dict[str, str] | tuple[str, ...]) -> list[str]:
    """What `after` holds and `before` does not, in its order."""
    known = set(before)
    return [name for name in after if name not in known]


def _kind(dtype: str) -> str:
    """A type as read, without its width: number, time, true or false, empty, text."""
    if dtype == "Null":
        return "empty"
    return next((kind for kind, names in _KINDS.items() if dtype.startswith(names)), "text")

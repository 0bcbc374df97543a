"""Checks of a panel: stale data, missing steps and gaps, constant columns, and what cannot be negative."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import numpy as np

from data.calendar import duration
from data.catalog import DataSet
from data.errors import DataRefused
from data.findings import Finding
from data.outliers import outliers
from data.panel import Booleans, Integers, Panel
from data.splits import Span, Splits

NAMED = 5
"""How many further series a refusal lists in words."""


def check_panel(panel: Panel, data_set: DataSet, splits: Splits) -> tuple[Finding, ...]:
    """What is missing, constant or odd in a panel, as far as a night can live with it.

    Raises:
        DataRefused: the newest target is too old, a gap in the newest steps is too long, or a target is
            constant or never observed over the training span.
    """
    _not_stale(panel, data_set)
    return (
        *_missing(panel),
        *_gaps(panel, data_set, splits),
        *_constant(panel, data_set, splits),
        *_negative(panel, data_set),
        *outliers(panel),
    )


def check_ahead(panel: Panel, horizon: int) -> None:
    """Refuse a panel whose future covariates do not reach over the horizon after its last step.

    Raises:
        DataRefused: a value is missing; names the first series and column, and the step.
    """
    if not panel.future:
        return
    given = np.full((len(panel.series), horizon, len(panel.future)), np.nan)
    reach = min(horizon, panel.n_ahead)
    if reach:
        given[:, :reach] = panel.ahead[:, :reach]
    missing = np.isnan(given).transpose(0, 2, 1)
    if not missing.any():
        return
    series, column, step = (int(place) for place in np.argwhere(missing)[0])
    raise DataRefused(
        f"The future covariate has no value for {int(missing[series, column].sum())} of the {horizon} steps "
        f"after {panel.frequency.format(panel.as_of)}.",
        data_set=panel.data_set,
        series=panel.series[series] or None,
        column=panel.future[column],
        time=_time(panel, panel.n_steps + step),
        remedy="give it in rows of these times, whose target stays empty; or declare the column `past` if it "
        "is not known ahead.",
    )


def newest_steps(data_set: DataSet, splits: Splits) -> Span:
    """The steps that this night tunes and judges on: the longest lookback, validation and judge."""
    lookback = max(data_set.retrain.search_space.lookback)
    return Span(splits.validation.first - lookback, splits.judge.last)


def gaps(missing: Booleans) -> tuple[Integers, Integers]:
    """First and last position of every run of True, both included."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], missing, [False]]).astype(np.int8)))
    return edges[::2], edges[1::2] - 1


def _not_stale(panel: Panel, data_set: DataSet) -> None:
    newest = int(_steps(panel)[panel.observed[:, 0]].max(initial=0))
    age = (panel.n_steps - 1 - newest) * timedelta(seconds=panel.frequency.seconds)
    if age <= duration(data_set.staleness):
        return
    if panel.as_of > np.datetime64(datetime.now(UTC).replace(tzinfo=None), "us"):
        raise DataRefused(
            f"The as-of {panel.frequency.format(panel.as_of)} lies in the future, {_readable(age)} after the "
            "newest value.",
            data_set=panel.data_set,
            column=panel.target,
            time=_time(panel, newest),
            remedy=f"give an as-of that is not after {_time(panel, newest)}, or none.",
        )
    raise DataRefused(
        f"Stale: the newest value is {_readable(age)} older than the last complete step, "
        f"{panel.frequency.format(panel.as_of)}; at most {data_set.staleness} is allowed.",
        data_set=panel.data_set,
        column=panel.target,
        time=_time(panel, newest),
        remedy="find out why the source has stopped. If its rows arrive late, say so with "
        "`publication_delay:`, or allow more with `staleness:` in the catalog; a file that gets no new rows "
        "wants `clock: data`.",
    )


def _missing(panel: Panel) -> list[Finding]:
    """What is missing, and the longest gap; columns that miss the same steps are one finding."""
    missing, steps = ~panel.observed, _steps(panel)
    alike: dict[tuple[str, bytes], list[int]] = {}
    for column, name in enumerate(panel.columns):
        how = "filled from the step before" if name in panel.future else "masked"
        alike.setdefault((how, missing[:, column].tobytes()), []).append(column)
    findings = []
    for (how, _), columns in alike.items():
        rows = np.flatnonzero(missing[:, columns[0]])
        if rows.size:
            first = int(rows[0])
            single = len(columns) == 1
            where = "" if single else f" in {_list(panel, columns)}"
            longest = _longest_gap(panel, missing[:, columns[0]], first)
            findings.append(
                Finding(
                    f"steps without a value{where}, {how}; the longest gap is {longest}",
                    series=_owner(panel, first),
                    column=panel.columns[columns[0]] if single else None,
                    time=_time(panel, int(steps[first])),
                    count=rows.size,
                )
            )
    return findings


def _longest_gap(panel: Panel, missing: Booleans, first: int) -> str:
    """Steps of the longest gap; and where it begins, unless that is the first row that is missing."""
    longest, begins = 0, first
    for number in range(len(panel.series)):
        firsts, lasts = gaps(missing[panel.rows(number)])
        if firsts.size:
            place = int((lasts - firsts).argmax())
            length = int(lasts[place] - firsts[place]) + 1
            if length > longest:
                longest, begins = length, int(panel.offsets[number] + firsts[place])
    if begins == first:
        return str(longest)
    owner = _owner(panel, begins)
    return (
        f"{longest}, from {_time(panel, int(_steps(panel)[begins]))}{f' of series {owner}' if owner else ''}"
    )


def _list(panel: Panel, columns: list[int]) -> str:
    if len(columns) == len(panel.columns):
        return f"all {len(columns)} columns"
    return f"{len(columns)} columns ({', '.join(panel.columns[column] for column in columns)})"


def _gaps(panel: Panel, data_set: DataSet, splits: Splits) -> list[Finding]:
    """Gaps of the target over the limit: refused within the newest steps, reported where they are older."""
    limit = duration(data_set.gaps.longest).total_seconds() / panel.frequency.seconds
    newest = newest_steps(data_set, splits)
    findings = []
    for number, series in enumerate(panel.series):
        base = int(panel.first_steps[number])
        firsts, lasts = gaps(~panel.observed[panel.rows(number), 0])
        for first, last in zip((firsts + base).tolist(), (lasts + base).tolist(), strict=True):
            inside = last - max(first, newest.first) + 1
            if inside > limit:
                raise DataRefused(
                    f"A gap of {inside} steps to {_time(panel, last)} in the newest data; at most "
                    f"{data_set.gaps.longest} is allowed between {_time(panel, newest.first)} and the end.",
                    data_set=panel.data_set,
                    series=series,
                    column=panel.target,
                    time=_time(panel, max(first, newest.first)),
                    remedy="fill it in the source, or allow it with `gaps: {longest: ...}`"
                    + (f", or leave the series out with `{data_set.excluding([series])}`" if series else "")
                    + " in the catalog.",
                )
            if last - first + 1 > limit:
                findings.append(
                    Finding(
                        f"a gap of {last - first + 1} steps, masked",
                        series=series or None,
                        column=panel.target,
                        time=_time(panel, first),
                    )
                )
    return findings


def _constant(panel: Panel, data_set: DataSet, splits: Splits) -> list[Finding]:
    """Columns with a single value over the training span: a target is refused, a covariate reported."""
    findings, targets = [], {}
    for number, series in enumerate(panel.series):
        rows = panel.rows(number)
        steps = np.arange(int(panel.first_steps[number]), panel.n_steps)
        values = panel.values[rows][(steps >= splits.train.first) & (steps <= splits.train.last)]
        for column, name in enumerate(panel.columns):
            known = values[:, column][~np.isnan(values[:, column])]
            if known.size and known.min() != known.max():
                continue
            what = f"constant at {known[0]:g}" if known.size else "never observed"
            if column:
                findings.append(Finding(f"{what} over the training data", series=series or None, column=name))
            else:
                targets[number] = what
    if targets:
        _refuse_constant(panel, data_set, splits, targets)
    return findings


def _refuse_constant(panel: Panel, data_set: DataSet, splits: Splits, targets: Mapping[int, str]) -> NoReturn:
    """Refuse all series at once, by number, whose target is as `targets` says."""
    first, *others = targets
    series = [panel.series[number] for number in targets]
    listed = [f"{panel.series[number]} ({targets[number]})" for number in others[:NAMED]]
    more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
    also = f" Likewise {', '.join(listed)}{more}." if others else ""
    repair = "name another target in the catalog, or repair the source."
    exclude = f"leave the series out with `{data_set.excluding(series)}` in the catalog, or repair "
    raise DataRefused(
        f"The target is {targets[first]} over the training data: there is nothing to learn.{also}",
        data_set=panel.data_set,
        series=series[0],
        column=panel.target,
        time=_time(panel, max(int(panel.first_steps[first]), splits.train.first)),
        remedy=repair if len(series) == len(panel.series) else f"{exclude}{'them' if others else 'it'}.",
    )


def _negative(panel: Panel, data_set: DataSet) -> list[Finding]:
    negative = np.flatnonzero(panel.values[:, 0] < 0)
    if not data_set.non_negative or not negative.size:
        return []
    return [
        Finding(
            "values below 0 of a target declared non_negative; forecasts stop at 0",
            series=_owner(panel, int(negative[0])),
            column=panel.target,
            time=_time(panel, int(_steps(panel)[negative[0]])),
            count=negative.size,
        )
    ]


def _steps(panel: Panel) -> Integers:
    """(N,) the grid step of every row."""
    return np.concatenate([np.arange(first, panel.n_steps, dtype=np.int64) for first in panel.first_steps])


def _owner(panel: Panel, row: int) -> str | None:
    """The id of the series that a row belongs to, None for the nameless one."""
    return panel.series[int(np.searchsorted(panel.offsets, row, side="right")) - 1] or None


def _time(panel: Panel, step: int) -> str:
    return panel.frequency.format(panel.frequency.shift(panel.start, step))


def _readable(age: timedelta) -> str:
    """``3 days`` or ``5 hours``, whichever a person would say."""
    hours = age.total_seconds() / 3600
    if hours < 48:
        return f"{hours:.3g} hours"
    days = hours / 24
    return f"{days:.3g} days" if days < 100 else f"{days:,.0f} days"

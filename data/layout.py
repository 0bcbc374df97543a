"""Which column of a source plays which role."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from data.catalog import DataSet
from data.errors import DataRefused


@dataclass(frozen=True)
class Layout:
    """The declared columns of a data set.

    Args:
        data_set: the catalog name.
        time: the time column.
        series: the series column, or None where the data set is one series.
        target: the target column.
        covariates: the past covariates.
        time_zone: the zone of times that carry no offset (IANA).
        future: the future covariates.
        static: the static features, one value a series.
        holidays: whose holidays the calendar knows (`data.holidays`).
    """

    data_set: str
    time: str
    series: str | None
    target: str
    covariates: tuple[str, ...]
    time_zone: str
    future: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    holidays: str | None = None

    @property
    def values(self) -> tuple[str, ...]:
        """The columns with a number a row: target, past and future covariates."""
        return (self.target, *self.covariates, *self.future)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every declared column."""
        return (self.time, *([self.series] if self.series else []), *self.values, *self.static)

    def refuse(
        self,
        problem: str,
        *,
        remedy: str,
        series: str | None = None,
        column: str | None = None,
        time: str | None = None,
    ) -> NoReturn:
        """Raise `DataRefused` for this data set."""
        raise DataRefused(
            problem, data_set=self.data_set, series=series, column=column, time=time, remedy=remedy
        )


def layout_of(data_set: DataSet) -> Layout:
    """The layout that a catalog entry declares."""
    return Layout(
        data_set=data_set.name,
        time=data_set.time,
        series=data_set.series,
        target=data_set.target,
        covariates=data_set.covariates,
        time_zone=data_set.time_zone,
        future=data_set.future,
        static=data_set.static,
        holidays=data_set.holidays,
    )

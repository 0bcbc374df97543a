"""Errors that a person can act on: what is wrong, where, and the remedy."""

from __future__ import annotations


class NightcastError(Exception):
    """Base of every error that Nightcast raises on purpose; its text is meant to be read."""


class CatalogError(NightcastError):
    """The catalog cannot be used as written; names file, key and remedy."""


class UnknownDataSet(CatalogError):
    """A data set name that the catalog does not hold; suggests the nearest one."""


class SettingsError(NightcastError):
    """The environment holds a setting that cannot be used; names the variable and the remedy."""


class DataRefused(NightcastError):
    """Data that the contract refuses. Nothing has been changed.

    Args:
        problem: what is wrong, in one sentence.
        data_set: the catalog name.
        series: the series id, where one series is to blame.
        column: the column, where one is to blame.
        time: the first offending time, as text.
        remedy: what to do about it.
    """

    def __init__(
        self,
        problem: str,
        *,
        data_set: str,
        series: str | None = None,
        column: str | None = None,
        time: str | None = None,
        remedy: str,
    ) -> None:
        self.problem = problem
        self.data_set = data_set
        self.series = series
        self.column = column
        self.time = time
        self.remedy = remedy
        named = (("series", series), ("column", column), ("first at", time))
        where = ", ".join([data_set, *(f"{word} {value}" for word, value in named if value)])
        super().__init__(f"{where}: {problem} Remedy: {remedy}")

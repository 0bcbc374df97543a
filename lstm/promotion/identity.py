"""A night's identity: which data set, as of when, with which configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def to_iso(time: np.datetime64) -> str:
    """A UTC time as text, to the second: ``2010-11-19T20:00:00Z``. Such texts sort by time."""
    moment = datetime.fromtimestamp(int(time.astype("datetime64[s]").astype(np.int64)), UTC)
    return moment.strftime(_FORMAT)


@dataclass(frozen=True)
class Identity:
    """What makes two nights the same night. Every tool that works for a night carries its `key`.

    Args:
        data_set: the catalog name.
        as_of: the UTC moment at which the past ends, as `to_iso` writes it.
        config_hash: `DataSet.config_hash`, which includes the package version.

    Raises:
        ValueError: `as_of` is not written as `to_iso` writes it.
    """

    data_set: str
    as_of: str
    config_hash: str

    def __post_init__(self) -> None:
        if datetime.strptime(self.as_of, _FORMAT).strftime(_FORMAT) != self.as_of:  # noqa: DTZ007
            raise ValueError(f"as_of {self.as_of!r} is not a UTC time like 2010-11-19T20:00:00Z")

    @classmethod
    def of(cls, data_set: str, as_of: np.datetime64, config_hash: str) -> Identity:
        """The identity of a night whose past ends at a grid time."""
        return cls(data_set, to_iso(as_of), config_hash)

    @property
    def key(self) -> str:
        """One text safe in file names, tags and study names: ``power.20101119T200000Z.0123456789ab``."""
        return ".".join((self.data_set, re.sub("[-:]", "", self.as_of), self.config_hash))

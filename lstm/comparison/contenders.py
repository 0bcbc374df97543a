"""Who is compared: every network at every lookback, each searched in the data set's own space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from pydantic import ValidationError

from data.catalog import DataSet
from data.errors import NightcastError
from data.retrain import Encoder, SearchSpace

NETWORKS: tuple[Encoder, ...] = get_args(Encoder)


class WrongComparison(NightcastError):
    """A comparison that was asked for cannot be made."""


@dataclass(frozen=True)
class Contender:
    """One network at one lookback."""

    network: Encoder
    lookback: int

    @property
    def name(self) -> str:
        """For files and studies: ``lstm-168``."""
        return f"{self.network}-{self.lookback}"


def lookbacks_of(data_set: DataSet) -> tuple[int, ...]:
    """A quarter, a half and the whole of the catalog's longest lookback, in whole segments."""
    space = data_set.retrain.search_space
    longest, unit = max(space.lookback), math.lcm(*space.segment_length)
    shares = (max(unit * -(-longest // (parts * unit)), 2) for parts in (4, 2))
    return tuple(dict.fromkeys([*shares, longest]))


def compared(data_set: DataSet, networks: Sequence[Encoder], lookbacks: Sequence[int]) -> DataSet:
    """The data set with these networks and lookbacks in its search space, and its segment lengths.

    Raises:
        WrongComparison: no network or lookback, or one that the space does not allow.
    """
    own = data_set.retrain.search_space
    keys = {
        "cell": tuple(dict.fromkeys(networks)),
        "lookback": tuple(sorted(set(lookbacks))),
        # Given, they all stay: another segment length would be another network.
        "segment_length": own.segment_length,
    }
    try:
        space = SearchSpace.model_validate(own.with_keys(keys))
    except ValidationError as error:
        # What concerns keys together stands at none of them.
        problems = "; ".join(
            ": ".join([*map(str, one["loc"]), one["msg"].removeprefix("Value error, ")])
            for one in error.errors(include_url=False)
        )
        raise WrongComparison(
            f"{data_set.name}: {problems}. Remedy: name networks of {', '.join(NETWORKS)}, and lookbacks of "
            f"two steps or more that its segment lengths divide: multiples of {math.lcm(*own.segment_length)}"
        ) from error
    changed = data_set.retrain.model_copy(update={"search_space": space})
    return data_set.model_copy(update={"retrain": changed})


def contenders(data_set: DataSet) -> tuple[Contender, ...]:
    """The contenders of a data set that `compared` made, the quick ones first."""
    space = data_set.retrain.search_space
    return tuple(Contender(cell, lookback) for lookback in space.lookback for cell in space.cell)


def only(data_set: DataSet, contender: Contender) -> DataSet:
    """The data set whose search is that of one contender."""
    retrain = data_set.retrain
    keys = {"cell": (contender.network,), "lookback": (contender.lookback,)}
    changed = retrain.model_copy(update={"search_space": retrain.search_space.model_copy(update=keys)})
    return data_set.model_copy(update={"retrain": changed})

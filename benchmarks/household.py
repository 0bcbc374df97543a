"""The sample data set with its target alone, and as the plain array that every contender can read."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from data.catalog import DataSet, load_catalog
from data.contract import check, resolve_as_of
from data.panel import Panel
from lstm.scaling import ScaledPanel, Scaler


@cache
def data_set() -> DataSet:
    """The catalog's entry."""
    return load_catalog().data_sets["household_power"]


@cache
def panel() -> Panel:
    """Four years of hourly power of a household."""
    checked = check(data_set(), resolve_as_of(data_set())).panel
    return replace(checked, covariates=(), values=checked.values[:, :1])


def scaled(horizon: int) -> ScaledPanel:
    """Standardised by all of it, gaps filled."""
    whole = panel()
    return Scaler.fit(whole, whole.n_steps - 1).scale(whole, horizon)


def series() -> NDArray[np.float32]:
    """(T,) the same values: standardised, a gap filled with the newest value before it."""
    values: NDArray[np.float32] = scaled(horizon=1).values[:, 0]
    return values

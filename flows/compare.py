"""LSTM, GRU, RNN and Transformer on a data set of yours, beside a linear model and the seasonal naive: which
one, and why.

Every network is searched at several lookbacks with the same budget, and judged on windows that nobody has
learned from. It promotes nothing and leaves the ledger alone. What a run needs is imported in it, as in
`flows.retrain`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import PositiveFloat, PositiveInt

from data.retrain import Encoder
from flows.imports import importing
from flows.interrupts import insist
from lstm.comparison.contenders import NETWORKS
from lstm.settings import load_settings, prepare_environment

MINUTES = 5.0
SEEDS = 3


@flow(name="compare", flow_run_name="{data_set}", timeout_seconds=24 * 3600)
def compare(
    data_set: str = "household_power",
    as_of: datetime | None = None,
    networks: tuple[Encoder, ...] = NETWORKS,
    lookbacks: tuple[PositiveInt, ...] = (),
    trials: PositiveInt | None = None,
    minutes: PositiveFloat = MINUTES,
    seeds: PositiveInt = SEEDS,
    workers: PositiveInt | None = None,
) -> State[dict[str, Any]]:
    """Compare networks on one data set.

    Args:
        data_set: its name in the catalog.
        as_of: the moment at which the past ends; empty for the newest complete step.
        networks: which to compare.
        lookbacks: steps; empty for a quarter, a half and the whole of the catalog's longest one.
        trials: the most of each search; empty for the catalog's.
        minutes: for searching and training; the first round of every contender always ends.
        seeds: the most trainings of each chosen recipe.
        workers: trainings at a time; empty for one a core of this machine.
    """
    prepare_environment()
    insist()
    with importing():
        from data.catalog import load_catalog
        from flows import comparison_steps
        from flows.comparing import Wish
    settings = load_settings()
    budget = load_catalog(settings.catalog).get(data_set).retrain.budget
    wish = Wish(
        networks, lookbacks, trials or budget.trials, minutes, seeds, workers or settings.local_workers
    )
    return comparison_steps.run(settings, data_set, as_of, wish)

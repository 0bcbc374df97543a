"""The nightly flow.

Whoever deploys the flows imports them for their parameters alone, so what a run needs is imported in it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import PositiveInt

from data.retrain import Budget
from flows.imports import importing
from flows.interrupts import insist
from lstm.settings import prepare_environment

DAY = 24 * 3600


@flow(name="retrain", flow_run_name="{data_set}", timeout_seconds=DAY)
def retrain(
    data_set: str = "household_power",
    as_of: datetime | None = None,
    budget: Budget | None = None,
    workers: PositiveInt | None = None,
    pool: str | None = None,
) -> State[dict[str, Any]]:
    """One night of one data set.

    Args:
        data_set: its name in the catalog.
        as_of: the moment at which the past ends; empty for the newest complete step.
        budget: trials and minutes of the search; empty for the catalog's.
        workers: how many search workers; empty for one a core of this machine.
        pool: a Prefect work pool to search in; empty for processes of this machine.
    """
    prepare_environment()
    insist()
    with importing():
        from flows import steps
    return steps.run(data_set, as_of, budget, workers, pool)

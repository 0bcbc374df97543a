"""The hourly flow: the champion's forecast from the newest data, stored as of now.

What a run needs is imported in it, as in `flows.retrain`.
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.imports import importing
from flows.interrupts import insist
from lstm.settings import load_settings, prepare_environment


@flow(name="forecast", flow_run_name="{data_set}", timeout_seconds=3600)
def forecast(data_set: str = "household_power") -> State[Any]:
    """Forecast with the champion and store the result.

    Args:
        data_set: its name in the catalog.
    """
    prepare_environment()
    insist()
    with importing():
        from flows import forecast_steps
    return forecast_steps.run(load_settings(), data_set)

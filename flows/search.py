"""One search worker of a night, as a flow: what a Prefect work pool runs on other machines."""

from __future__ import annotations

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.worker import run_worker
from lstm.settings import Settings, silence_telemetry


@flow(name="search", flow_run_name="search for {night_run}", timeout_seconds=24 * 3600)
def search(night_run: str) -> State[int]:
    """Train trials of a night's study until its budget is spent.

    Args:
        night_run: the id of the night's MLflow run, which holds the data and the study's name.
    """
    silence_telemetry()
    settings = Settings()
    logger = get_run_logger()
    logger.info("Searching for the night of MLflow run %s on %s", night_run, settings.device)
    trials = run_worker(night_run, settings)
    return Completed(message=f"{trials} trials trained here", data=trials)

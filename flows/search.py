"""One search worker of a night, as a flow: what a Prefect work pool runs, here or on other machines.

What a run needs is imported in it, as in `flows.retrain`.
"""

from __future__ import annotations

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.imports import importing
from flows.interrupts import insist
from lstm.settings import load_settings, prepare_environment


@flow(name="search", timeout_seconds=24 * 3600)
def search(night_run: str) -> State[int]:
    """Train trials of a night's study until its budget is spent.

    Args:
        night_run: the id of the night's MLflow run, which holds the data and the study's name.
    """
    prepare_environment()
    insist()
    with importing():
        from flows.worker import require_reach, run_worker
    settings = load_settings()
    require_reach(night_run, settings)
    get_run_logger().info("Searching for the night of MLflow run %s on %s", night_run, settings.device)
    trials = run_worker(night_run, settings)
    return Completed(message=f"{trials} trials trained here", data=trials)

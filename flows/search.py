"""One search worker of a night, as a flow: what a Prefect work pool runs, here or on other machines."""

from __future__ import annotations

import socket

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed

from data.errors import NightcastError
from data.processes import Process
from flows.interrupts import insist
from flows.worker import JOB_FILE, Job, run_worker
from lstm.search.storage import SearchFailed
from lstm.search.study import progress
from lstm.settings import Settings, load_settings, silence_telemetry
from lstm.tracking.runs import PROCESS_TAG, Tracker
from lstm.tracking.server import NotFound


class OutOfReach(NightcastError):
    """This worker does not see what the night keeps."""


@flow(name="search", timeout_seconds=24 * 3600)
def search(night_run: str) -> State[int]:
    """Train trials of a night's study until its budget is spent.

    Args:
        night_run: the id of the night's MLflow run, which holds the data and the study's name.
    """
    silence_telemetry()
    insist()
    settings = load_settings()
    require_reach(night_run, settings)
    get_run_logger().info("Searching for the night of MLflow run %s on %s", night_run, settings.device)
    trials = run_worker(night_run, settings)
    return Completed(message=f"{trials} trials trained here", data=trials)


def require_reach(night_run: str, settings: Settings) -> None:
    """Go on only where the night's run and study can be seen, and no SQLite file is shared by two machines.

    Raises:
        OutOfReach: they cannot; names the settings that night and worker must have in common.
        TrackingUnreachable: MLflow does not answer.
    """
    here = socket.gethostname()
    try:
        tracker = Tracker(settings.mlflow_uri, settings.artifacts)
        job = Job.model_validate_json(tracker.read_artifact(night_run, JOB_FILE))
        host = Process.parse(tracker.run(night_run).data.tags[PROCESS_TAG]).host
        progress(settings.study_url, job.study)
    except (NotFound, SearchFailed) as error:
        raise OutOfReach(
            f"this worker on {here} does not see the night: {error}\nRemedy: give the night and its workers "
            "the same NIGHTCAST_DATABASE_URL (PostgreSQL) and MLFLOW_TRACKING_URI (a server); on one machine "
            "the same NIGHTCAST_HOME and MLFLOW_TRACKING_URI are enough"
        ) from error
    if host != here and not settings.is_shared:
        raise OutOfReach(
            f"the night runs on {host} and this worker on {here}, and SQLite files are not safe between two "
            "machines. Remedy: set NIGHTCAST_DATABASE_URL to a PostgreSQL and MLFLOW_TRACKING_URI to a "
            "server, for both"
        )

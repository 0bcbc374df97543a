"""One search worker: trains trials of a night's study until the budget is spent. Knows no prefect.

The night's MLflow run holds all that a worker needs (`Job` and the snapshot), so the same code runs in a
local process (`flows.leash` starts it) and in a run of the deployment ``search/worker`` on
another machine.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from data.catalog import DataSet
from data.errors import NightcastError
from data.panel import Panel
from data.processes import Process
from data.snapshot import load
from data.splits import split
from flows.leash import ASKED_TO_END, asked_to_end
from lstm.search.lanes import work_in_lanes
from lstm.search.objective import SearchTask
from lstm.search.storage import SearchFailed
from lstm.search.study import progress
from lstm.search.worker import work
from lstm.settings import Settings, load_settings, prepare_environment
from lstm.tracking.runs import PROCESS_TAG, Tracker, TrialRecorder
from lstm.tracking.server import NotFound

JOB_FILE = "night.json"


class OutOfReach(NightcastError):
    """This worker does not see what the night keeps."""


class Job(BaseModel):
    """What a search worker must know of a night; an artifact of the night's run.

    Attributes:
        data_set: the data set as the night saw it, budget included.
        snapshot: the digest of the prepared data.
        study: the study's name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_set: DataSet
    snapshot: str
    study: str


def run_worker(night_run: str, settings: Settings, should_stop: Callable[[], bool] = lambda: False) -> int:
    """Train trials of a night's study until its budget is spent. Returns how many.

    Args:
        night_run: the id of the night's MLflow run.
        should_stop: asked between epochs; the trial that it ends is queued again.

    Raises:
        SearchFailed: trials keep failing for the same reason.
    """
    tracker = Tracker(settings.mlflow_uri, settings.artifacts)
    job = Job.model_validate_json(tracker.read_artifact(night_run, JOB_FILE))
    panel = snapshot(tracker, night_run, job.snapshot, settings.snapshots)
    task = SearchTask(
        data_set=job.data_set,
        panel=panel,
        splits=split(panel, job.data_set.retrain),
        storage_url=settings.study_url,
        study_name=job.study,
        checkpoints=settings.checkpoints / job.study,
        device=settings.device,
    )
    if settings.lanes > 1:
        return work_in_lanes(task, lambda: TrialRecorder(tracker, night_run), settings.lanes, should_stop)
    return work(task, TrialRecorder(tracker, night_run), should_stop)


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


def snapshot(tracker: Tracker, night_run: str, digest: str, folder: Path) -> Panel:
    """A night's prepared data: from this machine's home, else from its run. Its digest is verified."""
    path = folder / f"{digest}.parquet"
    if not path.exists():
        tracker.download_artifact(night_run, path.name, folder)
    return load(path)


def main(night_run: str) -> None:
    """A local worker process. Asked to end, it does so after the epoch."""
    prepare_environment()
    asked = asked_to_end()
    run_worker(night_run, load_settings(), asked.is_set)
    if asked.is_set():
        sys.exit(ASKED_TO_END)

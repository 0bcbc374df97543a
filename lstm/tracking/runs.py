"""Runs: one experiment per data set, one run per night, and one below it for each trial."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from data.files import write_atomically
from data.processes import Process, is_dead, this_process
from lstm.promotion.identity import Identity
from lstm.settings import hide_password
from lstm.tracking.environment import environment
from lstm.tracking.server import TrackingError, answering, connect, fetch

Status = Literal["FINISHED", "FAILED", "KILLED"]

NIGHT_TAG, KIND_TAG, PROCESS_TAG, REASON_TAG = (
    f"nightcast.{name}" for name in ("night", "kind", "process", "reason")
)
_STATUS: Mapping[str, Status] = {"finished": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
_FLUSH_SECONDS = 2.0
_LONGEST_REASON = 4000


class Tracker:
    """Writes runs to an MLflow store. Holds no state of a run, so threads and processes can share a run.

    Args:
        tracking_uri: an MLflow server or a database. A fresh database gets its tables here.
        artifact_root: where the artifacts of new experiments go; a server decides that itself.

    Raises:
        TrackingUnreachable: the store does not answer. So does every method.
    """

    def __init__(self, tracking_uri: str, artifact_root: Path | None = None) -> None:
        self.uri = tracking_uri
        self._artifact_root = artifact_root
        self._client = connect(tracking_uri)

    def start_night(self, identity: Identity, tags: Mapping[str, str] | None = None) -> str:
        """The night's run, running: a new one, or the one that an earlier attempt left."""
        return self._start(identity, "night", tags or {})

    def start_comparison(self, identity: Identity) -> str:
        """The run of a comparison, which has its identity from the same parts; as `start_night`."""
        return self._start(identity, "comparison", {})

    def _start(self, identity: Identity, kind: str, tags: Mapping[str, str]) -> str:
        experiment = self._experiment(identity.data_set)
        tags = {**environment(), **tags, **_own(identity.key, kind)}
        wanted = f"tags.`{NIGHT_TAG}` = '{identity.key}' and tags.`{KIND_TAG}` = '{kind}'"
        with answering(self.uri):
            found = self._client.search_runs([experiment], wanted, max_results=1)
            if not found:
                name = f"{kind} of {identity.as_of}"
                return str(self._client.create_run(experiment, tags=tags, run_name=name).info.run_id)
            run_id = str(found[0].info.run_id)
            self._client.update_run(run_id, status="RUNNING")
            self._log(run_id, tags={**tags, REASON_TAG: ""})
        return run_id

    def start_trial(self, night_run: str, number: int, params: Mapping[str, Any]) -> str:
        """A new run for a trial, below the night's run, with its parameters."""
        with answering(self.uri):
            night = self._client.get_run(night_run)
            tags = {
                **_own(night.data.tags[NIGHT_TAG], "trial"),
                "mlflow.parentRunId": night_run,
                "nightcast.trial": str(number),
            }
            run = self._client.create_run(night.info.experiment_id, tags=tags, run_name=f"trial {number}")
            run_id = str(run.info.run_id)
            self._log(run_id, params=params)
        return run_id

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Parameters; again with the same values is fine.

        Raises:
            TrackingError: a parameter has another value already.
        """
        with answering(self.uri):
            self._log(run_id, params=params)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Metrics at a step, in one call."""
        with answering(self.uri):
            self._log(run_id, metrics=[_metric(name, value, step) for name, value in metrics.items()])

    def log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Tags, in one call."""
        with answering(self.uri):
            self._log(run_id, tags=tags)

    def log_data(self, run_id: str, name: str, digest: str, source: str, profile: Mapping[str, Any]) -> None:
        """The data that the run saw, as its dataset input.

        Args:
            digest: of the snapshot. MLflow shows its first 32 digits as the dataset's; a tag holds all.
            source: where the snapshot lies.
            profile: facts worth seeing, such as rows and series; JSON-safe.
        """
        dataset = Dataset(name, digest[:32], "local", _json({"uri": source}), None, _json(profile))
        context = InputTag("mlflow.data.context", "training")
        with answering(self.uri):
            self._client.log_inputs(run_id, [DatasetInput(dataset, [context])])
            self._log(run_id, tags={"nightcast.snapshot": digest})

    def log_artifact(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Upload a file."""
        with answering(self.uri):
            self._client.log_artifact(run_id, str(path), folder)

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Upload a text as a file."""
        with answering(self.uri):
            self._client.log_text(run_id, text, name)

    def log_picture(self, run_id: str, picture: bytes, name: str) -> None:
        """Upload a picture, the bytes of a PNG (`lstm.tracking.report`)."""
        with answering(self.uri), tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / Path(name).name
            path.write_bytes(picture)
            folder = Path(name).parent.as_posix()
            self._client.log_artifact(run_id, str(path), None if folder == "." else folder)

    def read_artifact(self, run_id: str, name: str) -> str:
        """The text of an artifact.

        Raises:
            NotFound: there is no such artifact.
        """
        with tempfile.TemporaryDirectory() as temporary:
            return self.download_artifact(run_id, name, Path(temporary)).read_text(encoding="utf-8")

    def download_artifact(self, run_id: str, name: str, folder: Path) -> Path:
        """Fetch an artifact into a folder, whole or not at all.

        Raises:
            NotFound: there is no such artifact.
        """
        target = folder / name
        with answering(self.uri), tempfile.TemporaryDirectory() as temporary:
            root = self._client.get_run(run_id).info.artifact_uri
            write_atomically(target, fetch(self.uri, f"{root}/{name}", Path(temporary)).read_bytes())
        return target

    def end(self, run_id: str, status: Status, reason: str = "") -> None:
        """End a run with its reason. An ended run may be ended again: the last status counts."""
        with answering(self.uri):
            self._log(run_id, tags={REASON_TAG: reason[:_LONGEST_REASON]})
            self._client.set_terminated(run_id, status)

    def run(self, run_id: str) -> Run:
        """MLflow's own view of a run.

        Raises:
            NotFound: there is no such run.
        """
        with answering(self.uri):
            return self._client.get_run(run_id)

    def sweep(self, data_set: str | None = None, kind: str | None = None) -> tuple[str, ...]:
        """End as FAILED every run whose process is dead, of one data set or kind or all. Returns their ids.

        Only runs that this host's processes began can be told dead here.
        """
        with answering(self.uri):
            names = f"name = '{data_set}'" if data_set else None
            experiments = [one.experiment_id for one in self._client.search_experiments(filter_string=names)]
            if not experiments:
                return ()
            wanted = "attributes.status = 'RUNNING'"
            wanted += f" and tags.`{KIND_TAG}` = '{kind}'" if kind else ""
            running = self._client.search_runs(experiments, wanted, max_results=1000)
        dead = []
        for run in running:
            process = run.data.tags.get(PROCESS_TAG)
            if process is not None and is_dead(Process.parse(process)):
                self.end(run.info.run_id, "FAILED", f"Its process, {process}, was killed.")
                dead.append(str(run.info.run_id))
        return tuple(dead)

    @contextmanager
    def system_metrics(self, run_id: str, every: float = 10) -> Iterator[None]:
        """Log the machine's load to a run while the block runs."""
        # MLflow's class has no annotations.
        monitor: Any = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
            run_id, sampling_interval=every, resume_logging=True, tracking_uri=self.uri
        )
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def link(self, run_id: str) -> str | None:
        """Where a browser shows the run; None without a server."""
        if not self.uri.startswith("http"):
            return None
        experiment = self.run(run_id).info.experiment_id
        return f"{hide_password(self.uri).rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"

    def _experiment(self, data_set: str) -> str:
        """The data set's experiment, made where it does not exist."""
        local = None
        if self._artifact_root is not None and not self.uri.startswith("http"):
            local = (self._artifact_root.resolve() / data_set).as_uri()
        with answering(self.uri):
            found = self._client.get_experiment_by_name(data_set)
            if found is None:
                return str(self._client.create_experiment(data_set, artifact_location=local))
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"The MLflow experiment {data_set} was deleted. "
                f"Remedy: mlflow experiments restore --experiment-id {found.experiment_id}"
            )
        return str(found.experiment_id)

    def _log(
        self,
        run_id: str,
        metrics: list[Metric] | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self._client.log_batch(
            run_id,
            metrics=metrics or (),
            params=[Param(name, str(value)) for name, value in (params or {}).items()],
            tags=[RunTag(name, value) for name, value in (tags or {}).items()],
        )

    def log_batch(self, run_id: str, metrics: list[Metric]) -> None:
        """Many metrics of many steps, in one call."""
        with answering(self.uri):
            self._log(run_id, metrics=metrics)


class TrialRecorder:
    """Makes each trial of one worker an MLflow run. Follows `lstm.search.worker.Observer`.

    Args:
        tracker: where the runs go.
        night_run: the night's run, their parent.
    """

    def __init__(self, tracker: Tracker, night_run: str) -> None:
        self._tracker = tracker
        self._night_run = night_run
        self._run = ""
        self._waiting: list[Metric] = []
        self._flushed = 0.0

    def started(self, number: int, params: Mapping[str, Any]) -> None:
        """Open the trial's run."""
        self._run = ""
        self._run = self._tracker.start_trial(self._night_run, number, params)
        self._waiting, self._flushed = [], time.monotonic()

    def epoch(self, number: int, epoch: int, train_loss: float, validation_loss: float) -> None:
        """Note an epoch's losses; they are sent together every few seconds."""
        losses = {"train_loss": train_loss, "validation_loss": validation_loss}
        self._waiting += [_metric(name, value, epoch) for name, value in losses.items()]
        if time.monotonic() - self._flushed >= _FLUSH_SECONDS:
            self._flush()

    def ended(self, number: int, state: str, value: float | None, reason: str) -> None:
        """Close the trial's run: finished, pruned (MLflow's KILLED) or failed, with the reason.

        A trial whose run could not be opened has none to close.
        """
        if not self._run:
            return
        if value is not None:
            self._waiting.append(_metric("value", value, 0))
        self._flush()
        self._tracker.log_tags(self._run, {"nightcast.state": state})
        self._tracker.end(self._run, _STATUS[state], reason)

    def _flush(self) -> None:
        self._tracker.log_batch(self._run, self._waiting)
        self._waiting, self._flushed = [], time.monotonic()


def _own(night: str, kind: str) -> dict[str, str]:
    """Tags by which a run's night, kind and process are found again."""
    return {NIGHT_TAG: night, KIND_TAG: kind, PROCESS_TAG: str(this_process())}


def _metric(name: str, value: float, step: int) -> Metric:
    return Metric(name, value, int(time.time() * 1000), step)


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, default=str)

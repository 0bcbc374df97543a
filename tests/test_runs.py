"""Runs on a real MLflow store in SQLite, also from threads and from processes that are killed."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import PIPE, Fork
from mlflow import MlflowClient

from data.processes import this_process
from lstm.promotion.identity import Identity
from lstm.tracking.runs import Tracker, TrialRecorder
from lstm.tracking.server import NotFound, TrackingError, TrackingUnreachable

NIGHT = Identity("power", "2010-11-19T20:00:00Z", "0123456789ab")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, lived_in: Path) -> Path:
    """A folder with an MLflow database."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(lived_in / "mlflow.db", folder)
    return folder


@pytest.fixture
def tracker(store: Path) -> Iterator[Tracker]:
    """A tracker whose experiments are its own: those of the test before are deleted, for good."""
    tracker = Tracker(f"sqlite:///{store}/mlflow.db", store / "artifacts")
    yield tracker
    client = MlflowClient(tracker.uri)
    for experiment in client.search_experiments(filter_string="name != 'Default'"):
        client.rename_experiment(experiment.experiment_id, f"old {experiment.experiment_id}")
        client.delete_experiment(experiment.experiment_id)


def test_a_night_is_one_run_however_often_it_starts(tracker: Tracker) -> None:
    run_id = tracker.start_night(NIGHT, {"flow": "1"})
    tracker.end(run_id, "FAILED", "killed")
    assert tracker.start_night(NIGHT, {"flow": "2"}) == run_id
    other = Identity("power", NIGHT.as_of, "other")
    assert tracker.start_night(other) != run_id
    run = tracker.run(run_id)
    assert run.info.status == "RUNNING"
    assert run.info.run_name == "night of 2010-11-19T20:00:00Z"
    tags = run.data.tags
    assert tags["flow"] == "2"
    assert tags["nightcast.night"] == NIGHT.key
    assert tags["nightcast.kind"] == "night"
    assert tags["nightcast.process"] == str(this_process())
    assert tags["nightcast.reason"] == ""
    assert tags["nightcast.version.torch"]
    assert len(tags["mlflow.source.git.commit"]) == 40
    assert run.info.experiment_id == tracker.run(tracker.start_night(other)).info.experiment_id


def test_a_run_ends_with_status_and_reason(tracker: Tracker) -> None:
    run_id = tracker.start_night(NIGHT)
    tracker.end(run_id, "FINISHED", "Promoted." + "x" * 9000)
    run = tracker.run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.end_time >= run.info.start_time
    assert run.data.tags["nightcast.reason"].startswith("Promoted.x")


def test_what_is_logged_can_be_read(tracker: Tracker, tmp_path: Path) -> None:
    run_id = tracker.start_night(NIGHT)
    tracker.log_params(run_id, {"horizon": 24, "cell": "lstm"})
    tracker.log_params(run_id, {"horizon": 24})
    tracker.log_metrics(run_id, {"challenger.mae": 0.5, "champion.mae": float("nan")})
    tracker.log_tags(run_id, {"nightcast.ending": "kept"})
    tracker.log_text(run_id, '{"ä": 1}', "night.json")
    (tmp_path / "file.bin").write_bytes(b"\x00\x01")
    tracker.log_artifact(run_id, tmp_path / "file.bin", "deep")
    run = tracker.run(run_id)
    assert run.data.params == {"horizon": "24", "cell": "lstm"}
    assert run.data.metrics["challenger.mae"] == 0.5
    assert run.data.tags["nightcast.ending"] == "kept"
    assert json.loads(tracker.read_artifact(run_id, "night.json")) == {"ä": 1}
    path = tracker.download_artifact(run_id, "deep/file.bin", tmp_path / "new")
    assert path == tmp_path / "new" / "deep" / "file.bin"
    assert path.read_bytes() == b"\x00\x01"
    assert [one.name for one in path.parent.iterdir()] == ["file.bin"]
    with pytest.raises(TrackingError, match="horizon"):
        tracker.log_params(run_id, {"horizon": 48})


def test_pictures_are_artifacts(tracker: Tracker, tmp_path: Path) -> None:
    run_id = tracker.start_night(NIGHT)
    for name in ("pictures/below.png", "top.png"):
        tracker.log_picture(run_id, b"\x89PNG", name)
        assert tracker.download_artifact(run_id, name, tmp_path).read_bytes() == b"\x89PNG"


def test_data_is_the_dataset_input(tracker: Tracker) -> None:
    run_id = tracker.start_night(NIGHT)
    digest = "0123456789abcdef" * 4
    tracker.log_data(run_id, "power", digest, "/snapshots/x.parquet", {"rows": 10})
    run = tracker.run(run_id)
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("power", digest[:32])
    assert json.loads(given.dataset.profile) == {"rows": 10}
    assert run.data.tags["nightcast.snapshot"] == digest


def test_trials_hang_below_the_night(tracker: Tracker) -> None:
    night = tracker.start_night(NIGHT)
    recorder = TrialRecorder(tracker, night)
    ends = [("finished", 0.4, ""), ("pruned", None, "Worse than most."), ("failed", None, "It diverged.")]
    for number, (state, value, reason) in enumerate(ends):
        recorder.started(number, {"hidden_size": 8 * (number + 1)})
        for epoch in (1, 2):
            recorder.epoch(number, epoch, 0.9 / epoch, 1.0 / epoch)
        recorder.ended(number, state, value, reason)
    client = MlflowClient(tracker.uri)
    experiment = tracker.run(night).info.experiment_id
    runs = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{night}'", order_by=["start_time"])
    assert [run.info.run_name for run in runs] == ["trial 0", "trial 1", "trial 2"]
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED", "FAILED"]
    assert [run.data.tags["nightcast.state"] for run in runs] == ["finished", "pruned", "failed"]
    assert [run.data.tags["nightcast.reason"] for run in runs] == ["", "Worse than most.", "It diverged."]
    assert [run.data.params["hidden_size"] for run in runs] == ["8", "16", "24"]
    assert runs[0].data.metrics == {"train_loss": 0.45, "validation_loss": 0.5, "value": 0.4}
    assert "value" not in runs[1].data.metrics
    curve = client.get_metric_history(runs[0].info.run_id, "validation_loss")
    assert [(metric.step, metric.value) for metric in curve] == [(1, 1.0), (2, 0.5)]
    assert all(run.data.tags["nightcast.night"] == NIGHT.key for run in runs)


def test_a_trial_without_a_run_leaves_the_run_before_alone(tracker: Tracker) -> None:
    """Where MLflow refuses its run, the trial fails, and the worker still says that it ended."""
    recorder = TrialRecorder(tracker, tracker.start_night(NIGHT))
    recorder.started(0, {"hidden_size": 8})
    first = recorder._run
    recorder.ended(0, "finished", 0.4, "")
    with pytest.raises(TrackingError):
        recorder.started(1, {"hidden?size": 8})
    recorder.ended(1, "failed", None, "TrackingError")
    run = tracker.run(first)
    assert (run.info.status, run.data.tags["nightcast.state"]) == ("FINISHED", "finished")
    assert run.data.tags["nightcast.reason"] == ""


def test_threads_share_a_tracker(tracker: Tracker) -> None:
    night = tracker.start_night(NIGHT)

    def one(number: int) -> None:
        recorder = TrialRecorder(tracker, night)
        recorder.started(number, {"number": number})
        recorder.epoch(number, 1, float(number), float(number))
        recorder.ended(number, "finished", float(number), "")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    experiment = tracker.run(night).info.experiment_id
    runs = MlflowClient(tracker.uri).search_runs([experiment], f"tags.mlflow.parentRunId = '{night}'")
    assert {(run.data.params["number"], run.data.metrics["value"]) for run in runs} == {
        (str(number), float(number)) for number in range(4)
    }


@pytest.mark.slow
def test_runs_of_killed_processes_are_swept(tracker: Tracker, store: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from lstm.promotion.identity import Identity
from lstm.tracking.runs import Tracker, TrialRecorder
tracker = Tracker("{tracker.uri}", Path("{store}/artifacts"))
night = tracker.start_night(Identity("power", "{NIGHT.as_of}", "{NIGHT.config_hash}"))
TrialRecorder(tracker, night).started(0, {{}})
print(night, flush=True)
sys.stdin.read()
"""
    worker = Fork(code, stdin=PIPE, stdout=PIPE)
    night = worker.stdout.readline().strip()
    mine = tracker.start_night(Identity("power", NIGHT.as_of, "mine"))
    other = tracker.start_night(Identity("water", NIGHT.as_of, "mine"))
    assert tracker.sweep() == ()
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    assert tracker.sweep("water") == ()
    assert tracker.sweep("nothing") == ()
    swept = tracker.sweep("power")
    assert len(swept) == 2
    assert night in swept
    for run_id in swept:
        run = tracker.run(run_id)
        assert run.info.status == "FAILED"
        assert f":{worker.pid}:" in run.data.tags["nightcast.reason"]
    assert {tracker.run(run_id).info.status for run_id in (mine, other)} == {"RUNNING"}
    assert tracker.sweep() == ()
    assert tracker.start_night(NIGHT) == night


@pytest.mark.slow
def test_system_metrics(tracker: Tracker) -> None:
    night = tracker.start_night(NIGHT)
    with tracker.system_metrics(night, every=0.1):
        threading.Event().wait(0.6)
    metrics = tracker.run(night).data.metrics
    assert 0 <= metrics["system/cpu_utilization_percentage"] <= 100
    assert metrics["system/system_memory_usage_megabytes"] > 0


def test_not_found_and_unreachable_are_different(tracker: Tracker, tmp_path: Path) -> None:
    night = tracker.start_night(NIGHT)
    with pytest.raises(NotFound, match=r"no artifact nothing\.json in "):
        tracker.read_artifact(night, "nothing.json")
    with pytest.raises(NotFound):
        tracker.run("0" * 32)
    (tmp_path / "mlflow.db").write_text("This is no database, but it is long enough to be looked at." * 20)
    with pytest.raises(TrackingUnreachable, match="not a database"):
        Tracker(f"sqlite:///{tmp_path}/mlflow.db")


def test_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingUnreachable) as caught:
        Tracker("http://me:secret@127.0.0.1:1")
    assert "does not answer" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "me:***@127.0.0.1:1" in str(caught.value)
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None


def test_a_deleted_experiment_says_how_to_restore_it(tracker: Tracker) -> None:
    experiment = tracker.run(tracker.start_night(NIGHT)).info.experiment_id
    client = MlflowClient(tracker.uri)
    client.delete_experiment(experiment)
    with pytest.raises(TrackingError, match=f"restore --experiment-id {experiment}"):
        tracker.start_night(NIGHT)
    client.restore_experiment(experiment)


def test_links_lead_to_a_server_only(tracker: Tracker) -> None:
    assert tracker.link(tracker.start_night(NIGHT)) is None

"""What each night of one history has left: its ending, its run, the champion, the forecasts and the logs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import history
import mlflow
import numpy as np
import pytest
from history import HOURS
from nights import START, House
from prefect.client.orchestration import get_client
from prefect.exceptions import ParameterTypeError

from data.processes import this_process
from data.snapshot import load
from flows.night import begin, end, open_night
from flows.retrain import retrain
from flows.sweep import KEPT_LOGS
from flows.worker import JOB_FILE, Job
from lstm import kernels
from lstm.promotion.lease import lease
from lstm.search import study
from lstm.tracking.registry import Registry
from lstm.tracking.runs import Tracker
from lstm.tracking.server import global_store

pytestmark = [
    pytest.mark.slow,
    # Prefect, MLflow and their own libraries; the nights' workers are processes of their own.
    pytest.mark.filterwarnings("ignore"),
]

teller, first, again = history.teller, history.first, history.again
debris, completed, without_news = history.debris, history.completed, history.without_news
broken, mended, without_device = history.broken, history.mended, history.without_device
other_horizon, damaged = history.other_horizon, history.damaged


def artifacts(house, run, folder=None):
    return {item.path for item in house.mlflow.list_artifacts(run, folder)}


def unchanged(before, after):
    assert after.champion == before.champion
    assert after.aliases == before.aliases
    assert after.forecasts == before.forecasts


def test_the_first_night_promotes(first):
    assert first.state.is_completed()
    assert first.state.name == "Promoted"
    result = first.result
    assert (result["ending"], result["model_version"], result["champion"]) == ("promoted", "1", "1")
    assert result["reason"] == first.state.message == first.entry.reason
    assert set(result["scores"]) == {"challenger", "seasonal_naive", "linear"}
    assert result["scores"]["challenger"]["mae"] < result["scores"]["seasonal_naive"]["mae"]
    assert {"check", "search", "train", "judge", "register", "report"} <= set(result["seconds"])
    assert (first.entry.kind, first.entry.version, first.entry.previous) == ("promoted", "1", None)
    assert (first.champion.version, first.champion.previous) == ("1", None)
    assert first.aliases == {"champion": "1", "challenger": "1"}


def test_nothing_after_as_of_is_read(teller, first):
    run = teller.house.mlflow.get_run(first.result["run_id"])
    panel = load(teller.house.settings.snapshots / f"{run.data.tags['nightcast.snapshot']}.parquet")
    assert panel.n_steps == HOURS
    assert np.isfinite(panel.values).all()
    assert first.result["as_of"] == f"{START + timedelta(hours=HOURS - 1):%Y-%m-%d %H:%M}+00:00"
    assert not list(teller.house.settings.checkpoints.iterdir())


def test_the_run_of_a_night_says_it_all(teller, first):
    house, run = teller.house, teller.house.mlflow.get_run(first.result["run_id"])
    assert run.info.status == "FINISHED"
    params = run.data.params
    assert (params["data_set"], params["horizon"], params["budget_trials"]) == ("made", "6", "2")
    tags = run.data.tags
    assert (tags["nightcast.ending"], tags["nightcast.model_version"]) == ("promoted", "1")
    assert tags["nightcast.reason"] == first.result["reason"]
    assert len(tags["mlflow.source.git.commit"]) == 40
    assert (tags["nightcast.device"], tags["nightcast.kernel"]) == ("cpu", kernels.describe())
    assert tags["nightcast.night"].startswith("made.20240128T230000Z.")
    [inputs] = run.inputs.dataset_inputs
    digest = tags["nightcast.snapshot"]
    assert (inputs.dataset.name, inputs.dataset.digest) == ("made", digest[:32])
    assert run.data.metrics["challenger/mae"] == pytest.approx(first.result["scores"]["challenger"]["mae"])
    assert {"challenger/crps", "challenger/width", "linear/coverage"} <= run.data.metrics.keys()
    assert run.data.metrics["seconds/search"] == first.result["seconds"]["search"]
    held = artifacts(house, run.info.run_id)
    assert {"night.json", f"{digest}.parquet", "pictures", "forecast"} <= held
    names = {"coverage_by_step", "error_by_step", "judge_windows", "loss_curves", "study"}
    names |= {"gates", "gradients", "importance"}
    assert artifacts(house, run.info.run_id, "pictures") == {f"pictures/{name}.png" for name in names}
    assert "forecast/newest.png" in artifacts(house, run.info.run_id, "forecast")


def test_each_trial_is_a_run_below_the_night(teller, first):
    house, parent = teller.house, first.result["run_id"]
    trials = [run for run in house.runs("made", "trial") if run.data.tags["mlflow.parentRunId"] == parent]
    assert sorted(run.data.tags["nightcast.trial"] for run in trials) == ["0", "1"]
    night = house.mlflow.get_run(parent).data.tags["nightcast.night"]
    for run in trials:
        assert run.info.status == "FINISHED"
        assert (run.data.tags["nightcast.night"], run.data.tags["nightcast.state"]) == (night, "finished")
        assert {"cell", "hidden_size", "learning_rate", "lookback"} <= set(run.data.params)
        curve = house.mlflow.get_metric_history(run.info.run_id, "validation_loss")
        assert [point.step for point in curve] == [1, 2, 3]
        assert run.data.metrics["value"] == pytest.approx(min(point.value for point in curve))


def test_a_version_says_which_night_made_it(teller, first):
    version = teller.house.mlflow.get_model_version("made", "1")
    assert version.run_id == first.result["run_id"]
    assert version.tags["nightcast.night"].startswith("made.20240128T230000Z.")
    assert (version.tags["decision"], version.tags["reason"]) == ("promoted", first.result["reason"])
    assert version.tags["chosen"].startswith("Trial ")
    assert version.tags["serves"].split(".")[0] in ("served", "judged")
    with global_store(teller.house.settings.mlflow_uri):
        model = mlflow.pyfunc.load_model("models:/made@champion")
        example = model.input_example
        assert len(model.predict(example)) == 6


def test_a_version_is_calibrated_on_the_validation_windows(teller, first):
    house = teller.house
    bundle = Registry(house.settings.mlflow_uri).load("made", "1")
    [member] = bundle.members
    calibration = member.calibration
    # Three days of hourly origins, whose six steps all lie within them.
    assert (calibration.windows, calibration.factor_HQ.shape) == (72 - 5, (6, 5))
    assert (calibration.factor_HQ[:, 2] == 1).all()
    assert (calibration.factor_HQ[:, [0, 4]] != 1).all()
    tracker = Tracker(house.settings.mlflow_uri)
    job = Job.model_validate_json(tracker.read_artifact(first.result["run_id"], JOB_FILE))
    best = study.chosen(house.settings.study_url, job.study).calibration
    np.testing.assert_array_equal(calibration.factor_HQ, best.factor_HQ)
    plain = replace(member, calibration=replace(calibration, factor_HQ=np.ones((6, 5)), exponent=0.0))
    again = replace(bundle, members=(plain,))
    digest = house.mlflow.get_run(first.result["run_id"]).data.tags["nightcast.snapshot"]
    panel = load(house.settings.snapshots / f"{digest}.parquet")
    before, after = (one.forecast(panel).values_SHQ for one in (again, bundle))
    np.testing.assert_array_equal(before[..., 2], after[..., 2])
    assert not np.allclose(before, after)


def test_the_forecast_is_stored(first):
    assert list(first.forecasts) == ["20240128T230000Z.v1.parquet"]


def test_the_same_night_again_is_skipped(first, again):
    assert (again.state.name, again.result["ending"]) == ("Skipped", "skipped")
    assert again.state.is_completed()
    assert again.result["scores"] == first.result["scores"]
    assert again.result["run_id"] == first.result["run_id"]
    assert "promoted" in again.result["reason"]
    assert again.entry.kind == "skipped"
    unchanged(first, again)


def test_a_night_that_was_killed_after_it_promoted_gets_its_forecast(teller, first, completed):
    assert (completed.state.name, completed.result["ending"]) == ("Skipped", "skipped")
    unchanged(first, completed)
    run = teller.house.mlflow.get_run(completed.result["run_id"])
    assert (run.info.status, run.data.tags["nightcast.ending"]) == ("FINISHED", "promoted")
    assert run.data.tags["nightcast.reason"] == first.result["reason"]


def test_what_was_killed_gets_an_end(teller, debris, completed):
    """A flow run that is tried again has a dead process and one that lives."""
    with get_client(sync_client=True) as client:
        states = [client.read_flow_run(run).state for run in (debris.crashed, debris.alive)]
    assert [state.is_crashed() for state in states] == [True, False]
    assert teller.house.ledger.night(debris.night).ending == "failed"
    [killed] = [one for one in teller.house.ledger.decisions("made") if one.night == debris.night.key]
    assert killed.reason == f"Its process, {this_process()}, was killed."


def test_logs_of_old_nights_go(teller, completed):
    kept = sorted(path.name for path in (teller.house.home / "logs").glob("made.*"))
    assert len(kept) == KEPT_LOGS
    assert kept[0].startswith("made.20230105")
    assert kept[-1].startswith("made.20240128")
    assert (teller.house.home / "logs" / "prefect.log").exists()


def test_the_run_of_the_last_result_is_ended_by_the_next_night(teller, completed, without_news):
    assert teller.house.mlflow.get_run(completed.result["run_id"]).info.status == "FINISHED"


def test_a_night_without_news_is_skipped(completed, without_news):
    assert without_news.state.name == "Skipped"
    assert without_news.result["reason"].startswith("No new data since the night as of 2024-01-28T23:00:00Z")
    assert without_news.entry.kind == "skipped"
    unchanged(completed, without_news)


def refused(teller, before, told, reason):
    assert told.state.is_failed()
    assert told.state.name == "Refused"
    assert told.result["ending"] == told.entry.kind == "refused"
    assert reason in told.state.message
    assert told.entry.reason == told.state.message
    run = teller.house.mlflow.get_run(told.result["run_id"])
    assert (run.info.status, run.data.tags["nightcast.ending"]) == ("FAILED", "refused")
    assert reason in run.data.tags["nightcast.reason"]
    unchanged(before, told)


def test_broken_rows_refuse_the_night(teller, without_news, broken):
    refused(teller, without_news, broken, "Remedy:")
    assert "2024-01-30 19:00" in broken.state.message


def test_later_data_is_judged_against_the_champion(teller, broken, mended):
    assert mended.state.is_completed()
    assert {"challenger", "champion", "seasonal_naive", "linear"} == set(mended.result["scores"])
    assert mended.result["run_id"] == broken.result["run_id"]
    assert teller.house.mlflow.get_run(mended.result["run_id"]).info.status == "FINISHED"
    kind = mended.result["ending"]
    assert mended.entry.kind == kind
    assert mended.aliases["challenger"] == mended.result["model_version"] == "2"
    challenger, champion = (mended.result["scores"][name]["mae"] for name in ("challenger", "champion"))
    if challenger < champion * 0.995:
        assert kind == "promoted"
        assert mended.aliases == {"champion": "2", "challenger": "2", "previous": "1"}
        assert (mended.champion.version, mended.champion.previous) == ("2", "1")
    else:
        assert kind == "kept"
        assert mended.aliases == {"champion": "1", "challenger": "2"}
        assert (mended.champion.version, mended.champion.previous) == ("1", None)
    newest = f"20240130T230000Z.v{mended.champion.version}.parquet"
    assert list(mended.forecasts) == ["20240128T230000Z.v1.parquet", newest]


def test_an_ensemble_is_the_best_network_of_each_normalisation_that_was_tried(teller, mended):
    house, run = teller.house, teller.house.mlflow.get_run(mended.result["run_id"])
    assert run.data.params["ensemble"] == "True"
    job = Job.model_validate_json(Tracker(house.settings.mlflow_uri).read_artifact(run.info.run_id, JOB_FILE))
    found = study.chosen_of_each(house.settings.study_url, job.study)
    bundle = Registry(house.settings.mlflow_uri).load("made", "2")
    kinds = [member.recipe.model.normalisation for member in bundle.members]
    # Two trials: the middle of the space, and that with another normalisation.
    assert sorted(kinds) == ["instance", "last_value"]
    assert [member.recipe for member in bundle.members] == [one.recipe for one in found]
    for member, one in zip(bundle.members, found, strict=True):
        np.testing.assert_array_equal(member.calibration.factor_HQ, one.calibration.factor_HQ)
    alone = replace(bundle, **{name: first_of(getattr(bundle, name)) for name in ("judged", "served")})
    alone = replace(alone, members=bundle.members[:1])
    panel = load(house.settings.snapshots / f"{run.data.tags['nightcast.snapshot']}.parquet")
    together, best = (one.forecast(panel).values_SHQ for one in (bundle, alone))
    assert not np.allclose(together, best)


def first_of(twin):
    """A version's weights without those of all networks but the first."""
    return replace(twin, weights=twin.weights[:1])


def test_an_impossible_device_fails_the_night(teller, mended, without_device):
    told = without_device
    assert told.state.is_failed()
    assert told.state.name == "Failed"
    assert told.result["ending"] == told.entry.kind == "failed"
    assert "CUDA" in told.state.message
    assert teller.house.mlflow.get_run(told.result["run_id"]).info.status == "FAILED"
    unchanged(mended, told)


def test_a_champion_with_another_horizon_refuses_the_night(teller, without_device, other_horizon):
    refused(teller, without_device, other_horizon, "other horizon: 6, now 5")
    assert "nightcast retire made" in other_horizon.state.message


def test_a_damaged_champion_refuses_the_night(teller, other_horizon, damaged):
    refused(teller, other_horizon, damaged, "The champion cannot be loaded")


def test_a_second_night_of_a_data_set_fails_at_once_and_leaves_the_first_alone(teller, damaged):
    with lease(teller.house.ledger, "made") as held:
        state = retrain(data_set="made", return_state=True)
        held.check()
        held.renew()
        assert not held.lost
    assert state.is_failed()
    assert "LeaseHeld" in state.message
    assert f"process {this_process()}" in state.message
    assert teller.house.ledger.decisions("made", 1)[0] == damaged.entry


def test_a_night_that_finds_mlflow_away_has_its_ending_all_the_same(teller, damaged):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.setenv("NIGHTCAST_TRACKING_URI", "http://me:hidden@127.0.0.1:9")
        state = retrain(data_set="made", return_state=True)
    assert state.name == "Failed"
    outcome = state.result(raise_on_failure=False).outcome
    [entry] = teller.house.ledger.decisions("made", 1)
    assert (outcome.ending, outcome.reason) == (entry.kind, entry.reason)
    assert entry.kind == "failed"
    assert entry.number > damaged.entry.number
    assert entry.reason.startswith("MLflow at http://me:***@127.0.0.1:9 does not answer")
    assert outcome.tracking_uri == "http://me:***@127.0.0.1:9"


def test_a_result_stands_where_mlflow_goes_away(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    house = House(tmp_path)
    house.declare("made")
    house.write("made", HOURS)
    night = open_night(house.settings.model_copy(update={"tracking_uri": "http://127.0.0.1:9"}), "made")
    night.ledger.begin_night(night.identity)
    night.run_id = "0" * 32
    outcome = end(night, "kept", "It is not better.")
    assert (outcome.ending, outcome.is_good, outcome.run_link) == ("kept", True, None)
    assert outcome.reason.startswith("It is not better. Afterwards: MLflow at http://127.0.0.1:9 does not")
    assert night.ledger.night(night.identity).ending == "kept"


def test_a_night_that_another_process_has_taken_over_is_left_to_it(tmp_path, monkeypatch):
    house = House(tmp_path)
    house.declare("made")
    house.write("made", HOURS)
    night = open_night(house.settings, "made")
    run = begin(night)
    with monkeypatch.context() as patch:
        patch.setattr("lstm.promotion.ledger.this_process", lambda: "another:1:2.0")
        night.ledger.begin_night(night.identity)
    tags = night.tracker.run(run).data.tags
    for night.run_id in (run, None):
        outcome = end(night, "failed", "The lease is lost.")
        assert (outcome.ending, outcome.reason) == ("failed", "The lease is lost.")
        assert night.ledger.night(night.identity).ending is None
        assert night.tracker.run(run).info.status == "RUNNING"
        assert night.tracker.run(run).data.tags == tags


def test_less_than_one_worker_is_no_parameter():
    with pytest.raises(ParameterTypeError, match="workers"):
        retrain.validate_parameters({"data_set": "made", "workers": -1})


def test_no_night_leaves_anything_running(teller, debris, damaged):
    house = teller.house
    assert house.runs("made", "night", "RUNNING") == house.runs("made", "trial", "RUNNING") == []
    with get_client(sync_client=True) as client:
        runs = [run for run in client.read_flow_runs() if run.id not in (debris.crashed, debris.alive)]
    assert {run.name for run in runs} == {"made"}
    assert [run.id for run in runs if run.state is None or not run.state.is_final()] == []
    assert [tag for run in runs for tag in run.tags if tag.startswith("process:")] != []
    assert list(house.home.rglob("*.tmp")) == []
    assert [path.name for path in house.settings.forecasts.iterdir()] == ["made"]

"""The steps of a night, each a task, from the newest data to a judged, registered, forecasting model.

Every night ends in one ending: promoted, kept or skipped (completed runs), refused or failed (failed ones).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed, Failed

from data.errors import DataRefused
from data.retrain import Budget
from flows import contest, preparation, reporting, searching
from flows.contest import Challenger, Reigning
from flows.night import Night, NightLost, Outcome, begin, describe, end, open_night
from flows.preparation import Prepared
from flows.rerun import rerun
from flows.sweep import sweep, tasks_unsigned
from flows.workers import Workers, local_workers, pool_workers
from lstm.promotion.database import LedgerUnreachable
from lstm.promotion.gate import Decision
from lstm.promotion.judge import Verdict
from lstm.promotion.lease import Lease, lease
from lstm.search.study import Chosen
from lstm.settings import load_settings
from lstm.tracking.bundle import Bundle
from lstm.tracking.server import TrackingUnreachable


def run(
    data_set: str, as_of: datetime | None, budget: Budget | None, workers: int | None, pool: str | None
) -> State[dict[str, Any]]:
    """The night, up to the state that its flow run ends in; arguments as of `flows.retrain.retrain`."""
    night = open_night(load_settings(), data_set, as_of, budget)
    get_run_logger().info("Night %s", night.identity.key)
    with tasks_unsigned(), lease(night.ledger, data_set) as held:
        night.ledger.fail_unended(data_set)
        outcome = _to_an_ending(night, held, workers, pool)
    reporting.publish(outcome)
    if outcome.is_good:
        return Completed(name=outcome.ending.capitalize(), message=outcome.reason, data=outcome.to_dict())
    return Failed(name=outcome.ending.capitalize(), message=outcome.reason, data=NightLost(outcome))


def _to_an_ending(night: Night, held: Lease, workers: int | None, pool: str | None) -> Outcome:
    """The night up to its ending, whatever happens on the way."""
    try:
        past = night.ledger.begin_night(night.identity)
        sweep(night)
        if past.is_final:
            return rerun(night, past)
        return _steps(night, held, workers, pool)
    except DataRefused as refusal:
        return end(night, "refused", str(refusal))
    except Exception as error:  # noqa: BLE001  a night that fails says why, as one of its endings
        get_run_logger().exception("The night failed")
        return end(night, "failed", describe(error))
    except BaseException as interruption:
        end(night, "failed", f"interrupted: {describe(interruption)}")
        raise


def _steps(night: Night, held: Lease, workers: int | None, pool: str | None) -> Outcome:
    """What a night does, in order."""
    prepared = prepare(night)
    if (result := preparation.nothing_new(night, prepared)) is not None:
        return result
    begin_run(night, prepared)
    with night.tracker.system_metrics(begin(night)):
        reigning = find_champion(night, prepared)
        if reigning.problem is not None:
            # Whatever the search may find could not be compared.
            return end(night, "refused", reigning.problem, {"findings": prepared.findings})
        members = search(night, reigning, held, workers, pool)
        challenger = train(night, prepared, members)
        verdict, decision = judge(night, prepared, challenger, reigning)
        version = None
        if decision.ending != "refused":
            bundle, why = bundle_up(night, prepared, challenger, verdict, decision)
            version = register(night, prepared, challenger, bundle, decision, why)
            held.check()
            if decision.ending == "promoted":
                promote(night, prepared, version, decision, verdict, reigning)
        report(night, prepared, challenger, verdict, decision)
    details = contest.result_of(night, prepared, verdict, version)
    return end(night, decision.ending, decision.reason, details)


def _may_pass(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    """A server that is away may come back; anything else stays what it is."""
    return isinstance(state.result(raise_on_failure=False), TrackingUnreachable | LedgerUnreachable)


# Of a task that asks a server.
_AGAIN: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "retries": 2,
    "retry_delay_seconds": 5,
    "retry_condition_fn": _may_pass,
}


@task(cache_policy=NO_CACHE, task_run_name="check the data")
def prepare(night: Night) -> Prepared:
    """Data, held against its contract, as a snapshot."""
    with night.stages.stage("check") as stage:
        prepared = preparation.prepare(night)
        findings = len(prepared.findings)
        stage.note = f"{len(prepared.panel.values):,} rows, {findings} finding{'' if findings == 1 else 's'}"
    for finding in prepared.findings:
        get_run_logger().info("Found: %s", finding)
    return prepared


@task(task_run_name="begin the MLflow run", **_AGAIN)
def begin_run(night: Night, prepared: Prepared) -> None:
    """The night's MLflow run."""
    with night.stages.stage("record"):
        preparation.begin_run(night, prepared)


@task(task_run_name="find the champion", **_AGAIN)
def find_champion(night: Night, prepared: Prepared) -> Reigning:
    """The champion of tonight."""
    return contest.find_champion(night, prepared)


@task(cache_policy=NO_CACHE, task_run_name="search")
def search(
    night: Night, reigning: Reigning, held: Lease, workers: int | None, pool: str | None
) -> tuple[Chosen, ...]:
    """The trial to go on with, or one of each normalisation, once the workers have spent the budget."""
    with night.stages.stage("search") as stage:
        searching.create_study(night, reigning)
        if not searching.is_over(night):
            try:
                with _workers(night, workers, pool) as running:
                    searching.wait_for_search(night, running, held.check, stage)
            finally:
                searching.tidy(night)
        members = searching.members(night)
    for one in members:
        get_run_logger().info("%s: loss %.4f, %s", one, one.value, one.params)
    return members


@task(cache_policy=NO_CACHE, task_run_name="train the challenger")
def train(night: Night, prepared: Prepared, members: tuple[Chosen, ...]) -> Challenger:
    """Judged weights of the members' recipes."""
    with night.stages.stage("train") as stage:
        return contest.train_challenger(night, prepared, members, stage)


@task(cache_policy=NO_CACHE, task_run_name="judge")
def judge(
    night: Night, prepared: Prepared, challenger: Challenger, reigning: Reigning
) -> tuple[Verdict, Decision]:
    """Scores on the judge windows, and the gate's decision."""
    with night.stages.stage("judge") as stage:
        verdict, decision = contest.judge_challenger(night, prepared, challenger, reigning)
        stage.note = f"{len(verdict.bench.windows)} windows"
    get_run_logger().info("The gate: %s. %s", decision.ending, decision.reason)
    return verdict, decision


@task(cache_policy=NO_CACHE, task_run_name="train what will serve")
def bundle_up(
    night: Night, prepared: Prepared, challenger: Challenger, verdict: Verdict, decision: Decision
) -> tuple[Bundle, str]:
    """The version's bundle, with served weights where it is promoted."""
    with night.stages.stage("refit") as stage:
        promoted = decision.ending == "promoted"
        return contest.make_bundle(night, prepared, challenger, verdict, promoted, stage)


@task(task_run_name="register", **_AGAIN)
def register(
    night: Night, prepared: Prepared, challenger: Challenger, bundle: Bundle, decision: Decision, why: str
) -> str:
    """A version of the registered model."""
    with night.stages.stage("register") as stage:
        version = contest.register(night, prepared, challenger, bundle, decision, why)
        stage.note = f"version {version}"
    return version


@task(cache_policy=NO_CACHE, task_run_name="promote version {version}")
def promote(
    night: Night,
    prepared: Prepared,
    version: str,
    decision: Decision,
    verdict: Verdict,
    reigning: Reigning,
) -> None:
    """The ledger decides; the alias follows."""
    contest.promote(night, prepared, version, decision, verdict, reigning)


@task(cache_policy=NO_CACHE, task_run_name="forecast and report")
def report(
    night: Night, prepared: Prepared, challenger: Challenger, verdict: Verdict, decision: Decision
) -> None:
    """Pictures on the night's run, and the newest forecast unless the night is refused."""
    with night.stages.stage("report"):
        if decision.ending != "refused":
            reporting.store_forecast(night, prepared.panel)
        reporting.draw(night, prepared, challenger, verdict)


def _workers(night: Night, count: int | None, pool: str | None) -> AbstractContextManager[Workers]:
    """Search workers: in a work pool where one is named, else processes of this machine."""
    count = count or night.settings.local_workers
    if pool is not None:
        return pool_workers(begin(night), count, pool)
    return local_workers(begin(night), count, night.settings.root / "logs" / night.identity.key)

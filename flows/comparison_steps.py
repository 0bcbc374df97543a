"""The steps of a comparison, each a task, from the data to a page on an MLflow run."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from data.errors import DataRefused
from flows import comparing, comparison_report
from flows.comparing import Comparing, Wish
from flows.hold import held
from flows.night import describe
from flows.sweep import tasks_unsigned
from lstm.comparison.results import Comparison
from lstm.settings import Settings


def run(settings: Settings, data_set: str, as_of: datetime | None, wish: Wish) -> State[dict[str, Any]]:
    """The comparison, up to the state that its flow run ends in."""
    with tasks_unsigned():
        try:
            work = check(settings, data_set, as_of, wish)
        except DataRefused as refusal:
            return Failed(name="Refused", message=str(refusal), data=refusal)
        with held(work):
            outcome = _recorded(work)
    create_markdown_artifact(
        key=f"comparison-{data_set.replace('_', '-')}",
        markdown=comparison_report.markdown(outcome),
        description=f"{data_set}: {outcome['recommendation']['headline']}",
    )
    return Completed(message=outcome["recommendation"]["headline"], data=outcome)


def _recorded(work: Comparing) -> dict[str, Any]:
    """The comparison from beginning to end, on an MLflow run that ends as it does."""
    run = begin_run(work)
    try:
        seeds = train(work)
        comparison = judge(work, seeds)
        outcome = report(work, run, comparison)
    except BaseException as error:
        work.tracker.end(run, "FAILED", describe(error))
        raise
    work.tracker.end(run, "FINISHED", outcome["recommendation"]["headline"])
    return outcome


@task(cache_policy=NO_CACHE, task_run_name="check the data")
def check(settings: Settings, data_set: str, as_of: datetime | None, wish: Wish) -> Comparing:
    """Data, held against its contract, as a snapshot."""
    work = comparing.open_comparison(settings, data_set, as_of, wish)
    for finding in work.findings:
        get_run_logger().info("Found: %s", finding)
    return work


@task(cache_policy=NO_CACHE, task_run_name="begin the MLflow run")
def begin_run(work: Comparing) -> str:
    """The comparison's MLflow run."""
    run = work.tracker.start_comparison(work.identity)
    panel, retrain = work.ground.panel, work.ground.data_set.retrain
    params = {
        "data_set": panel.data_set,
        "as_of": panel.frequency.format(panel.as_of),
        "horizon": retrain.horizon,
        "judge": retrain.judge,
        "networks": ", ".join(retrain.search_space.cell),
        "lookbacks": ", ".join(map(str, retrain.search_space.lookback)),
        "trials": retrain.budget.trials,
        "search_minutes": retrain.budget.minutes,
    }
    work.tracker.log_params(run, params)
    profile = {"series": len(panel.series), "rows": len(panel.values)}
    work.tracker.log_data(run, panel.data_set, work.job.snapshot, f"{work.job.snapshot}.parquet", profile)
    return run


@task(cache_policy=NO_CACHE, task_run_name="measure, search and train")
def train(work: Comparing) -> int:
    """Every contender, with as many seeds as time allows."""
    with work.stages.stage("train") as stage:
        return comparing.run_contenders(work, stage)


@task(cache_policy=NO_CACHE, task_run_name="judge")
def judge(work: Comparing, seeds: int) -> Comparison:
    """Everybody on the judge windows."""
    with work.stages.stage("judge") as stage:
        comparison = comparing.judge(work, seeds)
        stage.note = f"{len(comparison.bench.windows)} windows"
    get_run_logger().info(comparison.recommendation.headline)
    return comparison


@task(cache_policy=NO_CACHE, task_run_name="write the page")
def report(work: Comparing, run: str, comparison: Comparison) -> dict[str, Any]:
    """The page, the numbers on the MLflow run, and what the flow returns."""
    with work.stages.stage("report"):
        page = comparison_report.write_page(work, comparison)
        work.tracker.log_artifact(run, page)
        comparison_report.log_numbers(work, run, comparison)
    return comparison_report.outcome_of(work, run, page, comparison)

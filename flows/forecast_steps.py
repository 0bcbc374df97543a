"""The steps of an hourly forecast, as the flow run shows them."""

from __future__ import annotations

from typing import Any

from prefect import Task, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed, Failed

from data.errors import DataRefused
from flows.forecasting import Made, NoChampion, make_forecast, write_picture
from lstm.settings import Settings


def run(settings: Settings, data_set: str) -> State[Any]:
    """The forecast, up to the state that its flow run ends in."""
    try:
        made = forecast_now(settings, data_set)
    except (DataRefused, NoChampion) as refusal:
        return Failed(name="Refused", message=str(refusal))
    show(made)
    return Completed(
        message=f"version {made.forecast.version}, as of {made.forecast.as_of}", data=str(made.path)
    )


def _may_pass(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    """A server that is away may come back; refused data and a missing champion stay what they are."""
    return not isinstance(state.result(raise_on_failure=False), DataRefused | NoChampion)


@task(
    cache_policy=NO_CACHE,
    task_run_name="forecast {data_set}",
    retries=1,
    retry_delay_seconds=10,
    retry_condition_fn=_may_pass,
)
def forecast_now(settings: Settings, data_set: str) -> Made:
    """The newest data through the champion; stored, and drawn beside it."""
    made = make_forecast(settings, data_set)
    picture = write_picture(made, made.path.with_suffix(".png"))
    get_run_logger().info("Stored %s and %s", made.path, picture)
    return made


def show(made: Made) -> None:
    """The forecast as a Markdown artifact of the flow run."""
    frame = made.forecast.to_frame()
    levels = [column for column in frame.columns if column.startswith("q")]
    lines = [
        f"# {made.forecast.data_set}, version {made.forecast.version}, as of {made.forecast.as_of}",
        "",
        f"| series | time | {' | '.join(levels)} |",
        f"| --- | --- |{' ---: |' * len(levels)}",
    ]
    for record in frame.to_dict(orient="records"):
        numbers = " | ".join(f"{record[level]:.4g}" for level in levels)
        lines.append(f"| {record['series']} | {record['time']} | {numbers} |")
    create_markdown_artifact(
        key=f"forecast-{made.forecast.data_set.replace('_', '-')}", markdown="\n".join(lines)
    )

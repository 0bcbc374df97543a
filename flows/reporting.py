"""What a night leaves to look at: the newest forecast, pictures on its run, a page in Prefect."""

from __future__ import annotations

import numpy as np
from prefect.artifacts import create_markdown_artifact

from data.panel import Panel
from flows.contest import Challenger
from flows.explaining import diagnose
from flows.forecasting import forecast_panel
from flows.night import Night, Outcome, begin
from flows.preparation import Prepared
from lstm.promotion.judge import Verdict
from lstm.search import study
from lstm.tracking import report


def store_forecast(night: Night, panel: Panel) -> None:
    """The champion's forecast after the panel's last step, stored and drawn; nothing where there is none."""
    if night.ledger.champion(night.data_set.name) is None:
        return
    made = forecast_panel(night.settings, night.data_set, night.ledger, night.registry, panel)
    run = begin(night)
    night.tracker.log_artifact(run, made.path, "forecast")
    night.tracker.log_picture(run, report.newest_forecast(made.panel, made.forecast), "forecast/newest.png")


def draw(night: Night, prepared: Prepared, challenger: Challenger, verdict: Verdict) -> None:
    """Pictures on the night's run: judge windows, error and coverage by step, study, loss curves; and what
    the challenger, of several networks the best, does with its inputs, with the gates over the newest judge
    window of the first series."""
    name, bench = night.data_set.name, verdict.bench
    best, judged = challenger.members[0], challenger.judged[0]
    url, study_name = night.settings.study_url, night.study
    trials = study.trials(url, study_name)
    made = verdict.forecasts["challenger"]
    steps = {forecaster: scores.mae_by_step for forecaster, scores in verdict.scores.items()}
    covers = {forecaster: scores.coverage_by_step for forecaster, scores in verdict.scores.items()}
    pictures = {
        "judge_windows.png": report.judge_windows(bench.panel, bench.windows, bench.y_WH, made, bench.levels),
        "error_by_step.png": report.error_by_step(steps, name),
        "coverage_by_step.png": report.coverage_by_step(covers, bench.levels, name),
        "study.png": report.study_history(trials, study.importance(url, study_name), name),
        "loss_curves.png": report.loss_curves(trials, best.number, name),
    }
    newest = np.flatnonzero(bench.windows.series == bench.windows.series[0])[-1:]
    found = diagnose(
        night.data_set,
        best.recipe,
        judged,
        judged,
        bench.panel,
        prepared.splits,
        bench.windows.select(newest),
    )
    who = "challenger" if len(challenger.members) == 1 else "challenger's best network"
    pictures |= {f"{kind}.png": picture for kind, picture in found.pictures(who).items()}
    run = begin(night)
    for file, picture in pictures.items():
        night.tracker.log_picture(run, picture, f"pictures/{file}")
    night.tracker.log_metrics(run, _metrics(verdict))


def _metrics(verdict: Verdict) -> dict[str, float]:
    """Every forecaster's scores, as ``challenger/mae`` and so on."""
    names = ("mae", "mse", "rmse", "mase", "pinball", "crps", "coverage", "width")
    return {
        f"{forecaster}/{name}": getattr(scores, name)
        for forecaster, scores in verdict.scores.items()
        for name in names
    }


def publish(outcome: Outcome) -> None:
    """The night as a Markdown artifact of the flow run."""
    create_markdown_artifact(
        key=f"night-{outcome.data_set.replace('_', '-')}",
        markdown=markdown(outcome),
        description=f"{outcome.data_set} as of {outcome.as_of}: {outcome.ending}",
    )


def markdown(outcome: Outcome) -> str:
    """Ending, scores and where to look, as Markdown."""
    lines = [
        f"# {outcome.data_set}: {outcome.ending}",
        "",
        outcome.reason,
        "",
        f"As of {outcome.as_of}. Champion: version {outcome.champion or 'none'}.",
    ]
    if outcome.scores:
        lines += ["", "On the judge windows, standardised:", ""]
        lines += ["| | MAE | MSE | pinball | coverage |", "| --- | ---: | ---: | ---: | ---: |"]
        for name, scores in outcome.scores.items():
            numbers = " | ".join(_number(scores.get(key)) for key in ("mae", "mse", "pinball", "coverage"))
            lines.append(f"| {name.replace('_', ' ')} | {numbers} |")
    if outcome.findings:
        lines += ["", "Found in the data:", "", *(f"- {finding}" for finding in outcome.findings)]
    if outcome.seconds:
        parts = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in outcome.seconds.items())
        lines += ["", f"Time: {parts}."]
    link = f"[run {outcome.run_id}]({outcome.run_link})" if outcome.run_link else f"run {outcome.run_id}"
    lines += ["", f"MLflow: {link} in {outcome.tracking_uri}"]
    return "\n".join(lines)


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-"

"""From a declared source to a snapshot and a run that a search can start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from data.contract import Seen, check
from data.panel import Panel
from data.snapshot import digest as digest_of
from data.snapshot import save as save_snapshot
from data.splits import Splits, split
from flows.night import Night, Outcome, begin, end
from flows.worker import JOB_FILE, Job
from lstm import kernels
from lstm.training.device import choose_device


@dataclass(frozen=True)
class Prepared:
    """The night's data, checked and stored.

    Attributes:
        digest: of the snapshot.
        content: of the panel up to its newest observed target: the same where nothing new has come.
        findings: what the contract fixed or reported, as sentences.
    """

    panel: Panel
    splits: Splits
    digest: str
    content: str
    findings: tuple[str, ...]


def prepare(night: Night) -> Prepared:
    """Read the data, hold it against the contract, and store a snapshot.

    Raises:
        DataRefused: the data breaks the contract.
    """
    name, ledger = night.data_set.name, night.ledger
    last = ledger.last_seen(name, until=night.identity.as_of)
    checked = check(night.data_set, night.as_of, Seen.from_json(last) if last else None)
    ledger.save_seen(night.identity, checked.seen.to_json())
    panel = checked.panel
    path = save_snapshot(panel, night.settings.snapshots)
    night.study = f"{night.identity.key}.{path.stem[:12]}"
    return Prepared(
        panel=panel,
        splits=split(panel, night.data_set.retrain),
        digest=path.stem,
        content=digest_of(panel.until(_newest_observed(panel))),
        findings=tuple(str(finding) for finding in checked.findings),
    )


def nothing_new(night: Night, prepared: Prepared) -> Outcome | None:
    """Skipped, where the last night with a result had the same data and configuration."""
    last = night.ledger.last_result(night.data_set.name)
    if last is None or last.details.get("content") != prepared.content:
        return None
    if last.identity.config_hash != night.identity.config_hash:
        return None
    reason = f"No new data since the night as of {last.identity.as_of}, which ended {last.ending}."
    if prepared.panel.future:
        reason += (
            " What is newly known ahead changes forecasts, not the model. To take it in: "
            f"nightcast forecast {night.data_set.name}"
        )
    return end(night, "skipped", reason, {"findings": prepared.findings})


def begin_run(night: Night, prepared: Prepared) -> None:
    """The night's MLflow run, with all that a search worker needs."""
    data_set, tracker = night.data_set, night.tracker
    run = begin(night)
    path = night.settings.snapshots / f"{prepared.digest}.parquet"
    device = choose_device(night.settings.device)
    kernel = {"nightcast.kernel": kernels.describe()} if device.type == "cpu" else {}
    tracker.log_tags(run, {"nightcast.device": str(device), **kernel})
    tracker.log_params(run, _params(night))
    profile = {"series": len(prepared.panel.series), "rows": len(prepared.panel.values)}
    tracker.log_data(run, data_set.name, prepared.digest, path.name, profile)
    job = Job(data_set=data_set, snapshot=prepared.digest, study=night.study)
    tracker.log_text(run, job.model_dump_json(indent=1), JOB_FILE)
    tracker.log_artifact(run, path)


def _params(night: Night) -> dict[str, Any]:
    """What a person looks for first, on the night's run. The same for every attempt: MLflow changes none."""
    retrain = night.data_set.retrain
    return {
        "data_set": night.data_set.name,
        "as_of": night.data_set.grid.format(night.as_of),
        "horizon": retrain.horizon,
        "validation": retrain.validation,
        "judge": retrain.judge,
        "budget_trials": retrain.budget.trials,
        "budget_minutes": retrain.budget.minutes,
        "seed": retrain.seed,
        "ensemble": retrain.ensemble,
    }


def _newest_observed(panel: Panel) -> int:
    """The last grid step at which any series' target was observed."""
    steps = []
    for number, first in enumerate(panel.first_steps):
        seen = np.flatnonzero(panel.observed[panel.rows(number), 0])
        if len(seen):
            steps.append(int(first) + int(seen[-1]))
    return max(steps)

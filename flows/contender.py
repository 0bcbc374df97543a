"""One contender of a comparison, as a process of its own: measured, searched, trained. Knows no prefect.

``python -m flows.contender FOLDER NAME SEED``: the folder is the comparison's, which tells all else. What is
there already is not made again.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from data.catalog import DataSet
from data.snapshot import load
from data.splits import split
from flows.leash import ASKED_TO_END, asked_to_end
from lstm.comparison.bench import Ground, make_bench
from lstm.comparison.contenders import Contender, contenders, only
from lstm.comparison.cost import measure
from lstm.comparison.records import Records
from lstm.comparison.results import Searched
from lstm.evaluation.conformal import spread
from lstm.models.heads import median_index
from lstm.search import study
from lstm.search.objective import SearchTask
from lstm.search.worker import work
from lstm.settings import Settings, load_settings
from lstm.training.checkpoint import EpochLoss
from lstm.training.device import choose_device, set_threads
from lstm.training.predict import predict
from lstm.training.refit import refit
from lstm.windows import targets

JOB_FILE = "job.json"

_APART = 7_919
"""Between the seeds of a recipe's trainings: beyond the numbers of trials, which set the first."""


class Job(BaseModel):
    """What a contender's process must know of its comparison; a file in its folder.

    Attributes:
        data_set: with the networks, lookbacks and budget that are compared.
        snapshot: the digest of the prepared data.
        study: what the names of the studies begin with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_set: DataSet
    snapshot: str
    study: str

    def study_of(self, contender: Contender) -> str:
        """The name of a contender's study."""
        return f"{self.study}.{contender.name}"


class Silent:
    """Watches a search and says nothing: the comparison asks the study."""

    def started(self, number: int, params: dict[str, Any]) -> None:
        """Ignore."""

    def epoch(self, number: int, epoch: int, train_loss: float, validation_loss: float) -> None:
        """Ignore."""

    def ended(self, number: int, state: str, value: float | None, reason: str) -> None:
        """Ignore."""


def run(folder: Path, name: str, seed: int, settings: Settings, asked: threading.Event) -> None:
    """Do what is not done yet for one contender, up to the training of one seed (from 0)."""
    job = Job.model_validate_json((folder / JOB_FILE).read_text(encoding="utf-8"))
    panel = load(settings.snapshots / f"{job.snapshot}.parquet")
    ground = Ground(job.data_set, panel, split(panel, job.data_set.retrain))
    contender = next(one for one in contenders(job.data_set) if one.name == name)
    records, device = Records(folder, contender), choose_device(settings.device)
    set_threads(1)
    if not records.has_cost():
        records.save_cost(measure(ground, contender, device))
    if not asked.is_set() and not records.has_search():
        _search(job, ground, contender, records, settings, asked)
    if not asked.is_set() and not records.has_forecast(seed):
        _train(ground, records, seed, settings, asked)


def _search(
    job: Job,
    ground: Ground,
    contender: Contender,
    records: Records,
    settings: Settings,
    asked: threading.Event,
) -> None:
    """The contender's study, until its budget is spent."""
    url, name = settings.study_url, job.study_of(contender)
    task = SearchTask(
        data_set=only(job.data_set, contender),
        panel=ground.panel,
        splits=ground.splits,
        storage_url=url,
        study_name=name,
        checkpoints=records.trial_checkpoints,
        device=settings.device,
        rivals=job.data_set.retrain.search_space.lookback,
    )
    work(task, Silent(), asked.is_set)
    if asked.is_set():
        return
    chosen, spent = study.chosen(url, name), study.progress(url, name)
    records.save_calibration(chosen.calibration)
    records.save_search(
        Searched(chosen.recipe, chosen.value, spent.complete, spent.pruned, spent.failed, spent.seconds)
    )


def _train(ground: Ground, records: Records, seed: int, settings: Settings, asked: threading.Event) -> None:
    """The recipe on train and validation, and its forecasts for the judge windows.

    Its quantiles are calibrated as a night's are, by the chosen trial's errors on validation. They adapt, as
    a night's do, to the forecasts before whose horizon is over.
    """

    def end_if_asked(_: int, __: EpochLoss) -> None:
        if asked.is_set():
            sys.exit(ASKED_TO_END)

    found, device = records.searched().recipe, choose_device(settings.device)
    recipe = replace(found, training=replace(found.training, seed=found.training.seed + _APART * seed))
    checkpoint = records.checkpoint(seed)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    trained = refit(
        recipe, ground.panel, ground.learned, device, checkpoint=checkpoint, on_epoch=end_if_asked
    )
    seconds = time.monotonic() - began
    scaled = trained.scaler.scale(ground.panel, recipe.model.horizon)
    bench = make_bench(ground)
    judged = bench.windows
    z_WHQ = records.calibration().apply(
        predict(recipe.model, trained.state, scaled, judged, device),
        spread(scaled.values[:, 0], judged.origins, recipe.model.lookback),
        median_index(recipe.model.quantiles),
    )
    y_WH = trained.scaler.scale_target(targets(ground.panel, judged, recipe.model.horizon), judged.series)
    z_WHQ = bench.adapted(z_WHQ, y_WH)
    records.save_forecast(seed, z_WHQ.astype(np.float32), seconds)
    checkpoint.unlink(missing_ok=True)


def main(folder: str, name: str, seed: str) -> None:
    """The process. Asked to end, it does so after its epoch."""
    asked = asked_to_end()
    run(Path(folder), name, int(seed), load_settings(), asked)
    if asked.is_set():
        sys.exit(ASKED_TO_END)

"""A comparison's work: what it stands on, and the processes of its contenders."""

from __future__ import annotations

import logging
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np

from data.catalog import load_catalog
from data.contract import check
from data.errors import NightcastError
from data.retrain import Budget, Encoder
from data.snapshot import save as save_snapshot
from data.splits import split
from flows import leash
from flows.contender import Job
from flows.night import last_step
from flows.progress import Stage, Stages
from lstm.comparison.bench import Ground, baselines, make_bench, scaler_of
from lstm.comparison.contenders import Contender, compared, contenders, lookbacks_of, only
from lstm.comparison.records import Records
from lstm.comparison.results import Comparison, Trained, conclude
from lstm.promotion.identity import Identity
from lstm.search import storage, study
from lstm.search.space import centre
from lstm.settings import Settings
from lstm.tracking.runs import Tracker

logger = logging.getLogger(__name__)

SEARCH_SHARE = 0.6
"""Of the minutes, what the searches may take; measuring and training get the rest."""

POLL_SECONDS = 1.0
PATIENCE = 20.0
START_SECONDS = 6.0
"""What a process takes before it trains."""


class ContenderFailed(NightcastError):
    """A contender's process ended in an error."""


@dataclass(frozen=True)
class Wish:
    """What is to be compared.

    Attributes:
        networks: cells.
        lookbacks: steps; none for those that suit the data set (`lookbacks_of`).
        trials: the most of each contender's search.
        minutes: for searching and training. The first round of every contender always ends (measured, a
            trial, trained), as do the last trainings that began in them.
        seeds: the most trainings of each contender's chosen recipe. All contenders get the same number.
        workers: processes at a time.
    """

    networks: tuple[Encoder, ...]
    lookbacks: tuple[int, ...]
    trials: int
    minutes: float
    seeds: int
    workers: int


@dataclass
class Comparing:
    """One comparison under way, and what it writes to: MLflow, studies, files; never the ledger."""

    settings: Settings
    wish: Wish
    ground: Ground
    identity: Identity
    job: Job
    findings: tuple[str, ...]
    stages: Stages = field(default_factory=Stages)

    @property
    def folder(self) -> Path:
        """Where everything of this comparison is kept; the snapshot tells it from one of corrected data."""
        return self.settings.root / "comparisons" / self.job.study

    @cached_property
    def tracker(self) -> Tracker:
        """Where its run goes. Raises TrackingUnreachable."""
        return Tracker(self.settings.mlflow_uri, self.settings.artifacts)

    def records(self, contender: Contender) -> Records:
        """What a contender has left."""
        return Records(self.folder, contender)


def open_comparison(settings: Settings, name: str, as_of: datetime | None, wish: Wish) -> Comparing:
    """Read and check the data, store a snapshot, and say what is to be done.

    Raises:
        DataRefused: the data breaks the contract, or is too short for the longest lookback.
        UnknownDataSet: the catalog has no such data set.
        WrongComparison: the search space does not allow these networks or lookbacks.
    """
    declared = load_catalog(settings.catalog).get(name)
    moment = last_step(declared, as_of)
    checked = check(declared, moment, None)
    lookbacks = wish.lookbacks or lookbacks_of(declared)
    chosen = compared(declared, wish.networks, lookbacks)
    each = wish.minutes * wish.workers * SEARCH_SHARE / len(contenders(chosen))
    data_set = chosen.with_budget(Budget(trials=wish.trials, minutes=each))
    ground = Ground(data_set, checked.panel, split(checked.panel, data_set.retrain))
    digest = save_snapshot(checked.panel, settings.snapshots).stem
    identity = Identity.of(name, moment, data_set.config_hash(version("nightcast")))
    job = Job(data_set=data_set, snapshot=digest, study=f"comparison.{identity.key}.{digest[:12]}")
    findings = tuple(str(finding) for finding in checked.findings)
    return Comparing(settings, wish, ground, identity, job, findings)


def run_contenders(comparing: Comparing, stage: Stage) -> int:
    """Measure, search and train every contender, then train again with further seeds while time allows.

    Returns:
        How many seeds all contenders have.

    Raises:
        ContenderFailed: a process ended in an error; what is done is kept.
    """
    began = time.monotonic()
    deadline = began + 60 * comparing.wish.minutes
    # Those that take the longest first: the quick ones even out the end.
    everyone = contenders(comparing.job.data_set)[::-1]
    storage.prepare(comparing.settings.study_url)
    _run(comparing, everyone, 0, stage)
    done = 1
    while done < comparing.wish.seeds:
        is_made = all(comparing.records(one).is_done(done) for one in everyone)
        if not is_made and time.monotonic() + _round_seconds(comparing, everyone) > deadline:
            break
        _run(comparing, everyone, done, stage)
        done += 1
    stage.note = f"{len(everyone)} contenders, {done} {'seeds' if done > 1 else 'seed'}"
    return done


def judge(comparing: Comparing, seeds: int) -> Comparison:
    """Everybody's forecasts on the judge windows, and what follows from them."""
    ground, bench = comparing.ground, make_bench(comparing.ground)
    scaler = scaler_of(ground)

    def forecast(records: Records, seed: int) -> np.ndarray:
        y_WHQ = scaler.unscale(records.forecast(seed), bench.windows.series)
        return np.maximum(y_WHQ, 0.0) if ground.data_set.non_negative else y_WHQ

    trained = []
    for one in contenders(ground.data_set):
        records = comparing.records(one)
        forecasts = [forecast(records, seed) for seed in range(seeds)]
        trained.append(Trained(one.network, one.lookback, records.cost(), records.searched(), forecasts))
    return conclude(ground, bench, trained, baselines(ground, bench))


def _run(comparing: Comparing, everyone: Sequence[Contender], seed: int, stage: Stage) -> None:
    """A process for each contender that lacks this seed, some at a time."""
    waiting = deque(one for one in everyone if not comparing.records(one).is_done(seed))
    running: dict[Contender, subprocess.Popen[bytes]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < comparing.wish.workers:
                one = waiting.popleft()
                running[one] = _start(comparing, one, seed)
            time.sleep(POLL_SECONDS)
            for one, process in list(running.items()):
                if process.poll() is not None:
                    del running[one]
                    _require_success(comparing, one, seed, process)
            _tell(
                comparing, stage, everyone, seed, len(everyone) - len(waiting) - len(running), list(running)
            )
    finally:
        leash.release(list(running.values()), PATIENCE)


def _start(comparing: Comparing, contender: Contender, seed: int) -> subprocess.Popen[bytes]:
    if not comparing.records(contender).has_search():
        retrain = only(comparing.job.data_set, contender).retrain
        name = comparing.job.study_of(contender)
        first = [centre(retrain.search_space)]
        study.create(comparing.settings.study_url, name, retrain.budget, retrain.seed, first)
    return leash.start(
        "flows.contender",
        str(comparing.folder),
        contender.name,
        str(seed),
        log=_log(comparing, contender),
        environment={"OMP_NUM_THREADS": "1"},
    )


def _require_success(
    comparing: Comparing, contender: Contender, seed: int, process: subprocess.Popen[bytes]
) -> None:
    if process.returncode or not comparing.records(contender).is_done(seed):
        raise ContenderFailed(
            f"{contender.name} ended with status {process.returncode}. Remedy: see to the reason below, then "
            "run the same command again; what is done is kept.\n"
            f"{leash.tail(_log(comparing, contender))}"
        )


def _tell(
    comparing: Comparing,
    stage: Stage,
    everyone: Sequence[Contender],
    seed: int,
    done: int,
    running: list[Contender],
) -> None:
    """How far the round is, in trials while it searches."""
    names = ", ".join(one.name for one in running)
    if seed:
        stage.advance(done, len(everyone), f"seed {seed + 1}: {names}")
        return
    trials = comparing.wish.trials
    pieces = done * (trials + 1)
    for one in running:
        found = study.progress(comparing.settings.study_url, comparing.job.study_of(one))
        pieces += trials if found.spent else found.complete + found.pruned + found.failed
    stage.advance(pieces, len(everyone) * (trials + 1), f"{done}/{len(everyone)} done; {names}")


def _round_seconds(comparing: Comparing, everyone: Sequence[Contender]) -> float:
    """What training every contender once more would take."""
    each = [START_SECONDS + comparing.records(one).training_seconds(0) for one in everyone]
    return sum(each) / comparing.wish.workers


def _log(comparing: Comparing, contender: Contender) -> Path:
    return comparing.folder / "logs" / f"{contender.name}.log"

"""A night: who it is, what it works with, and how it ends."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from data.catalog import DataSet, load_catalog
from data.contract import resolve_as_of
from data.errors import DataRefused, NightcastError
from data.retrain import Budget
from flows.progress import Stages
from lstm.promotion.identity import Identity
from lstm.promotion.ledger import Ledger
from lstm.promotion.records import GOOD, Ending
from lstm.settings import Settings
from lstm.tracking.registry import Registry
from lstm.tracking.runs import Tracker
from lstm.tracking.server import TrackingError

logger = logging.getLogger(__name__)

ENDING_TAG = "nightcast.ending"


@dataclass
class Night:
    """One night of one data set, and the stores that it writes to.

    MLflow is asked at first use: a night that finds it away still gets its ending in the ledger.

    Attributes:
        as_of: the grid step at which the past ends.
        identity: what makes it this night and no other.
        stages: the seconds that each stage took.
        run_id: the MLflow run, once it has begun.
        study: the name of the search's study, once the data is known: the identity and the start of the
            snapshot's digest, since a later attempt may see corrected data.
    """

    settings: Settings
    data_set: DataSet
    as_of: np.datetime64
    identity: Identity
    ledger: Ledger
    stages: Stages = field(default_factory=Stages)
    run_id: str | None = None
    study: str = ""

    @cached_property
    def tracker(self) -> Tracker:
        """Where the night's runs go. Raises TrackingUnreachable."""
        return Tracker(self.settings.mlflow_uri, self.settings.artifacts)

    @cached_property
    def registry(self) -> Registry:
        """Where its model versions go. Raises TrackingUnreachable."""
        return Registry(self.settings.mlflow_uri)


@dataclass(frozen=True)
class Outcome:
    """How a night ended, for tables, artifacts and JSON.

    Attributes:
        as_of: local time with its offset.
        ending: promoted, kept, skipped, refused or failed.
        reason: why, in sentences.
        model_version: the challenger's version in the registry; None where there is none.
        champion: the version that serves after the night; None where there is none.
        run_id: the night's MLflow run.
        run_link: where a browser shows it; None without an MLflow server.
        scores: by forecaster (challenger, champion, seasonal_naive, linear), on standardised targets.
        seconds: by stage.
        findings: what the contract fixed or reported.
    """

    data_set: str
    as_of: str
    ending: Ending
    reason: str
    model_version: str | None = None
    champion: str | None = None
    run_id: str | None = None
    run_link: str | None = None
    tracking_uri: str = ""
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    findings: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """True for promoted, kept and skipped."""
        return self.ending in GOOD

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return asdict(self)


class NightLost(NightcastError):
    """A night that ended refused or failed: what its flow run's state carries, as Prefect expects an error.

    Attributes:
        outcome: the ending in full.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


def open_night(
    settings: Settings, name: str, as_of: datetime | None = None, budget: Budget | None = None
) -> Night:
    """The night of a data set, with its ledger open.

    Args:
        name: of the data set.
        as_of: as of `last_step`.
        budget: overrides the catalog's.

    Raises:
        CatalogError: no such data set, or a wrong catalog.
        LedgerError: the ledger cannot be used.
    """
    data_set = load_catalog(settings.catalog).get(name).with_budget(budget)
    moment = _last_step(data_set, as_of)
    settings.root.mkdir(parents=True, exist_ok=True)
    return Night(
        settings=settings,
        data_set=data_set,
        as_of=moment,
        identity=Identity.of(name, moment, data_set.config_hash(version("nightcast"))),
        ledger=Ledger(settings.ledger_url),
    )


def begin(night: Night) -> str:
    """The night's MLflow run, begun or taken up again. Returns its id."""
    if night.run_id is None:
        night.run_id = night.tracker.start_night(night.identity)
    return night.run_id


def end(night: Night, ending: Ending, reason: str, details: Mapping[str, Any] | None = None) -> Outcome:
    """Give the night its ending, in the ledger and on its MLflow run.

    A night that has promoted stays promoted, whatever happens to it afterwards; its reason then says both.
    One that another process has taken over is left to that, its run too.
    """
    if night.ledger.is_taken_over(night.identity):
        return outcome_of(night, ending, reason, {**(details or {}), "run_id": night.run_id})
    seconds = dict(night.stages.seconds)
    full = {**(details or {}), "seconds": seconds, "run_id": _run_of(night, ending)}
    stands = night.ledger.end_night(night.identity, ending, reason, full)
    if stands.ending is not None and stands.ending != ending:
        ending, reason = stands.ending, f"{stands.reason} Afterwards: {reason}"
        full = {**stands.details, **full}
    if night.run_id is not None:
        reason = _end_run(night, night.run_id, ending, reason, seconds)
    if ending in GOOD:
        # The lease is held: no other night of this data set will go on from a checkpoint of its own.
        for folder in night.settings.checkpoints.glob(f"{night.data_set.name}.*"):
            shutil.rmtree(folder, ignore_errors=True)
    return outcome_of(night, ending, reason, full)


def _run_of(night: Night, ending: Ending) -> str | None:
    """The night's MLflow run. One that has failed gets its row in the ledger even if MLflow is away."""
    try:
        return begin(night)
    except TrackingError:
        if ending in GOOD:
            raise
        logger.warning("%s: no MLflow run", night.identity.key, exc_info=True)
        return None


def _end_run(night: Night, run: str, ending: Ending, reason: str, seconds: Mapping[str, float]) -> str:
    """End the night's run. Where MLflow is away the ending stands; the reason that is returned says both."""
    try:
        night.tracker.log_metrics(run, {f"seconds/{stage}": value for stage, value in seconds.items()})
        night.tracker.log_tags(run, {ENDING_TAG: ending})
        night.tracker.end(run, "FINISHED" if ending in GOOD else "FAILED", reason)
    except TrackingError as error:
        logger.warning("%s: its MLflow run could not be ended", night.identity.key, exc_info=True)
        return reason if str(error) in reason else f"{reason} Afterwards: {error}"
    return reason


def _link(night: Night, run: str) -> str | None:
    try:
        return night.tracker.link(run)
    except TrackingError:
        logger.warning("%s: no link to its MLflow run", night.identity.key, exc_info=True)
        return None


def describe(error: BaseException) -> str:
    """An error for the ledger and for tags: our own in full, of any other the first line."""
    if isinstance(error, NightcastError):
        return str(error)
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def outcome_of(night: Night, ending: Ending, reason: str, details: Mapping[str, Any]) -> Outcome:
    """An ending with what the ledger keeps of the night."""
    champion = night.ledger.champion(night.data_set.name)
    run = details.get("run_id")
    return Outcome(
        data_set=night.data_set.name,
        as_of=night.data_set.grid.format(night.as_of),
        ending=ending,
        reason=reason,
        model_version=details.get("model_version"),
        champion=champion.version if champion else None,
        run_id=run,
        run_link=_link(night, run) if run else None,
        tracking_uri=night.settings.shown_mlflow_uri,
        scores=details.get("scores", {}),
        seconds=details.get("seconds", {}),
        findings=tuple(details.get("findings", ())),
    )


def grid_step(data_set: DataSet, as_of: datetime) -> np.datetime64:
    """The grid step at or before a moment."""
    aware = as_of if as_of.tzinfo else as_of.replace(tzinfo=ZoneInfo(data_set.time_zone))
    utc = np.datetime64(aware.astimezone(UTC).replace(tzinfo=None), "us")
    step: np.datetime64 = data_set.grid.floor(np.asarray([utc]))[0]
    return step


def last_step(data_set: DataSet, as_of: datetime | None) -> np.datetime64:
    """The last grid step of the past.

    Args:
        as_of: the moment at which the past ends, floored to the grid; naive means the data set's zone. Unset
            takes the newest complete step. Where rows are aggregated, a step that is not over by the clock
            is not taken: its aggregate would be that of a part.

    Raises:
        DataRefused: the newest step is asked for, and the data cannot be read.
    """
    if as_of is None:
        return resolve_as_of(data_set)
    step = grid_step(data_set, as_of)
    if data_set.aggregate is None:
        return step
    return min(step, data_set.grid.shift(grid_step(data_set, datetime.now(UTC)), -1))


def _last_step(data_set: DataSet, as_of: datetime | None) -> np.datetime64:
    """As `last_step`. Data that cannot be read gets a night all the same, which the contract refuses."""
    try:
        return last_step(data_set, as_of)
    except DataRefused as refusal:
        logger.warning("the newest step is not known: %s", refusal)
        return grid_step(data_set, as_of or datetime.now(UTC))

"""A campaign: find a configuration, train it with several seeds, score each. It resumes.

Everything that was done lies in one folder, whose name says what it was done with. Processes that run the
same campaign share the work through it, and one that is killed costs the epoch it was in:

- A search at the shortest horizon, which has the most windows that say something of their own, chooses a
  configuration (`lstm.search.choice`), or for an ensemble one of each normalisation. It is trained with every
  seed at every horizon, an ensemble's quantiles averaged.
- The search is an Optuna study (`lstm.search`); a training is its checkpoint; scores are one JSON file a
  seed, in a folder whose name says by what they were scored.
- Search and training get the data before the test span. Only the score of a seed sees the rest.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from benchmarks.protocol import Case
from benchmarks.standing import Forecast
from data.files import write_atomically
from data.retrain import Budget, SearchSpace
from data.snapshot import digest
from lstm.scaling import ScaledPanel, Scaler
from lstm.search import study
from lstm.search.objective import SearchTask
from lstm.search.space import centre, configured, contains, first_trials
from lstm.search.worker import Observer, work
from lstm.training.fit import fit
from lstm.training.loss import Loss
from lstm.training.predict import predict
from lstm.training.recipe import Recipe
from lstm.windows import Windows

ROOT = Path(__file__).resolve().parent.parent
CODE = (
    "data/retrain.py",
    "lstm/*.py",
    "lstm/kernels/*.py",
    "lstm/models/*.py",
    "lstm/search/*.py",
    "lstm/training/*.py",
)
"""Files that decide what is found: where one changes, a campaign starts over."""

SCORING = (
    "benchmarks/campaign.py",
    "benchmarks/m4.py",
    "benchmarks/protocol.py",
    "benchmarks/standing.py",
    "lstm/evaluation/*.py",
)
"""Files that decide how it is scored: where one changes, what was trained is scored anew."""

_CPU = torch.device("cpu")
_LOOK_SECONDS = 0.5


class Score(Protocol):
    """Scores a forecaster on a case's test windows: the value of each metric."""

    def __call__(
        self, case: Case, horizon: int, levels: tuple[float, ...], forecast: Forecast
    ) -> dict[str, float]: ...


class Watcher(Observer, Protocol):
    """Told what happens, in this process."""

    def tick(self) -> None:
        """An epoch of a seed has ended."""

    def scored(self, unit: object, scores: Mapping[str, float]) -> None:
        """A seed has been scored."""


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Args:
        horizons: steps ahead; a column of the table each.
        lookbacks: the search chooses among them; none for the library's own.
        losses: of the models of each seed. ``pinball``, the search's own, fits quantiles, which have every
            score: their mean has `mse`, their median `mae` (`benchmarks.standing.errors`). A second model by
            ``squared`` errors fits the mean, for `mse` alone.
        seeds: of the trainings that are scored.
        trials: of the search at the shortest horizon; 0 takes the defaults, the middle of the space.
        minutes: the longest that the search may take.
        retrain: further keys of a catalog's `retrain` block.
    """

    horizons: tuple[int, ...]
    lookbacks: tuple[int, ...] = ()
    losses: tuple[Loss, ...] = ("pinball",)
    seeds: tuple[int, ...] = (0, 1, 2)
    trials: int = 16
    minutes: float = 20.0
    retrain: Mapping[str, Any] = field(default_factory=dict)

    def search(self) -> dict[str, Any]:
        """What the search depends on; JSON-safe."""
        own = {
            key: value for key, value in asdict(self).items() if key not in ("horizons", "losses", "seeds")
        }
        return {**own, "shortest": min(self.horizons)}


@dataclass(frozen=True)
class Unit:
    """One model that is trained and scored."""

    horizon: int
    seed: int
    loss: Loss = "pinball"

    def __str__(self) -> str:
        return f"horizon-{self.horizon}-{self.loss}-seed-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class CaseTask(SearchTask):
    """A search whose panel is standardised as its case's forecasts are scored."""

    scaler: Scaler

    @cached_property
    def scaled(self) -> ScaledPanel:
        """The panel before the test span, scaled by what was observed in the training span."""
        return self.scaler.scale(self.panel, self.data_set.retrain.horizon)


class Campaign:
    """One case, one plan, one folder.

    Args:
        score: of a seed.
        root: of the folders of all campaigns.

    Raises:
        CatalogError: the plan asks for what no catalog could hold.
        DataRefused: a part of the data is too short for a horizon.
    """

    def __init__(self, case: Case, plan: Plan, score: Score, root: Path) -> None:
        self.case = case
        self.plan = plan
        self._score = score
        seen = case.seen
        made_of = {
            "data": digest(seen),
            "cycles": case.scaler.cycles,
            "splits": [asdict(span) for span in (case.splits.train, case.splits.validation)],
            "search": plan.search(),
            "code": _code(CODE),
        }
        scored_by = {"panel": digest(case.panel), "season": case.season, "code": _code(SCORING)}
        self.folder = root / f"{case.name}-{_short(json.dumps(made_of, sort_keys=True))}"
        self._scores = self.folder / f"scores-{_short(json.dumps(scored_by, sort_keys=True))}"
        self._url = f"sqlite:///{self.folder.absolute() / 'studies.db'}"
        self._tasks = {horizon: self._task(horizon) for horizon in plan.horizons}
        for horizon, task in self._tasks.items():
            case.check(horizon, max(task.data_set.retrain.search_space.lookback))

    @property
    def units(self) -> list[Unit]:
        """The longest trainings first, so that the end of the work is even."""
        horizons = sorted(self.plan.horizons, reverse=True)
        return [Unit(*each) for each in product(horizons, self.plan.seeds, self.plan.losses)]

    @property
    def is_finished(self) -> bool:
        """True if every seed is scored."""
        return all(self._file(unit).exists() for unit in self.units)

    def run(self, watcher: Watcher) -> None:
        """Do what is left, beside whatever other process does the same.

        Args:
            watcher: told what this process does.

        Raises:
            SearchFailed: no trial finished, or trials keep failing for one reason.
            TrainingDiverged: a loss is not finite.
        """
        if self.is_finished:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.plan.trials:
            self._search(watcher)
        for timeout in (0, -1):
            for unit in self.units:
                self._finish(unit, timeout, watcher)

    def scores(self, horizon: int) -> dict[str, list[float]]:
        """Each metric's value for each seed, of the model whose loss it is.

        Raises:
            FileNotFoundError: a seed is not scored yet.
        """
        each = [self._scored(Unit(horizon, seed)) for seed in self.plan.seeds]
        if "squared" in self.plan.losses:
            for scores, seed in zip(each, self.plan.seeds, strict=True):
                scores["mse"] = self._scored(Unit(horizon, seed, "squared"))["mse"]
        return {name: [scores[name] for scores in each] for name in each[0]}

    def recipes(self, horizon: int) -> list[Recipe]:
        """The configurations that were found, or the defaults: of an ensemble several, else one.

        Raises:
            SearchFailed: no trial finished.
        """
        task = self._tasks[horizon]
        retrain = task.data_set.retrain
        if self.plan.trials:
            name, is_one = self._searched.study_name, not retrain.ensemble
            chosen = [study.chosen(self._url, name)] if is_one else study.chosen_of_each(self._url, name)
            found = [within(retrain.search_space, one.params) for one in chosen]
        else:
            found = first_trials(retrain)
        made = [configured(params, task.data_set, task.scaled) for params in found]
        return [Recipe(model, training, training.max_epochs) for model, training in made]

    @property
    def _searched(self) -> CaseTask:
        """The task of the horizon that the search is for."""
        return self._tasks[min(self.plan.horizons)]

    def _task(self, horizon: int) -> CaseTask:
        return CaseTask(
            data_set=self.case.data_set(horizon, self.plan.lookbacks, self.plan.retrain),
            panel=self.case.seen,
            splits=self.case.splits,
            storage_url=self._url,
            study_name=f"horizon-{horizon}",
            checkpoints=self.folder / "trials" / f"horizon-{horizon}",
            device="cpu",
            scaler=self.case.scaler,
        )

    def _search(self, watcher: Watcher) -> None:
        """Take part in the search until its budget is spent and no trial runs any more."""
        task = self._searched
        budget = Budget(trials=self.plan.trials, minutes=self.plan.minutes)
        with FileLock(self.folder / "create.lock"):
            first = first_trials(task.data_set.retrain)
            study.create(self._url, task.study_name, budget, seed=0, first=first)
        work(task, watcher)
        while study.progress(self._url, task.study_name).running:
            time.sleep(_LOOK_SECONDS)
            work(task, watcher)

    def _finish(self, unit: Unit, timeout: float, watcher: Watcher) -> None:
        """Train and score a seed, unless it is done or, within the timeout, another process is at it."""
        if self._file(unit).exists():
            return
        try:
            with FileLock(self.folder / f"{unit}.lock", timeout=timeout):
                if not self._file(unit).exists():
                    scores = self._train_and_score(unit, watcher)
                    write_atomically(self._file(unit), json.dumps(scores).encode())
                    watcher.scored(unit, scores)
        except Timeout:
            return

    def _train_and_score(self, unit: Unit, watcher: Watcher) -> dict[str, float]:
        recipes = self.recipes(unit.horizon)
        members = [self._train(unit, number, recipe, watcher) for number, recipe in enumerate(recipes)]

        def forecast(piece: Windows) -> NDArray[np.floating]:
            mean_WHQ: NDArray[np.floating] = np.mean([member(piece) for member in members], axis=0)
            return mean_WHQ

        levels = (0.5,) if unit.loss == "squared" else recipes[0].model.quantiles
        return self._score(self.case, unit.horizon, levels, forecast)

    def _train(self, unit: Unit, number: int, recipe: Recipe, watcher: Watcher) -> Forecast:
        """Train one of a seed's networks; from test windows to its forecasts."""
        task, config = self._tasks[unit.horizon], recipe.model
        training = replace(recipe.training, seed=unit.seed)
        if unit.loss == "squared":
            config = replace(config, quantiles=(0.5,))
            training = replace(training, loss=unit.loss)
        fitted = fit(
            config,
            training,
            task.scaled,
            task.windows(task.splits.train, config.lookback),
            task.validation(config.lookback),
            device=_CPU,
            checkpoint=self.folder / "seeds" / f"{unit}-{number}.safetensors",
            on_epoch=lambda *_: watcher.tick(),
        )
        scaled = self._scaled[unit.horizon]
        return lambda piece: predict(config, fitted.state, scaled, piece, _CPU)

    @cached_property
    def _scaled(self) -> dict[int, ScaledPanel]:
        """The whole panel, test span included, for each horizon."""
        return {horizon: self.case.scaler.scale(self.case.panel, horizon) for horizon in self.plan.horizons}

    def _scored(self, unit: Unit) -> dict[str, float]:
        scores: dict[str, float] = json.loads(self._file(unit).read_text())
        return scores

    def _file(self, unit: Unit) -> Path:
        return self._scores / f"{unit}.json"


def within(space: SearchSpace, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that were chosen, or where a space does not hold them, its centre with their
    normalisation: a longer horizon has a smaller space, since some networks cost too much there."""
    inside = contains(space, chosen)
    return dict(chosen) if inside else {**centre(space), "normalisation": chosen["normalisation"]}


def _code(patterns: Sequence[str]) -> str:
    """A digest of the files' text."""
    files = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
    return _short("\n".join(f"{path.relative_to(ROOT)}\n{path.read_text()}" for path in files))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]

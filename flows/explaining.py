"""What a model does with its inputs: gates over a window, gradient by lag, what its forecasts rest on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from data.catalog import DataSet, load_catalog
from data.contract import check, resolve_as_of
from data.errors import DataRefused
from data.files import write_atomically
from data.panel import Panel
from data.splits import Splits, split
from flows.forecasting import known_series, load_champion
from flows.night import grid_step
from lstm.promotion.ledger import Ledger
from lstm.settings import Settings
from lstm.tracking import diagnosis
from lstm.tracking.bundle import Twin
from lstm.tracking.registry import Registry
from lstm.training.diagnostics.gates import Gates, trace_gates
from lstm.training.diagnostics.gradients import Gradients, compare_cells
from lstm.training.diagnostics.importance import Importance, importance
from lstm.training.recipe import Recipe
from lstm.training.refit import Trained
from lstm.windows import Windows, windows


@dataclass(frozen=True)
class Diagnosis:
    """What was found out about one set of weights.

    Attributes:
        window: the one that the gates are of.
        gates: None where the network has no recurrent layer to look into.
        importance: on the judge windows; None where there are not two of them.
    """

    panel: Panel
    lookback: int
    window: Windows
    gates: Gates | None
    gradients: Gradients
    importance: Importance | None

    def pictures(self, name: str) -> dict[str, bytes]:
        """PNGs by name: gates, gradients, importance, as far as there are any.

        Args:
            name: of the forecaster.
        """
        data_set = self.panel.data_set
        made = {"gradients": diagnosis.gradient_picture(self.gradients, data_set)}
        if self.gates is not None:
            made["gates"] = diagnosis.gate_picture(self.panel, self.window, self.lookback, self.gates)
        if self.importance is not None:
            made["importance"] = diagnosis.importance_picture(self.importance, data_set, name)
        return made


@dataclass(frozen=True)
class Explained:
    """The champion, explained.

    Attributes:
        recipe: of its best network.
        networks: how many it has.
        at: the last step of the window, local time with its offset.
        paths: of the pictures, by name.
    """

    data_set: str
    version: str
    recipe: Recipe
    networks: int
    series: str
    at: str
    found: Diagnosis
    paths: dict[str, Path]

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        gates, found = self.found.gates, self.found.importance
        return {
            "data_set": self.data_set,
            "version": self.version,
            "cell": self.recipe.model.cell,
            "networks": self.networks,
            "series": self.series,
            "at": self.at,
            "gates": None
            if gates is None
            else {name: float(part.mean()) for name, part in gates.gates.items()},
            "gradients": {
                name: {"norm": norm, "reach": self.found.gradients.reach(name)}
                for name, norm in self.found.gradients.total.items()
            },
            "importance": None
            if found is None
            else {
                "mae": found.mae,
                "columns": {name: float(increase_R.mean()) for name, increase_R in found.columns_R.items()},
                "lags": {f"{a}-{b}": float(increase_R.mean()) for (a, b), increase_R in found.lags_R.items()},
            },
            "pictures": {name: str(path) for name, path in self.paths.items()},
        }


def explain(
    settings: Settings, name: str, series: str | None, at: datetime | None, folder: Path
) -> Explained:
    """Look into the champion of a data set and write the pictures.

    The gates are those of the weights that serve; importance is measured with the judged ones, which have not
    been trained on the judge span. Of an ensemble, both are those of its best member.

    Args:
        series: whose window the gates are shown for; the first one by default.
        at: the last step of that window; the newest one by default.
        folder: where the pictures go.

    Raises:
        NoChampion: no night has promoted one yet.
        DataRefused: the newest data breaks the contract, or has no such series or window.
        BundleError, RegistryError: the champion cannot be loaded.
    """
    data_set = load_catalog(settings.catalog).get(name)
    ledger, registry = Ledger(settings.ledger_url), Registry(settings.mlflow_uri)
    registry.sync(name, ledger)
    version, bundle = load_champion(settings, data_set, ledger, registry)
    panel = known_series(bundle, version, check(data_set, resolve_as_of(data_set)).panel)
    step = panel.n_steps - 1
    if at is not None:
        step = int(panel.frequency.steps_between(panel.start, np.array([grid_step(data_set, at)]))[0])
    window = _window(panel, series, step, bundle.recipe.model.lookback)
    splits = split(panel, data_set.retrain)
    judged, shown = _trained(bundle.judged), _trained(bundle.twin(bundle.serves))
    found = diagnose(data_set, bundle.recipe, judged, shown, panel, splits, window)
    paths = {}
    who = "champion" if len(bundle.members) == 1 else "champion's best network"
    for kind, picture in found.pictures(who).items():
        paths[kind] = folder / f"{kind}.png"
        write_atomically(paths[kind], picture)
    when = panel.frequency.format(panel.frequency.shift(panel.start, step))
    recipe, networks = bundle.recipe, len(bundle.members)
    return Explained(name, version, recipe, networks, panel.series[window.series[0]], when, found, paths)


def diagnose(
    data_set: DataSet,
    recipe: Recipe,
    judged: Trained,
    shown: Trained,
    panel: Panel,
    splits: Splits,
    window: Windows,
) -> Diagnosis:
    """Gates, gradients and importance, within a few seconds.

    Args:
        judged: weights that have not seen the judge span.
        shown: weights whose gates are shown over the window.

    Raises:
        DataRefused: the panel has other columns than the training, or no window to train on.
    """
    model = recipe.model
    scaled = judged.scaler.scale(panel, model.horizon)
    learned = windows(panel, splits.train, model.lookback, model.horizon)
    if not len(learned):
        raise DataRefused(
            f"no window of lookback {model.lookback} and horizon {model.horizon} with observed values in "
            "the training span.",
            data_set=panel.data_set,
            remedy="bring back the rows that the champion was trained on.",
        )
    judge = windows(panel, splits.judge, model.lookback, model.horizon)
    found = None
    if len(judge) > 1:
        found = importance(model, judged.state, panel, scaled, judge, data_set.seasons[0])
    return Diagnosis(
        panel,
        model.lookback,
        window,
        trace_gates(model, shown.state, shown.scaler.scale(panel, model.horizon), window),
        compare_cells(scaled, learned, model.lookback, recipe.training.gradient_clip),
        found,
    )


def _trained(twin: Twin) -> Trained:
    """The best member's weights."""
    return Trained(dict(twin.weights[0]), twin.scaler)


def _window(panel: Panel, series: str | None, step: int, lookback: int) -> Windows:
    """The window of a series whose last step is this one.

    Raises:
        DataRefused: no such series, or it has not all the steps of the window.
    """
    if series is not None and series not in panel.series:
        names = ", ".join(panel.series[:10])
        raise DataRefused(
            f"the champion knows no series {series!r}.",
            data_set=panel.data_set,
            remedy=f"one of {names}." if names else "leave --series out: the data set is one series.",
        )
    number = 0 if series is None else panel.series.index(series)
    first, last = int(panel.first_steps[number]) + lookback - 1, panel.n_steps - 1
    if not first <= step <= last:
        frequency, start = panel.frequency, panel.start
        if first > last:
            remedy = f"choose a series of at least {lookback} steps."
        else:
            earliest, newest = (frequency.format(frequency.shift(start, end)) for end in (first, last))
            remedy = f"a time from {earliest} to {newest}."
        raise DataRefused(
            f"no window of {lookback} steps ends there.",
            data_set=panel.data_set,
            series=panel.series[number] or None,
            time=frequency.format(frequency.shift(start, step)),
            remedy=remedy,
        )
    place = [np.array([value]) for value in (panel.row(number, step), number, step)]
    return Windows.of(*place)

"""What forecasts rest on: permutation importance of columns, calendar and lags.

An input is handed out anew among the windows, so that it keeps its distribution and says nothing of its own
window any more; the error's increase is its importance (Breiman 2001, "Random forests"; Fisher et al. 2019
for any model). Inputs that say the same stand in for each other: each alone may then look dispensable.

Axes: W windows, L lookback steps, H horizon steps, C columns, F calendar features, Q quantiles, R repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.panel import Panel
from lstm.features import feature_names
from lstm.models.forecaster import ForecasterConfig
from lstm.scaling import ScaledPanel
from lstm.training.batches import Batches, Inputs
from lstm.training.predict import network
from lstm.windows import Windows

Floats = NDArray[np.float64]
Name = TypeVar("Name")

# Steps read by one pass over the windows, which bounds the time: fewer windows where the lookback is long.
_STEPS_READ = 16_384
_LEAST_WINDOWS, _MOST_WINDOWS = 32, 128
_REPEATS = 3
# Keeps a perfect forecast from being divided by; standard deviations.
_LEAST_ERROR = 1e-9
_MOST_BLOCKS = 12


class Part(NamedTuple):
    """A piece of one input, for all windows: what is taken of the axes after theirs."""

    field: str
    place: tuple[slice | list[int], ...] = ()


@dataclass(frozen=True)
class Importance:
    """By how much the error grows without each input.

    Args:
        mae: with all of them: the mean absolute error of the median, in standard deviations of the target.
        windows: how many windows were forecast.
        columns_R: the increase of the MAE in each repeat, by column (the target first), by cycle of the
            horizon's calendar, and for which series it is, ``series``, where there are several.
        lags_R: the same by the steps of the lookback, as (nearest, farthest) lag from 0, the newest step;
            all columns together.
    """

    mae: float
    windows: int
    columns_R: Mapping[str, Floats]
    lags_R: Mapping[tuple[int, int], Floats]

    def share(self, name: str | tuple[int, int]) -> Floats:
        """(R,) the increase of a column, cycle or block of lags as a share of the error with everything."""
        increase_R = self.columns_R[name] if isinstance(name, str) else self.lags_R[name]
        return increase_R / max(self.mae, _LEAST_ERROR)


def importance(
    config: ForecasterConfig,
    state: Mapping[str, Tensor],
    panel: Panel,
    scaled: ScaledPanel,
    windows: Windows,
    season: int,
    seed: int = 0,
) -> Importance:
    """Permutation importance on windows that the weights were not trained on.

    Args:
        panel: what `scaled` was made from; its names.
        windows: some of them, spread evenly, are used: as many as take a few seconds at most.
        season: steps; lags are taken together by seasons where that makes a readable number of them.

    Raises:
        ValueError: fewer than two windows, among which nothing can be exchanged.
    """
    if len(windows) < 2:
        raise ValueError(f"{len(windows)} windows: nothing can be exchanged among them")
    count = min(max(_STEPS_READ // config.lookback, _LEAST_WINDOWS), _MOST_WINDOWS, len(windows))
    chosen = np.linspace(0, len(windows) - 1, count).astype(np.int64)
    batches = Batches(scaled, windows.select(chosen), config.lookback, config.horizon, torch.device("cpu"))
    [every_W] = batches.in_order(count)
    inputs, (y_WH, observed_WH) = batches.inputs(every_W), batches.targets(every_W)
    model, median = network(config, state), config.quantiles.index(0.5)

    def error(given: Inputs) -> float:
        with torch.inference_mode():
            missed_WH = (y_WH - model(*given)[..., median]).abs()
        return float((missed_WH * observed_WH).sum() / observed_WH.sum().clamp_min(1))

    by_lag = {lag: _steps(panel, lag, config.lookback) for lag in _lags(config.lookback, season)}
    return Importance(
        mae=error(inputs),
        windows=count,
        columns_R=increases(error, inputs, _columns(panel), np.random.default_rng(seed)),
        lags_R=increases(error, inputs, by_lag, np.random.default_rng(seed)),
    )


def increases(
    error: Callable[[Inputs], float],
    inputs: Inputs,
    groups: Mapping[Name, Sequence[Part]],
    generator: np.random.Generator,
    repeats: int = _REPEATS,
) -> dict[Name, Floats]:
    """(R,) by how much the error grows when each group of parts is exchanged among the windows, together."""
    whole, count = error(inputs), len(inputs.x_BLC)
    orders = [torch.from_numpy(generator.permutation(count)) for _ in range(repeats)]
    return {
        name: np.array([error(_exchanged(inputs, group, order_W)) for order_W in orders]) - whole
        for name, group in groups.items()
    }


def _exchanged(inputs: Inputs, parts: Sequence[Part], order_W: Tensor) -> Inputs:
    changed = {field: getattr(inputs, field).clone() for field in {part.field for part in parts}}
    for part in parts:
        place = (slice(None), *part.place)
        changed[part.field][place] = getattr(inputs, part.field)[order_W][place]
    return inputs._replace(**changed)


def _columns(panel: Panel) -> dict[str, list[Part]]:
    """Each observed column with its mask; each future covariate, before and after the origin; each cycle of
    the horizon's calendar; and which series it is."""
    every = slice(None)
    groups = {
        name: [Part("x_BLC", (every, [place])), Part("observed_BLC", (every, [place]))]
        for place, name in enumerate((panel.target, *panel.covariates))
    }
    calendar = [*feature_names(panel.frequency), *(["holiday"] if panel.holidays else [])]
    for place, name in enumerate(panel.future):
        ahead = Part("future_BHF", (every, [len(calendar) + place]))
        groups[name] = [Part("known_BLK", (every, [place])), ahead]
    for cycle in dict.fromkeys(map(_cycle, calendar)):
        places = [place for place, name in enumerate(calendar) if _cycle(name) == cycle]
        groups[cycle] = [Part("future_BHF", (every, places))]
    if len(panel.series) > 1:
        groups["series"] = [Part("static_BD"), Part("series_B")]
    return groups


def _cycle(feature: str) -> str:
    """``hour_of_day`` of ``sin_hour_of_day_1``; what is no wave of a cycle is its own."""
    wave, _, rest = feature.partition("_")
    return rest.rpartition("_")[0] if wave in ("sin", "cos") else feature


def _lags(lookback: int, season: int) -> list[tuple[int, int]]:
    """Lags in blocks of equal length, the newest first; the last block may be shorter."""
    by_season = 6 <= lookback / season <= 2 * _MOST_BLOCKS
    size = season if by_season else -(-lookback // _MOST_BLOCKS)
    return [(first, min(first + size, lookback) - 1) for first in range(0, lookback, size)]


def _steps(panel: Panel, lag: tuple[int, int], lookback: int) -> list[Part]:
    """All that is read of these steps."""
    nearest, farthest = lag
    steps = slice(lookback - 1 - farthest, lookback - nearest)
    fields = ["x_BLC", "observed_BLC", *(["known_BLK"] if panel.future else [])]
    return [Part(field, (steps,)) for field in fields]

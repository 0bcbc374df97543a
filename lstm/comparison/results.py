"""What came of a comparison: every contender and baseline, judged, and one of them recommended.

Axes: W windows, H horizon steps, Q quantiles, G groups of windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from data.panel import Floats
from lstm.comparison.bench import Baseline, Ground
from lstm.comparison.cost import Cost
from lstm.comparison.recommendation import Candidate, Recommendation, recommend
from lstm.evaluation.scores import Scores
from lstm.evaluation.significance import Estimate, estimate, group_means
from lstm.promotion.judge import Bench
from lstm.training.recipe import Recipe


@dataclass(frozen=True)
class Searched:
    """What a contender's search found, and what it spent.

    Attributes:
        recipe: of the trial that its search chose.
        validation_loss: its pinball loss on the validation windows.
        finished, pruned, failed: trials.
        seconds: of searching, on one thread.
    """

    recipe: Recipe
    validation_loss: float
    finished: int
    pruned: int
    failed: int
    seconds: float


@dataclass(frozen=True)
class Trained:
    """A contender's trainings, one a seed.

    Args:
        forecasts: y_WHQ of each seed.
    """

    network: str
    lookback: int
    cost: Cost
    searched: Searched
    forecasts: Sequence[Floats]


# Arrays have no single truth value, so results compare by identity.
@dataclass(frozen=True, eq=False)
class Result:
    """One forecaster at one lookback, on the judge windows; errors on standardised targets.

    Attributes:
        loss_G: mean absolute error of each group of windows, the mean over seeds.
        mae: their mean with its interval.
        seeds: the MAE of each training.
        mae_by_step: (H,) the mean over seeds.
        validation_loss: by which the lookback of a network is chosen: pinball; a baseline's MAE.
        seconds: of one whole training at the middle of the search space; of a baseline's fit.
        forecast_WHQ: of the first seed, in the target's own units.
    """

    network: str
    lookback: int
    mae: Estimate
    mse: float
    pinball: float
    coverage: float
    seeds: tuple[float, ...]
    mae_by_step: tuple[float, ...]
    validation_loss: float
    parameters: int
    seconds: float
    cost: Cost | None
    searched: Searched | None
    loss_G: Floats = field(repr=False)
    forecast_WHQ: Floats = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe, without forecasts."""
        kept = {key: value for key, value in vars(self).items() if key not in ("loss_G", "forecast_WHQ")}
        searched = self.searched and {**vars(self.searched), "recipe": self.searched.recipe.to_dict()}
        return {
            **kept,
            "mae": _finite(asdict(self.mae)),
            "mae_by_step": [None if np.isnan(value) else value for value in self.mae_by_step],
            "cost": self.cost and asdict(self.cost),
            "searched": searched,
            "groups": self.loss_G.tolist(),
        }


@dataclass(frozen=True)
class Comparison:
    """All results, and what follows from them.

    Attributes:
        results: every forecaster at every lookback.
        favourites: one a network, at the lookback that validation liked best, the lowest MAE first.
    """

    ground: Ground
    bench: Bench
    results: tuple[Result, ...]
    favourites: tuple[Result, ...]
    recommendation: Recommendation

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe: what is not finite becomes None."""
        advice = vars(self.recommendation)
        behind = {network: _finite(asdict(one)) for network, one in self.recommendation.behind.items()}
        return {
            "data_set": self.ground.data_set.name,
            "recommendation": {**_finite(advice), "behind": behind},
            "favourites": [one.to_dict() for one in self.favourites],
            "results": [one.to_dict() for one in self.results],
        }


def conclude(
    ground: Ground, bench: Bench, trained: Sequence[Trained], baselines: Sequence[Baseline]
) -> Comparison:
    """Judge everybody, and recommend one."""
    epochs = ground.data_set.retrain.max_epochs
    results = [
        _result(
            bench,
            one.network,
            one.lookback,
            one.forecasts,
            validation_loss=one.searched.validation_loss,
            parameters=one.cost.parameters,
            seconds=epochs * one.cost.epoch_seconds,
            cost=one.cost,
            searched=one.searched,
        )
        for one in trained
    ]
    results += [
        _result(
            bench,
            one.network,
            one.lookback,
            [one.forecast_WHQ],
            validation_loss=one.validation_mae,
            parameters=one.parameters,
            seconds=one.seconds,
            cost=None,
            searched=None,
        )
        for one in baselines
    ]
    favourites = sorted(_favourites(results).values(), key=lambda one: one.mae.mean)
    candidates = [Candidate(one.network, one.lookback, one.loss_G, one.seconds) for one in favourites]
    return Comparison(ground, bench, tuple(results), tuple(favourites), recommend(candidates))


def _favourites(results: Sequence[Result]) -> Mapping[str, Result]:
    """Each network at the lookback with the lowest loss on validation: judge windows choose nothing."""
    best: dict[str, Result] = {}
    for one in results:
        if one.network not in best or one.validation_loss < best[one.network].validation_loss:
            best[one.network] = one
    return best


def _result(bench: Bench, network: str, lookback: int, forecasts: Sequence[Floats], **facts: Any) -> Result:
    scores = [bench.score(forecast_WHQ) for forecast_WHQ in forecasts]
    loss_W = np.mean([_losses(bench, forecast_WHQ) for forecast_WHQ in forecasts], axis=0)
    loss_G = group_means(loss_W, bench.windows.steps, bench.y_WH.shape[1])
    return Result(
        network=network,
        lookback=lookback,
        mae=estimate(loss_G),
        mse=_mean(scores, "mse"),
        pinball=_mean(scores, "pinball"),
        coverage=_mean(scores, "coverage"),
        seeds=tuple(one.mae for one in scores),
        mae_by_step=tuple(np.mean([one.mae_by_step for one in scores], axis=0).tolist()),
        loss_G=loss_G,
        forecast_WHQ=forecasts[0],
        **facts,
    )


def _losses(bench: Bench, forecast_WHQ: Floats) -> Floats:
    """(W,) mean absolute error of each window's median, standardised; a window has an observed target."""
    median = list(bench.levels).index(0.5)
    losses_W: Floats = np.nanmean(np.abs(forecast_WHQ[..., median] - bench.y_WH), axis=1) / bench.scale_W
    return losses_W


def _mean(scores: Sequence[Scores], name: str) -> float:
    return float(np.mean([getattr(one, name) for one in scores]))


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in values.items()
    }

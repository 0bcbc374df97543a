"""The windows that all contenders are judged on, and what the baselines forecast for them.

Axes: W windows, H horizon steps, Q quantiles.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from data.catalog import DataSet
from data.errors import DataRefused
from data.panel import Floats, Panel
from data.splits import Span, Splits
from lstm.evaluation import metrics
from lstm.evaluation.baselines import residual_quantiles
from lstm.promotion.judge import Bench, Fit, bench_of, linear_fit, naive_fit
from lstm.scaling import Scaler
from lstm.windows import Windows, shared_windows, targets

# Forecasts of so many windows, for each contender and seed, are kept on disk.
_MOST_WINDOWS = 5_000


@dataclass(frozen=True)
class Ground:
    """What a comparison stands on.

    Args:
        data_set: as `lstm.comparison.contenders.compared` made it.
    """

    data_set: DataSet
    panel: Panel
    splits: Splits

    @property
    def learned(self) -> Span:
        """Train and validation: what the contenders have learned from when they are judged."""
        return Span(self.splits.train.first, self.splits.validation.last)

    def shared(self, span: Span) -> Windows:
        """As `every`, or some of them where they are many."""
        return self.every(span).at_most(_MOST_WINDOWS)

    def every(self, span: Span) -> Windows:
        """The windows of a span that every lookback can make."""
        retrain = self.data_set.retrain
        return shared_windows(self.panel, span, retrain.search_space.lookback, retrain.horizon)


@dataclass(frozen=True)
class Baseline:
    """A forecaster that needs no search.

    Args:
        network: ``linear`` or ``seasonal_naive``.
        lookback: the steps that it reads.
        forecast_WHQ: for the judge windows.
        validation_mae: standardised, of a fit on the training span alone.
        seconds: of its last fit.
        parameters: that it has learned.
    """

    network: str
    lookback: int
    forecast_WHQ: Floats
    validation_mae: float
    seconds: float
    parameters: int


def make_bench(ground: Ground) -> Bench:
    """The judge windows, the same for all, in units of what was learned from.

    Raises:
        DataRefused: there is none.
    """
    panel, data_set, splits = ground.panel, ground.data_set, ground.splits
    every = ground.every(splits.judge)
    if not len(every):
        raise DataRefused(
            f"no window of {data_set.retrain.horizon} steps can be judged at every lookback.",
            data_set=panel.data_set,
            column=panel.target,
            time=panel.frequency.format(panel.frequency.shift(panel.start, splits.judge.first)),
            remedy="compare shorter lookbacks, or lengthen retrain.judge in the catalog.",
        )
    return bench_of(panel, splits, data_set, every, _MOST_WINDOWS, scaler_of(ground))


def scaler_of(ground: Ground) -> Scaler:
    """The units in which all are judged."""
    return Scaler.fit(ground.panel, ground.learned.last, ground.learned.first)


def baselines(ground: Ground, bench: Bench) -> list[Baseline]:
    """Seasonal naive, and a linear model for each lookback, with quantiles from residuals on validation."""
    panel, horizon, season = ground.panel, ground.data_set.retrain.horizon, ground.data_set.seasons[0]
    made = [_baseline(ground, bench, ("seasonal_naive", season), naive_fit(panel, horizon, season), 0)]
    for lookback in ground.data_set.retrain.search_space.lookback:
        fit, weights = linear_fit(panel, horizon, lookback), (lookback + 1) * horizon
        made.append(_baseline(ground, bench, ("linear", lookback), fit, weights))
    return made


def _baseline(ground: Ground, bench: Bench, who: tuple[str, int], fit: Fit, parameters: int) -> Baseline:
    """Fitted twice, as the networks are: on train for what validation shows, then on both for the judge."""
    scaler = scaler_of(ground)
    validation = ground.shared(ground.splits.validation)
    seen_WH = targets(ground.panel, validation, bench.y_WH.shape[1])
    z_WH, point_WH = (
        scaler.scale_target(y_WH, validation.series)
        for y_WH in (seen_WH, fit(ground.splits.train)(validation))
    )
    began = time.process_time()
    point = fit(ground.learned)
    seconds = time.process_time() - began
    residuals_HQ = residual_quantiles(z_WH, point_WH, bench.levels)
    forecast_WHQ = bench.intervals(point(bench.windows), residuals_HQ)
    return Baseline(*who, forecast_WHQ, metrics.mae(z_WH, point_WH), seconds, parameters)

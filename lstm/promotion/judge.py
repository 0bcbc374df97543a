"""The judge: challenger, champion and baselines on identical windows that nobody tuned on.

Axes: W windows, H horizon steps, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from data.catalog import DataSet
from data.errors import DataRefused
from data.panel import Floats, Panel
from data.splits import Span, Splits
from lstm.evaluation.adaptive import adapt_in_turn
from lstm.evaluation.baselines import (
    fit_linear,
    naive_scale,
    residual_quantiles,
    seasonal_naive,
    with_quantiles,
)
from lstm.evaluation.scores import Scores, score
from lstm.scaling import Scaler
from lstm.windows import Windows, targets, windows

# More judge windows than this do not move a mean, but cost memory.
_MOST_WINDOWS = 50_000

Forecast = Callable[[Panel, Windows], Floats]
"""From a panel and windows to y_WHQ in the target's own units."""

Fit = Callable[[Span], Callable[[Windows], Floats]]
"""From a span to learn from to point forecasts: from windows to y_WH in the target's own units."""


@dataclass(frozen=True)
class Candidate:
    """A model that wants to be judged.

    Args:
        forecast: its judged weights' forecasts.
        lookback: the steps that it must see.
        seen_until: the last UTC time that its training saw.
        series: the ids that it knows.
    """

    forecast: Forecast
    lookback: int
    seen_until: np.datetime64
    series: tuple[str, ...]


@dataclass(frozen=True)
class Bench:
    """The windows that everybody is judged on, and what happened.

    Args:
        panel: of the series that everybody knows.
        windows: its judge windows, the same for all.
        y_WH: targets in their own units, NaN where nothing was observed.
        levels: (Q,) rising quantile levels.
        loc_W: location of each window's series; scores are on standardised targets.
        scale_W: its scale.
        naive_scale_W: the denominator of MASE, in the target's own units.
        share: of all windows that could be judged, so many are here.
        non_negative: the target is never below 0.
    """

    panel: Panel
    windows: Windows
    y_WH: Floats
    levels: tuple[float, ...]
    loc_W: Floats
    scale_W: Floats
    naive_scale_W: Floats
    share: float
    non_negative: bool

    def intervals(self, point_WH: Floats, residuals_HQ: Floats) -> Floats:
        """(W, H, Q) a baseline's point forecasts with `residual_quantiles` around them, as a version's are:
        adapted by those before, and not below 0 where no target is.
        """
        adapted_WHQ = self.adapted(with_quantiles(point_WH, residuals_HQ, self.scale_W), self.y_WH)
        return np.maximum(adapted_WHQ, 0.0) if self.non_negative else adapted_WHQ

    def adapted(self, forecast_WHQ: Floats, y_WH: Floats) -> Floats:
        """(W, H, Q) forecasts of these windows, adapted by those before them as a version's are.

        Args:
            forecast_WHQ: rising quantiles.
            y_WH: what happened, in the same units.
        """
        return adapt_in_turn(forecast_WHQ, y_WH, self.windows, self.levels, self.share)

    def score(self, forecast_WHQ: Floats) -> Scores:
        """The scores of a forecast on these windows."""
        return score(
            self.y_WH,
            forecast_WHQ,
            self.levels,
            loc_W=self.loc_W,
            scale_W=self.scale_W,
            naive_scale_W=self.naive_scale_W,
        )


@dataclass(frozen=True)
class Verdict:
    """What everybody forecast on the bench, and how good it was.

    Args:
        forecasts: y_WHQ by name: challenger, champion (where there is one), seasonal_naive, linear.
        scores: by the same names.
    """

    bench: Bench
    forecasts: Mapping[str, Floats]
    scores: Mapping[str, Scores]


def judge(
    panel: Panel,
    splits: Splits,
    data_set: DataSet,
    challenger: Candidate,
    champion: Candidate | None,
    scaler: Scaler,
) -> Verdict:
    """Score everybody on every window that all can forecast and whose targets nobody has seen.

    The judge span is cut where the champion's training reaches into it, and to the series that the
    champion knows: what it cannot forecast proves nothing about it.

    Args:
        scaler: fitted before the judge span; its units are the scores'.

    Raises:
        DataRefused: there is not enough left to judge on.
    """
    horizon = data_set.retrain.horizon
    rivals = [challenger] if champion is None else [challenger, champion]
    lookback = max(_linear_lookback(data_set), *(rival.lookback for rival in rivals))
    span, panel = unseen(panel, splits.judge, rivals, horizon), _shared(panel, rivals)
    scaler = scaler.select(panel)
    every = windows(panel, span, lookback, horizon)
    if not len(every):
        raise DataRefused(
            f"no window of {horizon} steps can be judged: none has an observed target after enough history.",
            data_set=panel.data_set,
            column=panel.target,
            time=panel.frequency.format(panel.frequency.shift(panel.start, splits.judge.first)),
            remedy="wait until newer data has come, or shorten retrain.search_space.lookback in the catalog.",
        )
    bench = bench_of(panel, splits, data_set, every, _MOST_WINDOWS, scaler)
    forecasts = {"challenger": challenger.forecast(panel, bench.windows)}
    if champion is not None:
        forecasts["champion"] = champion.forecast(panel, bench.windows)
    forecasts |= _baselines(bench, splits, data_set, scaler)
    return Verdict(bench, forecasts, {name: bench.score(made) for name, made in forecasts.items()})


def bench_of(
    panel: Panel, splits: Splits, data_set: DataSet, every: Windows, most: int, scaler: Scaler
) -> Bench:
    """The bench of these judge windows, or of so many of them, in a scaler's units."""
    chosen = every.at_most(most)
    loc_W, scale_W = scaler.target(chosen.series)
    return Bench(
        panel=panel,
        windows=chosen,
        y_WH=targets(panel, chosen, data_set.retrain.horizon),
        levels=data_set.retrain.quantiles,
        loc_W=loc_W,
        scale_W=scale_W,
        naive_scale_W=naive_scale(panel, data_set.seasons[0], splits.validation.last)[chosen.series],
        share=len(chosen) / len(every),
        non_negative=data_set.non_negative,
    )


def naive_fit(panel: Panel, horizon: int, season: int) -> Fit:
    """The seasonal naive, which has nothing to learn."""
    return lambda _: lambda some: seasonal_naive(panel, some, horizon, season)


def linear_fit(panel: Panel, horizon: int, lookback: int) -> Fit:
    """The linear model of windows with so many steps."""

    def fit(span: Span) -> Callable[[Windows], Floats]:
        train = windows(panel, span, lookback, horizon)
        return partial(fit_linear(panel, train, lookback, horizon).forecast, panel)

    return fit


def unseen(panel: Panel, span: Span, rivals: Sequence[Candidate], horizon: int) -> Span:
    """The part of the judge span after everything that any rival's training saw.

    Raises:
        DataRefused: less than half of the span is left, or less than a horizon.
    """
    last = max(rival.seen_until for rival in rivals)
    seen = int(panel.frequency.steps_between(panel.start, np.asarray([last]))[0])
    first = max(span.first, seen + 1)
    left = max(span.last - first + 1, 0)
    if 2 * left < len(span) or left < horizon:
        raise DataRefused(
            f"the champion's training reaches to {panel.frequency.format(last)}, into the judge span: "
            f"{left} of {len(span)} steps are left to judge on.",
            data_set=panel.data_set,
            time=panel.frequency.format(panel.frequency.shift(panel.start, span.first)),
            remedy="wait until newer data has come, or retire the champion.",
        )
    return Span(first, span.last)


def _shared(panel: Panel, rivals: Sequence[Candidate]) -> Panel:
    """The panel of the series that every rival knows: nobody can forecast others, not even unasked.

    Raises:
        DataRefused: there is none.
    """
    shared = [name for name in panel.series if all(name in rival.series for rival in rivals)]
    if not shared:
        raise DataRefused(
            "the champion knows none of the series.",
            data_set=panel.data_set,
            remedy="retire the champion if the series were renamed.",
        )
    return panel if len(shared) == len(panel.series) else panel.select(shared)


def _linear_lookback(data_set: DataSet) -> int:
    """The longest season that a training window of the data set is sure to hold."""
    return min(max(data_set.seasons), max(data_set.retrain.search_space.lookback))


def _baselines(bench: Bench, splits: Splits, data_set: DataSet, scaler: Scaler) -> dict[str, Floats]:
    """Seasonal naive and linear forecasts, with quantiles from their residuals on the validation span.

    Fitted twice, as a challenger is: on train for what validation shows, then on both for the judge.
    """
    panel, horizon = bench.panel, data_set.retrain.horizon
    season, lookback = data_set.seasons[0], _linear_lookback(data_set)
    fits = {
        "seasonal_naive": naive_fit(panel, horizon, season),
        "linear": linear_fit(panel, horizon, lookback),
    }
    validation = windows(panel, splits.validation, lookback, horizon).at_most(_MOST_WINDOWS)
    learned = Span(splits.train.first, splits.validation.last)
    seen_WH = scaler.scale_target(targets(panel, validation, horizon), validation.series)
    forecasts = {}
    for name, fit in fits.items():
        missed_WH = scaler.scale_target(fit(splits.train)(validation), validation.series)
        residuals_HQ = residual_quantiles(seen_WH, missed_WH, bench.levels)
        forecasts[name] = bench.intervals(fit(learned)(bench.windows), residuals_HQ)
    return forecasts

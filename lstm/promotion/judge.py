"""The judge: challenger, champion and baselines on identical windows that nobody tuned on.

Axes: W windows, H horizon steps, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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
    """

    panel: Panel
    windows: Windows
    y_WH: Floats
    levels: tuple[float, ...]
    loc_W: Floats
    scale_W: Floats
    naive_scale_W: Floats

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
    span, panel = _unseen(panel, splits.judge, rivals, horizon), _shared(panel, rivals)
    scaler = scaler.select(panel)
    chosen = windows(panel, span, lookback, horizon).at_most(_MOST_WINDOWS)
    if not len(chosen):
        raise DataRefused(
            f"no window of {horizon} steps can be judged: none has an observed target after enough history.",
            data_set=panel.data_set,
            column=panel.target,
            time=panel.frequency.format(panel.frequency.shift(panel.start, splits.judge.first)),
            remedy="wait until newer data has come, or shorten retrain.search_space.lookback in the catalog.",
        )
    bench = bench_of(panel, splits, data_set, chosen, scaler)
    forecasts = {"challenger": challenger.forecast(panel, chosen)}
    if champion is not None:
        forecasts["champion"] = champion.forecast(panel, chosen)
    forecasts |= _baselines(panel, splits, data_set, scaler, chosen)
    return Verdict(bench, forecasts, {name: bench.score(made) for name, made in forecasts.items()})


def bench_of(panel: Panel, splits: Splits, data_set: DataSet, chosen: Windows, scaler: Scaler) -> Bench:
    """The bench of these judge windows, in a scaler's units."""
    loc_W, scale_W = scaler.target(chosen.series)
    return Bench(
        panel=panel,
        windows=chosen,
        y_WH=targets(panel, chosen, data_set.retrain.horizon),
        levels=data_set.retrain.quantiles,
        loc_W=loc_W,
        scale_W=scale_W,
        naive_scale_W=naive_scale(panel, data_set.seasons[0], splits.validation.last)[chosen.series],
    )


def _unseen(panel: Panel, span: Span, rivals: Sequence[Candidate], horizon: int) -> Span:
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


def _baselines(
    panel: Panel, splits: Splits, data_set: DataSet, scaler: Scaler, chosen: Windows
) -> dict[str, Floats]:
    """Seasonal naive and linear forecasts, with quantiles from their residuals on the validation span that
    adapt as a version's do."""
    horizon, levels = data_set.retrain.horizon, data_set.retrain.quantiles
    season, lookback = data_set.seasons[0], _linear_lookback(data_set)
    validation = windows(panel, splits.validation, lookback, horizon).at_most(_MOST_WINDOWS)
    linear = fit_linear(panel, windows(panel, splits.train, lookback, horizon), lookback, horizon)
    points: dict[str, Callable[[Windows], Floats]] = {
        "seasonal_naive": lambda some: seasonal_naive(panel, some, horizon, season),
        "linear": lambda some: linear.forecast(panel, some),
    }
    seen_WH = scaler.scale_target(targets(panel, validation, horizon), validation.series)
    forecasts = {}
    for name, point in points.items():
        missed_WH = scaler.scale_target(point(validation), validation.series)
        residuals_HQ = residual_quantiles(seen_WH, missed_WH, levels)
        made_WHQ = with_quantiles(point(chosen), residuals_HQ, scaler.target(chosen.series)[1])
        forecasts[name] = adapt_in_turn(made_WHQ, targets(panel, chosen, horizon), chosen, levels)
    return forecasts

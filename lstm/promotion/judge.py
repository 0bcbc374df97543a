"""The judge: challenger, champion and baselines on identical windows that nobody tuned on.

Axes: W windows, H horizon steps, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.catalog import DataSet
from data.panel import Floats, Panel
from data.splits import Span, Splits
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
class Verdict:
    """What everybody forecast on the judge windows, and how good it was.

    Args:
        windows: the judge windows, the same for all.
        y_WH: what happened, NaN where nothing was observed.
        forecasts: y_WHQ by name: challenger, champion (where there is one), seasonal_naive, linear.
        scores: on standardised targets, by the same names.
    """

    windows: Windows
    y_WH: Floats
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
    """
    horizon, levels = data_set.retrain.horizon, data_set.retrain.quantiles
    season = max(data_set.seasons)
    rivals = [challenger] if champion is None else [challenger, champion]
    chosen = windows(
        panel,
        _unseen(panel, splits.judge, rivals),
        lookback=max(season, *(rival.lookback for rival in rivals)),
        horizon=horizon,
        series=_shared(panel, rivals),
    )
    y_WH = targets(panel, chosen, horizon)
    forecasts = {"challenger": challenger.forecast(panel, chosen)}
    if champion is not None:
        forecasts["champion"] = champion.forecast(panel, chosen)
    forecasts |= _baselines(panel, splits, data_set, scaler, chosen)
    loc_W, scale_W = scaler.target(chosen.series)
    naive_scale_W = naive_scale(panel, data_set.seasons[0], splits.validation.last)[chosen.series]
    scores = {
        name: score(y_WH, forecast, levels, loc_W=loc_W, scale_W=scale_W, naive_scale_W=naive_scale_W)
        for name, forecast in forecasts.items()
    }
    return Verdict(chosen, y_WH, forecasts, scores)


def _unseen(panel: Panel, span: Span, rivals: Sequence[Candidate]) -> Span:
    """The part of the judge span after everything that any rival's training saw."""
    seen = max(
        int(panel.frequency.steps_between(panel.start, np.asarray([rival.seen_until]))[0]) for rival in rivals
    )
    return Span(max(span.first, seen + 1), span.last)


def _shared(panel: Panel, rivals: Sequence[Candidate]) -> list[int]:
    """Indices of the series that every rival knows."""
    return [
        number for number, name in enumerate(panel.series) if all(name in rival.series for rival in rivals)
    ]


def _baselines(
    panel: Panel, splits: Splits, data_set: DataSet, scaler: Scaler, chosen: Windows
) -> dict[str, Floats]:
    """Seasonal naive and linear forecasts, with quantiles from their residuals on the validation span."""
    horizon, levels = data_set.retrain.horizon, data_set.retrain.quantiles
    season, lookback = data_set.seasons[0], max(data_set.seasons)
    validation = windows(panel, splits.validation, lookback, horizon)
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
        forecasts[name] = with_quantiles(point(chosen), residuals_HQ, scaler.target(chosen.series)[1])
    return forecasts

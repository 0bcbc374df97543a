"""Pictures of a night, as PNG: forecasts, errors, the search.

Axes: W windows, S series, H horizon steps, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import MaxNLocator, PercentFormatter

from data.calendar import Frequency, Times
from data.panel import Floats, Panel
from lstm.tracking import drawing
from lstm.tracking.drawing import AMBER, BLUE, FAINT, GREY, GRID, INK, RED, TEAL
from lstm.tracking.forecast import Forecast
from lstm.windows import Windows

if TYPE_CHECKING:
    # For its type only: drawing a forecast need not wait for Optuna.
    from lstm.search.study import TrialRow

COLOURS = {"challenger": BLUE, "champion": AMBER, "linear": TEAL, "seasonal_naive": GREY}
STATES = {"finished": BLUE, "pruned": GREY, "failed": RED}

_MOST_SERIES = 4


def newest_forecast(panel: Panel, forecast: Forecast) -> bytes:
    """The forecast as a fan behind the newest observations, one row for each of the first series."""
    shown = forecast.series[:_MOST_SERIES]
    horizon = len(forecast.times)
    figure, axes = drawing.rows(len(shown))
    for number, (axis, name) in enumerate(zip(axes, shown, strict=True)):
        index = panel.series.index(name)
        first, end = int(panel.offsets[index]), int(panel.offsets[index + 1])
        rows = slice(max(first, end - 4 * horizon), end)
        times = panel.times()[rows.start - rows.stop :]
        past = panel.values[rows, 0]
        drawing.observed(axis, panel.frequency, times, past)
        _fan(axis, panel.frequency, forecast.times, forecast.values_SHQ[number], forecast.quantiles, BLUE)
        axis.axvline(
            drawing.local(panel.frequency, times[-1:])[0], color=FAINT, linewidth=0.8, linestyle=(0, (4, 3))
        )
        drawing.date_axis(axis, panel.target, name)
    left_out = len(forecast.series) - len(shown)
    more = f", and {left_out} more series" if left_out else ""
    as_of = panel.frequency.format(panel.as_of)
    version = f"version {forecast.version}, " if forecast.version else ""
    drawing.title(figure, f"{forecast.data_set}: the next {horizon} steps{more}", f"{version}as of {as_of}")
    drawing.legend(axes[0], figure)
    return drawing.png(figure)


def judge_windows(
    panel: Panel,
    windows: Windows,
    y_WH: Floats,
    forecast_WHQ: Floats,
    quantiles: Sequence[float],
    name: str = "challenger",
) -> bytes:
    """The newest judge windows that do not overlap, each a fan over what happened; the first series.

    Args:
        y_WH: what happened, in the target's own units; NaN where nothing was observed.
        forecast_WHQ: in the same units.
        name: of the forecaster.
    """
    horizon = forecast_WHQ.shape[1]
    shown = list(dict.fromkeys(windows.series.tolist()))[:_MOST_SERIES]
    figure, axes = drawing.rows(max(len(shown), 1))
    for axis, series in zip(axes, shown, strict=False):
        chosen = apart(windows, series, horizon)
        for window in chosen:
            times = _times(panel, int(windows.steps[window]) + 1, horizon)
            _fan(axis, panel.frequency, times, forecast_WHQ[window], quantiles, COLOURS.get(name, BLUE))
        steps_WH = windows.steps[chosen, None] + 1 + np.arange(horizon)
        observed = np.full(int(steps_WH[-1, -1] - steps_WH[0, 0]) + 1, np.nan)
        observed[steps_WH - steps_WH[0, 0]] = y_WH[chosen]
        times = _times(panel, int(steps_WH[0, 0]), len(observed))
        drawing.observed(axis, panel.frequency, times, observed)
        drawing.date_axis(axis, panel.target, panel.series[series])
    drawing.title(
        figure,
        f"{panel.data_set}: {drawing.spoken(name)} on the judge windows",
        f"forecasts of {horizon} steps, one after the other, against what happened",
    )
    drawing.legend(axes[0], figure)
    return drawing.png(figure)


def error_by_step(maes: Mapping[str, Sequence[float]], data_set: str) -> bytes:
    """MAE at each horizon step, one line a forecaster.

    Args:
        maes: by forecaster (challenger, champion, seasonal_naive, linear), H standardised errors each.
    """
    figure, (axis,) = drawing.rows(1)
    _by_step(axis, maes)
    axis.set_ylim(bottom=0)
    axis.set_ylabel("MAE, standardised", color=FAINT)
    drawing.title(
        figure,
        f"{data_set}: error by horizon step",
        "mean absolute error on the judge windows; lower is better",
    )
    drawing.legend(axis, figure)
    return drawing.png(figure)


def coverage_by_step(
    coverages: Mapping[str, Sequence[float]], quantiles: Sequence[float], data_set: str
) -> bytes:
    """How often the outermost interval held what happened, at each horizon step, one line a forecaster.

    Args:
        coverages: by forecaster, H shares each.
        quantiles: (Q,) rising levels, which say what the share should be.
    """
    figure, (axis,) = drawing.rows(1)
    nominal = quantiles[-1] - quantiles[0]
    axis.axhspan(nominal - 0.05, nominal + 0.05, color=GRID, linewidth=0, label="within 5 points")
    axis.axhline(nominal, color=INK, linewidth=1, linestyle=(0, (4, 3)), label=f"promised: {nominal:.0%}")
    _by_step(axis, coverages)
    shown = [value for values in coverages.values() for value in values if np.isfinite(value)]
    axis.set_ylim(min([nominal - 0.15, *shown]) - 0.02, min(max([nominal + 0.15, *shown]) + 0.02, 1.0))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.set_ylabel("coverage", color=FAINT)
    drawing.title(
        figure,
        f"{data_set}: coverage by horizon step",
        f"share of outcomes on the judge windows within the {nominal:.0%} interval",
    )
    drawing.legend(axis, figure)
    return drawing.png(figure)


def study_history(trials: Sequence[TrialRow], importance: Mapping[str, float], data_set: str) -> bytes:
    """Every trial's best validation loss with the best so far, and which parameters mattered."""
    figure = drawing.figure(4.4)
    axes = figure.subplots(1, 2, width_ratios=(3, 2)) if importance else [figure.subplots()]
    history = axes[0]
    for state, colour in STATES.items():
        some = [(row.number, _loss(row)) for row in trials if row.state == state and np.isfinite(_loss(row))]
        if some:
            numbers, losses = zip(*some, strict=True)
            history.scatter(numbers, losses, color=colour, s=34, zorder=3, label=state, linewidths=0)
    finished = sorted((row.number, _loss(row)) for row in trials if row.state == "finished")
    if finished:
        numbers, values = zip(*finished, (max(row.number for row in trials), np.inf), strict=True)
        history.step(
            numbers,
            np.minimum.accumulate(values),
            where="post",
            color=INK,
            linewidth=1.4,
            label="best so far",
        )
    history.xaxis.set_major_locator(MaxNLocator(integer=True))
    history.set_xlabel("trial", color=FAINT)
    history.set_ylabel("validation loss", color=FAINT)
    drawing.clean(history)
    history.margins(x=0.03)
    if importance:
        _bars(axes[1], importance)
    failed = sum(row.state == "failed" for row in trials)
    drawing.title(figure, f"{data_set}: the search", f"{len(trials)} trials, {failed} failed")
    drawing.legend(history, figure)
    return drawing.png(figure)


def loss_curves(trials: Sequence[TrialRow], chosen: int, data_set: str) -> bytes:
    """Validation loss by epoch of every trial, the chosen one in colour with its training loss.

    Args:
        chosen: its number.
    """
    figure, (axis,) = drawing.rows(1)
    for row in trials:
        epochs = np.arange(1, len(row.curve) + 1)
        if row.number == chosen:
            axis.plot(
                epochs, row.curve, color=BLUE, linewidth=2.4, zorder=4, label=f"trial {chosen}, validation"
            )
            steps = np.arange(1, len(row.train_curve) + 1)
            dashes, name = (0, (4, 2)), f"trial {chosen}, training"
            axis.plot(
                steps, row.train_curve, color=BLUE, linewidth=1.4, linestyle=dashes, zorder=4, label=name
            )
        else:
            axis.plot(
                epochs,
                row.curve,
                color=GREY,
                linewidth=1,
                alpha=0.6,
                marker="." if len(row.curve) == 1 else None,
            )
    shown = [row.curve if row.number != chosen else (*row.curve, *row.train_curve) for row in trials]
    _clip(axis, [value for curve in shown for value in curve])
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("epoch", color=FAINT)
    axis.set_ylabel("pinball loss, standardised", color=FAINT)
    drawing.title(figure, f"{data_set}: loss curves", "the chosen trial, and all the others in grey")
    drawing.legend(axis, figure)
    return drawing.png(figure)


def _by_step(axis: Axes, values: Mapping[str, Sequence[float]]) -> None:
    """A line a forecaster over the steps of the horizon, the challenger's widest."""
    for name, steps in values.items():
        wide = 2.4 if name == "challenger" else 1.6
        # A horizon of one step is a point, which a line alone would not show.
        marker = "o" if len(steps) == 1 else None
        label, colour = drawing.spoken(name), COLOURS.get(name, INK)
        axis.plot(
            np.arange(1, len(steps) + 1), steps, color=colour, linewidth=wide, marker=marker, label=label
        )
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("steps ahead", color=FAINT)


def apart(windows: Windows, series: int, horizon: int, most: int = 7) -> list[int]:
    """The newest windows of a series, at least a horizon apart, in the order of time."""
    chosen: list[int] = []
    own = np.flatnonzero(windows.series == series)
    for window in own[np.argsort(windows.steps[own])][::-1].tolist():
        if not chosen or windows.steps[chosen[-1]] - windows.steps[window] >= horizon:
            chosen.append(window)
        if len(chosen) == most:
            break
    return chosen[::-1]


def _loss(row: TrialRow) -> float:
    """A trial's best validation loss, also of one that was pruned; NaN where it has none."""
    return float(row.value if row.value is not None else min(row.curve, default=np.nan))


def _bars(axis: Axes, importance: Mapping[str, float]) -> None:
    names = sorted(importance, key=lambda name: importance[name])
    axis.barh(
        [drawing.spoken(name) for name in names], [importance[name] for name in names], color=BLUE, height=0.6
    )
    axis.set_xlabel("importance for the loss", color=FAINT)
    drawing.clean(axis)
    axis.grid(axis="y", visible=False)
    axis.grid(axis="x", color=GRID)


def _fan(
    axis: Axes, frequency: Frequency, times: Times, y_HQ: Floats, quantiles: Sequence[float], colour: str
) -> None:
    """Nested bands between mirrored quantiles, the median on top."""
    moments = drawing.local(frequency, times)
    levels = list(quantiles)
    marker = "o" if len(times) == 1 else None
    for low in range(len(levels) // 2):
        high = len(levels) - 1 - low
        share = f"{levels[high] - levels[low]:.0%} of outcomes"
        # Opaque, so that the legend's patches have the bands' own colours.
        shade = _tint(colour, 0.82 - 0.18 * low)
        axis.fill_between(moments, y_HQ[:, low], y_HQ[:, high], color=shade, linewidth=0, label=share)
    median = y_HQ[:, levels.index(0.5)]
    axis.plot(moments, median, color=colour, linewidth=1.8, marker=marker, label="forecast (median)")


def _tint(colour: str, white: float) -> tuple[float, float, float]:
    """The colour mixed with a share of white."""
    red, green, blue = (part + (1 - part) * max(white, 0.2) for part in to_rgb(colour))
    return red, green, blue


def _times(panel: Panel, first: int, count: int) -> Times:
    return panel.frequency.times(panel.frequency.shift(panel.start, first), count)


def _clip(axis: Axes, losses: Sequence[float]) -> None:
    """Keep a few bad epochs from flattening every curve."""
    finite = np.array([loss for loss in losses if np.isfinite(loss)])
    if len(finite):
        low, high = finite.min(), np.quantile(finite, 0.95)
        axis.set_ylim(low - 0.08 * (high - low + 1e-9), high + 0.15 * (high - low + 1e-9))

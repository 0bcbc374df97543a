"""The figures of a comparison's page (plotly): one look, colours that the colour-blind can tell apart.

Axes: W windows, H horizon steps, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from data.panel import Floats
from lstm.comparison.recommendation import spoken
from lstm.comparison.results import Comparison, Result
from lstm.evaluation.significance import Estimate
from lstm.tracking.drawing import AMBER, BLUE, GREY, TEAL
from lstm.tracking.report import apart

SKY, PINK, MUTED = "#56b4e9", "#cc79a7", "#8b929e"
COLOURS = {
    "lstm": BLUE,
    "gru": AMBER,
    "rnn": SKY,
    "transformer": PINK,
    "linear": TEAL,
    "seasonal_naive": GREY,
}
MARKERS = {"lstm": "circle", "gru": "square", "rnn": "diamond", "transformer": "star", "linear": "cross"}
OBSERVED = "observed"
"""The trace that is drawn in the page's own ink."""

_GRID = "rgba(128, 134, 145, 0.22)"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


def accuracy(comparison: Comparison) -> go.Figure:
    """The MAE of every forecaster with its interval, the best on top."""
    figure = _ranking(comparison, lambda one: one.mae)
    figure.update_xaxes(title="MAE, standard deviations of the target")
    return figure


def behind(comparison: Comparison) -> go.Figure:
    """By how much each is worse than the best, with the interval of that difference."""
    best = comparison.favourites[0]

    def share(one: Result) -> Estimate:
        found = comparison.recommendation.behind.get(one.network, Estimate(0.0, 0.0, 0.0))
        return Estimate(*(value / best.mae.mean for value in (found.mean, found.low, found.high)))

    figure = _ranking(comparison, share)
    figure.add_vline(x=0, line={"color": MUTED, "width": 1, "dash": "dot"})
    figure.update_xaxes(title="more error than the best", tickformat=".0%")
    return figure


def error_by_lookback(comparison: Comparison) -> go.Figure:
    """MAE against lookback; bars from the best to the worst seed."""

    def bars(one: Result) -> tuple[float, float]:
        return max(one.seeds) - one.mae.mean, one.mae.mean - min(one.seeds)

    figure = _by_lookback(comparison.results, lambda one: one.mae.mean, bars)
    (naive,) = (one for one in comparison.results if one.network == "seasonal_naive")
    figure.add_hline(
        y=naive.mae.mean,
        line={"color": GREY, "width": 2, "dash": "dash"},
        annotation={"text": "seasonal naive", "font": {"color": GREY}, "xanchor": "right"},
    )
    figure.update_yaxes(title="MAE, standardised")
    return figure


def seconds_by_lookback(comparison: Comparison) -> go.Figure:
    """Seconds of a training epoch against lookback."""
    figure = _by_lookback(_measured(comparison), lambda one: one.cost.epoch_seconds if one.cost else np.nan)
    figure.update_yaxes(title="seconds", rangemode="tozero")
    return figure


def memory_by_lookback(comparison: Comparison) -> go.Figure:
    """Memory that a training adds, against lookback."""
    figure = _by_lookback(
        _measured(comparison), lambda one: one.cost.training_megabytes if one.cost else np.nan
    )
    figure.update_yaxes(title="MiB", rangemode="tozero")
    return figure


def error_by_cost(comparison: Comparison) -> go.Figure:
    """MAE against the seconds of one whole training."""
    figure = _figure(340)
    for one in comparison.favourites:
        figure.add_scatter(
            # A logarithmic axis has no zero: what needs no training stands at its left edge.
            x=[max(one.seconds, 1e-3)],
            y=[one.mae.mean],
            mode="markers",
            name=spoken(one.network),
            marker={**_marker(one.network), "size": 13},
            hovertemplate=f"%{{y:.4f}}, {one.seconds:.3g} s",
        )
    figure.update_xaxes(title="seconds of one training (logarithmic)", type="log", dtick=1)
    figure.update_yaxes(title="MAE, standardised")
    figure.update_layout(hovermode="closest")
    return figure


def error_by_step(comparison: Comparison) -> go.Figure:
    """MAE of each horizon step."""
    figure = _figure(340)
    for one in comparison.favourites:
        steps = list(range(1, len(one.mae_by_step) + 1))
        _line(figure, one, steps, one.mae_by_step, mode="lines" if len(steps) > 1 else "markers")
    figure.update_xaxes(title="steps ahead")
    figure.update_yaxes(title="MAE, standardised", rangemode="tozero")
    return figure


def coverage(comparison: Comparison) -> go.Figure:
    """How many targets lie within the outermost quantiles, beside how many should."""
    levels = comparison.bench.levels
    nominal = levels[-1] - levels[0]
    figure = _ranking(comparison, lambda one: Estimate(one.coverage, np.nan, np.nan))
    figure.add_vline(x=nominal, line={"color": MUTED, "width": 1.5, "dash": "dash"})
    figure.update_xaxes(title=f"outcomes inside the {nominal:.0%} interval", tickformat=".1~%")
    return figure


def forecasts(comparison: Comparison, first: str) -> go.Figure:
    """The newest judge windows of the first series, a fan a forecaster; buttons choose which.

    Args:
        first: the network that is shown at first.
    """
    bench, panel = comparison.bench, comparison.ground.panel
    horizon, frequency = bench.y_WH.shape[1], panel.frequency
    chosen = apart(bench.windows, int(bench.windows.series[0]), horizon)

    def times(window: int) -> list[Any]:
        begin = frequency.shift(panel.start, int(bench.windows.steps[window]) + 1)
        moments: list[Any] = frequency.local(frequency.times(begin, horizon)).tolist()
        return moments

    figure = _figure(430)
    for one in comparison.favourites:
        visible = one.network == first
        _fan(
            figure,
            one,
            bench.levels,
            [(times(window), one.forecast_WHQ[window]) for window in chosen],
            visible,
        )
    x, y = [], []
    for window in chosen:
        x += times(window)
        y += bench.y_WH[window].tolist()
    figure.add_scatter(x=x, y=y, mode="lines", name=OBSERVED, line={"width": 1.6, "color": MUTED})
    each = len(figure.data) // len(comparison.favourites)
    buttons = [
        {
            "label": spoken(one.network),
            "method": "restyle",
            "args": ["visible", [n // each == place for n in range(len(figure.data) - 1)] + [True]],
        }
        for place, one in enumerate(comparison.favourites)
    ]
    place = [one.network for one in comparison.favourites].index(first)
    figure.update_layout(
        updatemenus=[
            {
                "buttons": buttons,
                "active": place,
                "type": "dropdown",
                "x": 0,
                "xanchor": "left",
                "y": 1.02,
                "yanchor": "bottom",
                "bgcolor": "#ffffff",
                "font": {"color": "#1f2430"},
                "bordercolor": MUTED,
            }
        ],
        margin={"t": 48},
    )
    name = panel.series[int(bench.windows.series[0])]
    figure.update_yaxes(title=f"{panel.target}, {name}" if name else panel.target)
    return figure


def label(one: Result) -> str:
    """``GRU, 168``; the seasonal naive has no lookback to choose."""
    name = spoken(one.network)
    return name if one.network == "seasonal_naive" else f"{name}, {one.lookback}"


def _ranking(comparison: Comparison, value: Callable[[Result], Estimate]) -> go.Figure:
    """A row a forecaster, the best on top, with a point and its interval where it has one."""
    figure = _figure(90 + 44 * len(comparison.favourites))
    for one in comparison.favourites[::-1]:
        found = value(one)
        errors: dict[str, Any] = {"type": "data", "symmetric": False, "thickness": 2, "width": 5}
        if np.isfinite(found.low):
            errors |= {"array": [found.high - found.mean], "arrayminus": [found.mean - found.low]}
        figure.add_scatter(
            x=[found.mean],
            y=[label(one)],
            error_x=errors,
            mode="markers",
            marker={**_marker(one.network), "size": 12},
            hovertemplate="%{x}<extra></extra>",
            showlegend=False,
        )
    figure.update_yaxes(showgrid=False)
    return figure


def _fan(
    figure: go.Figure,
    one: Result,
    levels: Sequence[float],
    windows: Sequence[tuple[list[Any], Floats]],
    visible: bool,
) -> None:
    """Bands between mirrored quantiles and the median, of windows one after the other."""
    colour = COLOURS.get(one.network, MUTED)
    for low in range(len(levels) // 2):
        high = len(levels) - 1 - low
        x, y = [], []
        for moments, y_HQ in windows:
            x += [*moments, *moments[::-1], None]
            y += [*y_HQ[:, low].tolist(), *y_HQ[::-1, high].tolist(), None]
        figure.add_scatter(
            x=x,
            y=y,
            fill="toself",
            fillcolor=_transparent(colour, 0.18 + 0.14 * low),
            line={"width": 0},
            mode="lines",
            name=f"{levels[high] - levels[low]:.0%} of outcomes",
            hoverinfo="skip",
            visible=visible,
        )
    x, y = [], []
    for moments, y_HQ in windows:
        x += [*moments, None]
        y += [*y_HQ[:, list(levels).index(0.5)].tolist(), None]
    mode = "lines" if len(windows[0][0]) > 1 else "markers"
    figure.add_scatter(
        x=x,
        y=y,
        mode=mode,
        name=f"{spoken(one.network)} (median)",
        line={"width": 2.2, "color": colour},
        visible=visible,
    )


def _by_lookback(
    results: Sequence[Result],
    value: Callable[[Result], float],
    bars: Callable[[Result], tuple[float, float]] | None = None,
) -> go.Figure:
    """A line for each network that has lookbacks."""
    figure = _figure(340)
    lookbacks = sorted({one.lookback for one in results if one.network != "seasonal_naive"})
    for network in dict.fromkeys(one.network for one in results if one.network != "seasonal_naive"):
        own = sorted((one for one in results if one.network == network), key=lambda one: one.lookback)
        errors = None
        if bars is not None:
            ups, downs = zip(*(bars(one) for one in own), strict=True)
            errors = {"type": "data", "array": ups, "arrayminus": downs, "thickness": 1, "width": 3}
        _line(figure, own[0], [one.lookback for one in own], [value(one) for one in own], errors=errors)
    figure.update_xaxes(
        title="lookback, steps (logarithmic)", type="log", tickvals=lookbacks, ticktext=lookbacks
    )
    return figure


def _line(
    figure: go.Figure,
    one: Result,
    x: Sequence[Any],
    y: Sequence[float],
    mode: str = "lines+markers",
    errors: dict[str, Any] | None = None,
) -> None:
    dash = "dash" if one.network == "seasonal_naive" else "solid"
    figure.add_scatter(
        x=x,
        y=y,
        mode=mode,
        name=spoken(one.network),
        error_y=errors,
        line={"color": COLOURS.get(one.network, MUTED), "width": 2, "dash": dash},
        marker={**_marker(one.network), "size": 8},
        hovertemplate="%{y:.4g}",
    )


def _measured(comparison: Comparison) -> list[Result]:
    return [one for one in comparison.results if one.cost is not None]


def _marker(network: str) -> dict[str, Any]:
    return {"color": COLOURS.get(network, MUTED), "symbol": MARKERS.get(network, "circle-open")}


def _figure(height: int) -> go.Figure:
    axis = {"gridcolor": _GRID, "zeroline": False, "automargin": True, "linecolor": _GRID}
    return go.Figure(
        layout={
            "height": height,
            "margin": {"l": 8, "r": 16, "t": 12, "b": 8},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": _FONT, "size": 13, "color": "#5b6370"},
            "xaxis": axis,
            "yaxis": axis,
            "hovermode": "x unified" if height in (340, 430) else "closest",
            "legend": {"orientation": "h", "yanchor": "top", "y": -0.22, "x": 0},
        }
    )


def _transparent(colour: str, opacity: float) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity:.2f})"

"""Pictures of what `lstm.training.diagnostics` finds, as PNG: gates, gradients, importance.

Axes: T recurrent steps, U units, R repeats.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator, PercentFormatter

from data.panel import Floats, Integers, Panel
from lstm.tracking import drawing
from lstm.tracking.drawing import AMBER, BLUE, FAINT, GREY, GRID, INK, RED, TEAL
from lstm.training.diagnostics.gates import Gates
from lstm.training.diagnostics.gradients import EXPLODING, VANISHING, Gradients
from lstm.training.diagnostics.importance import Importance
from lstm.windows import Windows

_PURPOSE = {
    "input_gate": "what to write",
    "forget_gate": "what to keep",
    "output_gate": "what to show",
    "reset_gate": "what of the past enters the candidate",
    "update_gate": "what to keep",
    "cell_state": "the memory",
    "hidden_state": "the memory",
}
# Few enough shades that a picture stays small.
_OPEN = LinearSegmentedColormap.from_list("open", ["#f8fafc", BLUE, "#172554"], N=16)
_SIGNED = LinearSegmentedColormap.from_list("signed", [AMBER, "#f8fafc", TEAL], N=21)
_NETWORKS = {VANISHING: GREY, "RNN": INK, "GRU": TEAL, "LSTM": BLUE, EXPLODING: RED}
# Below it a gradient in float32 is as good as none; above it a training is lost.
_FAINTEST, _LOST = 1e-12, 100.0
_MOST_BARS = 14


def gate_picture(panel: Panel, window: Windows, lookback: int, gates: Gates) -> bytes:
    """The series over one window, and below it each gate and the state, a row a unit.

    Args:
        window: the one that the gates are of.
    """
    [origin], [series], [step] = window.origins, window.series, window.steps
    names = [*gates.gates, gates.state_name]
    figure = drawing.figure(2.4 + 1.35 * len(names))
    top, *below = figure.subplots(len(names) + 1, 1, sharex=True, height_ratios=[1.3, *[1] * len(names)])
    times = panel.frequency.times(panel.frequency.shift(panel.start, int(step) + 1 - lookback), lookback + 1)
    drawing.clean(top)
    drawing.observed(top, panel.frequency, times[:-1], panel.values[origin + 1 - lookback : origin + 1, 0])
    drawing.date_axis(top, panel.target, panel.series[series])
    edges = drawing.local(panel.frequency, times[:: gates.segment])
    order = _longest_memory_first(gates)
    for axis, name in zip(below, names, strict=True):
        part_UT = gates.parts_TU[name].T[order]
        is_state = name == gates.state_name
        most = max(float(np.quantile(np.abs(part_UT), 0.995)), 1e-6)
        mesh = axis.pcolormesh(
            edges,
            np.arange(len(order) + 1),
            part_UT[::-1],
            cmap=_SIGNED if is_state else _OPEN,
            vmin=-most if is_state else 0,
            vmax=most if is_state else 1,
            rasterized=True,
        )
        mean = "" if is_state else f"; open {part_UT.mean():.0%} on average"
        axis.set_title(
            f"{drawing.spoken(name)}: {_PURPOSE[name]}{mean}", loc="left", fontsize=10, color=INK, pad=4
        )
        axis.spines[:].set_visible(False)
        axis.tick_params(colors=FAINT, labelsize=9, length=0)
        axis.set_yticks([])
        axis.set_ylabel(f"{len(order)} units", color=FAINT)
        bar = figure.colorbar(mesh, ax=axis, pad=0.01, aspect=9)
        bar.outline.set_visible(False)
        bar.locator = MaxNLocator(4, symmetric=is_state)
        bar.ax.tick_params(colors=FAINT, labelsize=8, length=0)
    layer = "" if gates.layers == 1 else f", the last of {gates.layers} layers"
    reads = "" if gates.segment == 1 else f", {gates.segment} steps at a time"
    drawing.title(
        figure,
        f"{panel.data_set}: what the {gates.cell.upper()} does with its last {lookback} steps",
        f"up to {panel.frequency.format(times[-2])}{reads}{layer}; a row a unit, the longest memory on top",
    )
    return drawing.png(figure)


def gradient_picture(gradients: Gradients, data_set: str) -> bytes:
    """What each lag adds to the gradient, cell by cell; and training with and without clipping."""
    figure = drawing.figure(4.6)
    lags, training = figure.subplots(1, 2, width_ratios=(3, 2))
    for name, colour in _NETWORKS.items():
        shown = _logarithmic(gradients.by_lag_K[name])
        wide = 2.4 if name == "LSTM" else 1.6
        lags.plot(np.arange(len(shown)), shown, color=colour, linewidth=wide, label=name)
    clipped = _logarithmic(gradients.by_lag_K[EXPLODING] * gradients.factor(EXPLODING))
    lags.plot(
        np.arange(len(clipped)),
        clipped,
        color=RED,
        linewidth=1.4,
        linestyle=(0, (4, 2)),
        label=f"the same, clipped to {gradients.clip:g}",
    )
    lags.set_yscale("log")
    lags.set_ylim(bottom=_FAINTEST)
    lags.set_xlabel("lag, steps before the newest", color=FAINT)
    lags.set_ylabel("part of the gradient, norm", color=FAINT)
    lags.xaxis.set_major_locator(MaxNLocator(integer=True))
    for label, losses_S in gradients.losses_S.items():
        shown = _logarithmic(losses_S)
        line = "-" if label == "not clipped" else (0, (4, 2))
        steps = np.arange(1, len(shown) + 1)
        training.plot(steps, shown, color=RED, linestyle=line, linewidth=1.6, label=label)
    training.legend(loc="center right", frameon=False, fontsize=9, labelcolor=INK)
    training.set_yscale("log")
    lowest = min(losses_S[losses_S > 0].min(initial=_LOST) for losses_S in gradients.losses_S.values())
    training.set_ylim(lowest / 3, _LOST)
    training.minorticks_off()
    training.set_xlabel("step of gradient descent", color=FAINT)
    training.set_ylabel("squared error", color=FAINT)
    for axis in (lags, training):
        drawing.clean(axis)
    drawing.title(figure, f"{data_set}: how far back the gradient reaches", "before training, by cell")
    training.set_title(f"training the {EXPLODING}", loc="left", fontsize=10, color=FAINT, pad=10)
    drawing.legend(lags, figure)
    return drawing.png(figure)


def importance_picture(importance: Importance, data_set: str, name: str) -> bytes:
    """By how much the error grows without each column or cycle, and without each block of lags.

    Args:
        name: of the forecaster.
    """
    figure = drawing.figure(4.6)
    columns, lags = figure.subplots(1, 2, width_ratios=(3, 4))
    ranked = sorted(importance.columns_R, key=lambda key: importance.columns_R[key].mean())[-_MOST_BARS:]
    _bars(columns, [drawing.spoken(key) for key in ranked], [importance.share(key) for key in ranked])
    columns.set_xlabel("error grows by", color=FAINT)
    newest_last = list(importance.lags_R)[::-1]
    _bars(lags, [_block(*lag) for lag in newest_last], [importance.share(lag) for lag in newest_last])
    lags.set_xlabel("error grows by", color=FAINT)
    lags.set_ylabel("steps back, all columns", color=FAINT)
    drawing.title(
        figure,
        f"{data_set}: what the {name}'s forecasts rest on",
        f"exchanged among {importance.windows} judge windows, one at a time",
    )
    return drawing.png(figure)


def _bars(axis: Axes, labels: Sequence[str], shares_R: Sequence[Floats]) -> None:
    """A bar for the mean and a dot for each repeat; the first at the bottom."""
    drawing.clean(axis)
    axis.barh(labels, [float(share_R.mean()) for share_R in shares_R], color=BLUE, height=0.6)
    for place, share_R in enumerate(shares_R):
        axis.plot(share_R, np.full(len(share_R), place), ".", color=INK, markersize=3)
    axis.axvline(0, color=FAINT, linewidth=0.8)
    axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.grid(axis="y", visible=False)
    axis.grid(axis="x", color=GRID)


def _block(nearest: int, farthest: int) -> str:
    return f"{nearest}" if nearest == farthest else f"{nearest}-{farthest}"


def _longest_memory_first(gates: Gates) -> Integers:
    """Units by what they keep from step to step; without such a gate, by how slowly their state changes."""
    kept_U = gates.kept
    if kept_U is None:
        kept_U = -np.abs(np.diff(gates.parts_TU[gates.state_name], axis=0)).sum(axis=0)
    return np.argsort(-kept_U, kind="stable")


def _logarithmic(values: Floats) -> Floats:
    """What a logarithmic axis can show; NaN for the rest."""
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)

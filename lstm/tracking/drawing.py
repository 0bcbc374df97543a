"""What all pictures share: colours, a figure and its axes, titles and legends, PNG.

Object API only, so any thread may draw.
"""

from __future__ import annotations

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from data.calendar import Frequency, Times
from data.panel import Floats

INK, FAINT, GRID = "#1f2430", "#6b7280", "#e5e7eb"
BLUE, AMBER, TEAL, GREY, RED = "#2563eb", "#d97706", "#0d9488", "#9ca3af", "#dc2626"

_TITLE: dict[str, Any] = {"ha": "left", "fontsize": 13, "fontweight": "bold", "color": INK}
_DPI = 150
_MOST_IN_A_ROW = 5


def figure(height: float) -> Figure:
    """An empty figure, so many inches high."""
    made = Figure(figsize=(9, height), dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(made)
    return made


def rows(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes one below the other, sharing the x axis."""
    made = figure(4.4 if count == 1 else 1.4 + 1.9 * count)
    axes = made.subplots(count, 1, sharex=True, squeeze=False)[:, 0].tolist()
    for axis in axes:
        clean(axis)
    return made, axes


def clean(axis: Axes) -> None:
    """Nothing but faint horizontal lines behind the data."""
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(GRID)
    axis.tick_params(colors=FAINT, labelsize=9, length=0)
    axis.grid(axis="y", color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.margins(x=0.01)


def observed(axis: Axes, frequency: Frequency, times: Times, values: Floats) -> None:
    """What was observed, as a line."""
    axis.plot(local(frequency, times), values, color=INK, linewidth=1.2, label="observed")


def local(frequency: Frequency, times: Times) -> list[Any]:
    """Wall-clock times as matplotlib takes them."""
    moments: list[Any] = frequency.local(times).tolist()
    return moments


def date_axis(axis: Axes, target: str, series: str) -> None:
    """The y axis' name, and a date axis that says each date once."""
    axis.set_ylabel(series or spoken(target), color=FAINT)
    # matplotlib's date classes have no annotations.
    locator = AutoDateLocator(minticks=4, maxticks=9)  # type: ignore[no-untyped-call]
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


def title(figure: Figure, title: str, subtitle: str) -> None:
    """A title, and a line below it."""
    figure.suptitle(title, **_TITLE)
    figure.axes[0].set_title(subtitle, loc="left", fontsize=10, color=FAINT, pad=10)


def legend(axis: Axes, figure: Figure) -> None:
    """One entry for each label, below the axes, in one row or two."""
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    if handles:
        columns = len(handles) if len(handles) <= _MOST_IN_A_ROW else -(-len(handles) // 2)
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=columns,
            frameon=False, fontsize=9, labelcolor=INK,
        )  # fmt: skip


def spoken(name: str) -> str:
    """A name of the code as words."""
    return name.replace("_", " ")


def png(figure: Figure) -> bytes:
    """The figure as a PNG: the same picture is the same bytes."""
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    # Only the layout knows where the axes begin; the title begins there too, as high as it was laid.
    for text in figure.texts:
        if text.get_text() == figure.get_suptitle():
            text.set_x(figure.axes[0].get_position().x0)
    # A title that moves sideways moves nothing else; `savefig` would lay all out again, by drawing it twice.
    figure.set_layout_engine("none")
    buffer = io.BytesIO()
    # No version in the file.
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()

"""The tables as pictures: `python -m benchmarks.picture RESULTS.json FOLDER` writes one PNG a benchmark."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.results import text
from benchmarks.sweep import RIVALS

_SWEPT = {
    "sweep": "native",
    "sweep-gru": "native",
    "sweep-head": "native",
    "sweep-mixed": "mixed",
    "sweep-cuda": "persistent",
}
_OURS, _OTHER = "#1f6f8b", "#b8b8b8"


def draw(result: Mapping[str, Any], path: Path) -> None:
    """One benchmark's picture."""
    figure, axes = plt.subplots(figsize=(8, 3.2), dpi=120, layout="constrained")
    _DRAWN[result["name"]](axes, result)
    machine = result["machine"]
    # From the figure's edge: beside long names there is too little room above the axes.
    figure.suptitle(result["title"], fontsize=9, x=0.01, ha="left")
    chips = "".join(f", {chip}" for chip in machine.get("gpus", ()))
    figure.supxlabel(f"{machine['cpu']}, {machine['cores']} cores{chips}, {machine['time'][:10]}", fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    plt.close(figure)


def _bars(axes: Axes, result: Mapping[str, Any]) -> None:
    """Medians of a race, with the slowest and the fastest repeat as a line."""
    names = [f"{row[0]} ({row[1]} thread{'s' if row[1] > 1 else ''})" for row in result["rows"]]
    middle, slowest, fastest = ([row[column] for row in result["rows"]] for column in (3, 4, 5))
    lowest, highest = ([pick(pair) for pair in zip(slowest, fastest, strict=True)] for pick in (min, max))
    below = [value - low for value, low in zip(middle, lowest, strict=True)]
    above = [high - value for value, high in zip(middle, highest, strict=True)]
    colours = [_OURS if name.startswith("Nightcast") or " lane" in name else _OTHER for name in names]
    axes.barh(names, middle, xerr=[below, above], color=colours, ecolor="#555555")
    for place, (value, high) in enumerate(zip(middle, highest, strict=True)):
        axes.text(high, place, f"  {text(value)}", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(result["columns"][3], fontsize=8)
    axes.tick_params(labelsize=8)


def _gains(axes: Axes, result: Mapping[str, Any]) -> None:
    """How many times faster our kernel is, a point a cell, and the median of each hidden size."""
    ours = _SWEPT[result["name"]]
    rival, _ = RIVALS[ours]
    cells = [cell for cell in result["details"]["cells"] if ours in cell]
    sizes = sorted({(cell["module"], cell["hidden_size"]) for cell in cells})
    for shift, mode in ((-0.15, "training"), (0.15, "inference")):
        chosen = [[c[rival] / c[ours] for c in _of(cells, size, mode)] for size in sizes]
        colour = _OURS if mode == "training" else "#777777"
        places = [place + shift for place, gains in enumerate(chosen) for _ in gains]
        axes.scatter(places, [gain for gains in chosen for gain in gains], s=9, alpha=0.5, color=colour)
        for place, gains in enumerate(chosen):
            if gains:
                line = [place + shift - 0.1, place + shift + 0.1]
                label = mode if place == 0 else None
                axes.plot(line, [median(gains)] * 2, color=colour, linewidth=3, label=label)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(range(len(sizes)), [f"{module} {size}" for module, size in sizes])
    axes.set_xlabel("module and hidden size", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylabel(f"time of {rival} / {ours}", fontsize=8)
    axes.legend(fontsize=8, frameon=False)


def _of(cells: list[dict[str, Any]], size: tuple[str, int], mode: str) -> list[dict[str, Any]]:
    return [cell for cell in cells if (cell["module"], cell["hidden_size"], cell["mode"]) == (*size, mode)]


def _searches(axes: Axes, result: Mapping[str, Any]) -> None:
    """Epochs an hour, with the trials and what a search took."""
    rows = result["rows"]
    names = [f"{row[0]}: {row[1]} trials in {text(row[4])} s" for row in rows]
    colours = [_OURS if "lanes" in name else _OTHER for name in names]
    axes.barh(names, [row[6] for row in rows], color=colours)
    for place, row in enumerate(rows):
        axes.text(row[6], place, f"  {text(row[6])}", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(result["columns"][6], fontsize=8)
    axes.tick_params(labelsize=8)


def _growth(axes: Axes, result: Mapping[str, Any]) -> None:
    """Time a window over points, a line for each number of series."""
    cases = result["details"]["cases"]
    for series in sorted({case["series"] for case in cases}):
        own = [case for case in cases if case["series"] == series]
        label = f"{series:,} series" if series > 1 else "1 series"
        axes.plot(
            [c["points"] for c in own], [c["window"] * 1e6 for c in own], "o-", label=label, markersize=4
        )
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("points", fontsize=8)
    axes.set_ylabel("µs a window", fontsize=8)
    axes.legend(fontsize=8, frameon=False)


def _apart(axes: Axes, result: Mapping[str, Any]) -> None:
    """Losses of mixed precision beside those of float32, a point a seed."""
    networks = result["details"]["networks"]
    for place, network in enumerate(networks):
        apart = [100 * (pair["auto"]["loss"] / pair["float32"]["loss"] - 1) for pair in network["seeds"]]
        axes.scatter(apart, [place] * len(apart), s=28, alpha=0.7, color=_OURS)
    axes.axvline(0, color="black", linewidth=0.8)
    widest = max(1.0, *map(abs, axes.get_xlim()))
    axes.set_xlim(-widest, widest)
    names = [f"{n['layers']} {n['cell'].upper()} layer{'s' if n['layers'] > 1 else ''}" for n in networks]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("validation loss in mixed precision over that in float32, in percent", fontsize=8)


def _moved(axes: Axes, result: Mapping[str, Any]) -> None:
    """What each network's step moves, a point a hidden size."""
    names = [row[0] for row in result["rows"]]
    counted = [row[1:-1] for row in result["rows"]]
    for place, moved in enumerate(counted):
        axes.plot(moved, [place] * len(moved), color=_OTHER, zorder=1)
    shades = ("#9cc9d6", "#4f9bb3", _OURS)
    for size, shade, moved in zip(result["columns"][1:-1], shades, zip(*counted, strict=True), strict=True):
        axes.scatter(moved, range(len(moved)), s=36, color=shade, label=size, zorder=2)
        for place, value in enumerate(moved):
            axes.annotate(
                text(value), (value, place), (0, 5), textcoords="offset points", ha="center", fontsize=7
            )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.8)
    axes.set_xlim(left=0)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("MB a lane and step", fontsize=8)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


_DRAWN: dict[str, Callable[[Axes, Mapping[str, Any]], None]] = {
    "seed": _bars,
    "seed-cuda": _bars,
    "forecast": _bars,
    "beside": _bars,
    "sweep": _gains,
    "sweep-gru": _gains,
    "sweep-head": _gains,
    "sweep-mixed": _gains,
    "sweep-cuda": _gains,
    "precision": _apart,
    "lanes": _bars,
    "lanes-cuda": _bars,
    "lanes-traffic": _moved,
    "search-cuda": _searches,
    "scale": _growth,
}


def main(results: Path, folder: Path) -> None:
    """Every benchmark in the file, as `bench-NAME.png`."""
    for name, result in json.loads(results.read_text()).items():
        draw(result, folder / f"bench-{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""`search-cuda`: trials an hour of a whole search on a GPU, one after the other and in lanes.

Unlike `lanes`, everything that a worker does is in it: the study's database, the sampler with its arms, the
pruner, heartbeats, validation, the checkpoints, all that is compiled and captured on the way. The space is
the sample's, of which a trial draws cell, layers, size, normalisation, head, dropout and learning rate.

Each search is a process of its own. Who takes long is given fewer trials. How many epochs a trial has
depends on the pruner, so trials an hour come with epochs an hour.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.contender import Contender, Process
from benchmarks.results import Cell, Result

CONTENDERS: dict[str, tuple[int, dict[str, str]]] = {
    "a plain loop": (8, {"PLAIN": "1"}),
    "one after the other": (16, {}),
    "64 lanes": (256, {"LANES": "64"}),
}
"""How many trials, and the environment."""


def run_on_cuda(threads: Sequence[int], repeats: int) -> Result:
    """The searches in turn on the first CUDA device; `threads` has no say.

    Raises:
        PeerFailed: a search ended early.
    """
    console, found = Console(stderr=True), defaultdict[str, list[dict[str, Any]]](list)
    for number in range(repeats):
        for name, (trials, environment) in CONTENDERS.items():
            contender = Contender(name, "search_nightcast", environment=environment)
            with Process(contender, {"trials": trials, "device": "cuda"}, 1) as process:
                found[name].append(process.repeat())
            console.print(f"round {number + 1} of {repeats}: {name}, {found[name][-1]['seconds']:.1f} s")
    return compared(found)


def compared(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Result:
    """The table of what each contender's searches found."""
    columns = ("", "trials", "pruned", "epochs a trial", "median, s", "trials/hour", "epochs/hour", "gain")
    rows = [_row(name, CONTENDERS[name][0], searches) for name, searches in found.items()]
    return Result(
        "search-cuda",
        "search-cuda: whole searches of the sample's space on a GPU",
        columns,
        tuple((*cells, epochs, epochs / rows[0][1]) for cells, epochs in rows),
        ("gain: epochs an hour, in those of the first line.",),
        {"searches": {name: list(searches) for name, searches in found.items()}},
    )


def _row(name: str, trials: int, searches: Sequence[Mapping[str, Any]]) -> tuple[tuple[Cell, ...], float]:
    """A line of the table up to its epochs an hour, and those."""
    seconds, epochs, pruned = (
        median(one[key] for one in searches) for key in ("seconds", "epochs", "pruned")
    )
    hours = seconds / 3600
    return (name, trials, int(pruned), epochs / trials, seconds, trials / hours), epochs / hours

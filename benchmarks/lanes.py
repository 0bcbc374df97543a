"""`lanes`: trials an hour, one after the other and many trained as one; `lanes-cuda` on a GPU.

The sample data set as a night has it (all columns), an arm of its search space (GRU, one layer, segments of a
day), and 64 trials of it that differ in hidden size, learning rate, dropout and seed, each with its own
validation after every epoch. On a GPU several processes, which share it, are tried as well, and one trial
after the other without graphs, each operation a launch, as a plain torch loop has it.

Who would take long there trains a share of them, whose time counts as often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.contender import Contender
from benchmarks.race import race
from benchmarks.results import Result, raced

TRIALS = 64
# A GPU trains as the demo does; a CPU, which needs longer for an epoch, a little of it.
ON_A_CPU = {"device": "cpu", "lookback": 168, "batch_size": 128, "windows": 1_024, "epochs": 1}
ON_A_GPU: Mapping[str, Any] = {
    "device": "cuda",
    "lookback": 336,
    "batch_size": 256,
    "windows": 6_144,
    "epochs": 5,
}


def run(threads: Sequence[int], repeats: int) -> Result:
    """The race on the CPU.

    Raises:
        PeerFailed: a contender's process ended early.
    """
    contenders = [_contender("one after the other"), *_lanes(1, 4, 16, 64)]
    return _run("lanes", "a CPU", contenders, ON_A_CPU, threads, repeats)


def run_on_cuda(threads: Sequence[int], repeats: int) -> Result:
    """The race on the first CUDA device, each process with one thread of its own.

    Raises:
        PeerFailed: a contender's process ended early.
    """
    contenders = [
        _contender("a plain loop", SHARE=16, PLAIN=1),
        _contender("one after the other", SHARE=16),
        _contender("16 processes", SHARE=2, PROCESSES=16),
        _contender("1 lane", SHARE=16, LANES=1),
        _contender("4 lanes", SHARE=4, LANES=4),
        *_lanes(16, 64),
    ]
    return _run("lanes-cuda", "a GPU", contenders, ON_A_GPU, [1], repeats)


def _run(
    name: str,
    where: str,
    contenders: Sequence[Contender],
    work: Mapping[str, Any],
    threads: Sequence[int],
    repeats: int,
) -> Result:
    task = {"trials": TRIALS, **work}
    runs = race(contenders, task, threads, repeats)
    epochs = "an epoch" if work["epochs"] == 1 else f"{work['epochs']} epochs"
    title = f"{name}: {TRIALS} trials of one arm, {epochs} of {work['windows']:,} windows each, on {where}"
    return raced(name, title, runs, "trials/hour", lambda seconds: TRIALS * 3600 / seconds, task)


def _lanes(*counts: int) -> list[Contender]:
    return [_contender(f"{count} lane{'s' if count > 1 else ''}", LANES=count) for count in counts]


def _contender(name: str, **environment: int) -> Contender:
    return Contender(
        name, "lanes_nightcast", environment={key: str(number) for key, number in environment.items()}
    )

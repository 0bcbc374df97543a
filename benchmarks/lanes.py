"""`lanes`: trials an hour, one after the other and many trained as one.

The sample data set as a night has it (all columns), an arm of its search space (GRU, one layer, a lookback of
a week in segments of a day, batches of 128), and 64 trials of it that differ in hidden size, learning rate
and dropout. A repeat trains each for one epoch of 1,024 windows.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.contender import Contender
from benchmarks.race import race
from benchmarks.results import Result, raced

TRIALS, WINDOWS = 64, 1_024
LANES = (4, 16, 64)

CONTENDERS = (
    Contender("one after the other", "lanes_nightcast", environment={"LANES": "0"}),
    Contender("1 lane", "lanes_nightcast", environment={"LANES": "1"}),
    *(Contender(f"{lanes} lanes", "lanes_nightcast", environment={"LANES": str(lanes)}) for lanes in LANES),
)


def run(threads: Sequence[int], repeats: int) -> Result:
    """The race.

    Raises:
        PeerFailed: a contender's process ended early.
    """
    task = {"trials": TRIALS, "windows": WINDOWS}
    runs = race(CONTENDERS, task, threads, repeats)
    title = f"lanes: {TRIALS} trials of one arm, an epoch of {WINDOWS:,} windows each, on a CPU"
    return raced("lanes", title, runs, "trials/hour", lambda seconds: TRIALS * 3600 / seconds, task)

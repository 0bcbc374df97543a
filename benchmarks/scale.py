"""`scale`: what a window costs, and how much memory, as the data grows.

Each case is a process of its own, so that its peak memory is its own (`benchmarks.peers.scale_case`). The
data is the panel's values, 8 bytes a point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

from benchmarks.contender import Contender, Process
from benchmarks.results import Result
from lstm.settings import BRIEF_WAIT

SERIES = (1, 10, 100, 1_000, 10_000)
POINTS = (100_000, 1_000_000, 10_000_000)
# A series needs a lookback, a horizon, and some more to choose windows from.
LEAST_STEPS = 100

# What is asked for: time a window within 20 % of the smallest panel's; from 1e6 to 1e7 points, peak memory
# grows by less than twice what the data grows.
MOST_TIME, MOST_MEMORY = 1.2, 2.0


@dataclass(frozen=True)
class Case:
    """One panel.

    Args:
        series: how many.
        points: of all series together.
        window: seconds of training, a window.
        preparation: seconds to scale the panel and index its windows.
        data: bytes of the panel's values.
        peak: bytes that the process held at most.
    """

    series: int
    points: int
    window: float
    preparation: float
    data: int
    peak: int


def run(threads: Sequence[int], repeats: int) -> Result:
    """Every case, one after the other, with the first number of threads.

    Raises:
        PeerFailed: a case's process ended early, for want of memory for example.
    """
    cases = [
        _measure(series, points, threads[0], repeats)
        for series in SERIES
        for points in POINTS
        if points >= LEAST_STEPS * series
    ]
    columns = (
        "series",
        "points",
        "µs a window",
        "of the smallest",
        "preparation, s",
        "peak, MiB",
        "growth of peak / of data",
    )
    rows = []
    for case in cases:
        smaller = before(cases, case)
        rows.append(
            (
                f"{case.series:,}",
                case.points,
                case.window * 1e6,
                case.window / smallest(cases, case).window,
                case.preparation,
                case.peak / 2**20,
                "" if smaller is None else growth(smaller, case),
            )
        )
    title = "scale: the same training, 6,144 windows an epoch, on more and more data"
    details = {"cases": [asdict(case) for case in cases], "threads": threads[0]}
    return Result("scale", title, columns, tuple(rows), verdict(cases), details)


def smallest(cases: Sequence[Case], case: Case) -> Case:
    """The smallest panel of as many series."""
    return min((other for other in cases if other.series == case.series), key=lambda other: other.points)


def before(cases: Sequence[Case], case: Case) -> Case | None:
    """The next smaller panel of as many series."""
    smaller = [other for other in cases if other.series == case.series and other.points < case.points]
    return max(smaller, key=lambda other: other.points, default=None)


def growth(smaller: Case, larger: Case) -> float:
    """Bytes of peak memory for each byte that the data grew by."""
    return (larger.peak - smaller.peak) / (larger.data - smaller.data)


def verdict(cases: Sequence[Case]) -> tuple[str, ...]:
    """Whether what is asked for holds, and where it does not."""
    slow = [case for case in cases if case.window > MOST_TIME * smallest(cases, case).window]
    fat = [
        case
        for case in cases
        if case.points == max(POINTS)
        and (smaller := before(cases, case)) is not None
        and growth(smaller, case) >= MOST_MEMORY
    ]
    time = f"Time a window within {MOST_TIME - 1:.0%} of the smallest panel's: {_holds(slow)}."
    memory = (
        f"Peak memory grows by less than {MOST_MEMORY:g} times the data, up to 1e7 points: {_holds(fat)}."
    )
    return time, memory


def _holds(failing: Sequence[Case]) -> str:
    if not failing:
        return "yes"
    return "no, not for " + ", ".join(f"{case.series:,} series of {case.points:,} points" for case in failing)


def _measure(series: int, points: int, threads: int, repeats: int) -> Case:
    contender = Contender(f"{series} series, {points} points", "scale_case", environment=BRIEF_WAIT)
    with Process(contender, {"series": series, "points": points}, threads) as process:
        answers = [process.repeat() for _ in range(repeats)]
    last = answers[-1]
    return Case(
        series=series,
        points=points,
        window=median(answer["seconds"] / answer["windows"] for answer in answers),
        preparation=last["preparation"],
        data=last["data"],
        peak=last["peak"],
    )

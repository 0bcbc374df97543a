"""A race: contenders in turn, round by round, so that whatever slows the machine down slows them all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.contender import Contender, Process

# After this many rounds a variant goes on only if it is this close to the fastest one of its contender.
_PROBES = 2
_CLOSE = 1.15


@dataclass(frozen=True)
class Run:
    """What one variant of a contender took.

    Args:
        name: the contender's.
        threads: of its process.
        option: its variant.
        first: seconds of the untimed first repeat, with everything that is compiled or set up once.
        seconds: of every timed repeat.
        versions: of the packages at work.
    """

    name: str
    threads: int
    option: Mapping[str, Any]
    first: float
    seconds: tuple[float, ...]
    versions: Mapping[str, str]

    @property
    def median(self) -> float:
        """Seconds."""
        return median(self.seconds)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe, with the median."""
        return {**asdict(self), "seconds": list(self.seconds), "median": self.median}


def race(
    contenders: Sequence[Contender], task: Mapping[str, Any], threads: Sequence[int], repeats: int
) -> list[Run]:
    """Every variant of every contender with each number of threads, all alive at once.

    Each round takes the variants in turn, beginning with another one. After two rounds those that are clearly
    not their contender's best (by more than 15 %) drop out; they keep their two repeats.

    Args:
        task: what every contender is asked to do; its variant's options are added.

    Raises:
        PeerFailed: a contender's process ended early.
    """
    entries = [
        (contender, option, number)
        for contender in contenders
        for option in contender.options
        for number in threads
    ]
    console = Console(stderr=True)
    with ExitStack() as stack:
        processes = []
        for contender, option, number in entries:
            process = stack.enter_context(Process(contender, {**task, **option}, number))
            processes.append(process)
            console.print(
                f"warm: {contender.name} {dict(option) or ''}, threads {number}, {process.first:.1f} s"
            )
        seconds: list[list[float]] = [[] for _ in entries]
        going = list(range(len(entries)))
        for number in range(repeats):
            if number == _PROBES:
                going = close([contender.name for contender, _, _ in entries], seconds)
            for index in rotated(going, number):
                seconds[index].append(processes[index].repeat()["seconds"])
            console.print(f"round {number + 1} of {repeats}: {len(going)} variants")
        return [
            Run(contender.name, number, option, process.first, tuple(taken), process.versions)
            for (contender, option, number), process, taken in zip(entries, processes, seconds, strict=True)
        ]


def close(names: Sequence[str], seconds: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the variants that may be the fastest of their contender, by their fastest repeat."""
    best = {name: min(min(s) for n, s in zip(names, seconds, strict=True) if n == name) for name in names}
    return [i for i, (n, s) in enumerate(zip(names, seconds, strict=True)) if min(s) <= _CLOSE * best[n]]


def fastest(runs: Sequence[Run]) -> list[Run]:
    """The best variant of each contender by its median, in the order of the contenders.

    Only variants that ran every round are compared.
    """
    most = max(len(run.seconds) for run in runs)
    finished = [run for run in runs if len(run.seconds) == most]
    names = dict.fromkeys(run.name for run in runs)
    return [min((r for r in finished if r.name == name), key=lambda r: r.median) for name in names]


def rotated(items: Sequence[int], by: int) -> Iterator[int]:
    """The items, from the one at place `by` (counted round) on."""
    start = by % len(items)
    yield from [*items[start:], *items[:start]]

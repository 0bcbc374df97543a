"""What the contract fixed or only reports: findings that a person reads and that refuse nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something about the data that is worth knowing.

    Args:
        problem: what was found and what was done about it, in one clause without a full stop.
        series: the series id, where it concerns one.
        column: the column, where it concerns one.
        time: the first time it concerns, as text.
        count: how many rows, steps or values it concerns.
    """

    problem: str
    series: str | None = None
    column: str | None = None
    time: str | None = None
    count: int = 1

    def __str__(self) -> str:
        named = (("series", self.series), ("column", self.column), ("first at", self.time))
        where = [f"{word} {value}" for word, value in named if value]
        if self.count != 1:
            where.append(f"{self.count:,} times")
        return f"{self.problem} ({', '.join(where)})" if where else self.problem

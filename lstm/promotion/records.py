"""What the ledger's rows say: nights, champions, and decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lstm.promotion.identity import Identity

Ending = Literal["promoted", "kept", "skipped", "refused", "failed"]
Kind = Literal["promoted", "kept", "skipped", "refused", "failed", "adopted", "rolled back", "retired"]

# These have a result. Any other night may be run again under the same identity: the data may have come late.
FINAL: tuple[Ending, ...] = ("promoted", "kept")
# Nights that did what they should.
GOOD: tuple[Ending, ...] = (*FINAL, "skipped")


@dataclass(frozen=True)
class Night:
    """One night as the ledger has it; `ending` is None while it runs or after it was killed."""

    identity: Identity
    attempts: int
    process: str
    began_at: str
    ended_at: str | None
    ending: Ending | None
    reason: str
    details: Mapping[str, Any]

    @property
    def is_final(self) -> bool:
        """True where running the night again would change nothing."""
        return self.ending in FINAL


@dataclass(frozen=True)
class Champion:
    """The version that serves, the one before it, and since when."""

    data_set: str
    version: str
    previous: str | None
    decided_at: str


@dataclass(frozen=True)
class Entry:
    """One decision: the champion after it (`version`) and before it (`previous`)."""

    number: int
    data_set: str
    kind: Kind
    version: str | None
    previous: str | None
    night: str | None
    reason: str
    decided_at: str

"""Nights of two data sets and what they promote, for tests of the ledger."""

from __future__ import annotations

import textwrap

from forked import PIPE, Fork

from lstm.promotion.identity import Identity
from lstm.promotion.ledger import Ledger

NIGHT = Identity("power", "2010-11-19T20:00:00Z", "0123456789ab")
NEXT = Identity("power", "2010-11-20T20:00:00Z", "0123456789ab")
OTHER = Identity("water", "2010-11-19T20:00:00Z", "0123456789ab")


def promoted(ledger: Ledger, identity: Identity, version: str, expected: str | None) -> None:
    ledger.begin_night(identity)
    assert ledger.promote(identity, version, expected, "It is better.")


def race(url: str, body: str, count: int = 4) -> list[str]:
    """Run `body` in several processes at once; the last line that each prints."""
    code = f"import sys\nurl = sys.argv[1]\nme = sys.argv[2]\nsys.stdin.read()\n{textwrap.dedent(body)}"
    racers = [Fork(code, url, number, stdin=PIPE, stdout=PIPE) for number in range(count)]
    for racer in racers:
        racer.stdin.close()
    outputs = [racer.communicate()[0].strip().splitlines() for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * count
    return [lines[-1] for lines in outputs]

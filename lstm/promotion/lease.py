"""One night at a time per data set: a lease in the ledger's database that a dead process cannot keep."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from data.processes import Process, is_dead, this_process
from lstm.promotion.database import Database, LedgerError, LedgerUnreachable, leases
from lstm.promotion.ledger import Ledger

logger = logging.getLogger(__name__)


class LeaseHeld(LedgerError):
    """Another night of the same data set is running."""


class LeaseLost(LedgerError):
    """The lease could not be renewed in time; another night may be running."""


class Lease:
    """A held lease. It is renewed by a thread until it is released."""

    def __init__(self, database: Database, data_set: str, token: str, ttl: float) -> None:
        self.data_set = data_set
        self.token = token
        self._database = database
        self._ttl = ttl
        self._renewed = time.monotonic()
        self._taken = False

    @property
    def lost(self) -> bool:
        """True once another process has it, or may have it because renewing failed for too long."""
        return self._taken or time.monotonic() - self._renewed > self._ttl

    def check(self) -> None:
        """Go on only with the lease.

        Raises:
            LeaseLost: it is lost.
        """
        if self.lost:
            raise LeaseLost(
                f"{self.data_set}: this night's lease ran out, so another may be running. "
                "Nothing was changed. Remedy: run the night again."
            )

    def renew(self) -> None:
        """Keep it for another `ttl` seconds; once lost it stays lost."""
        asked = time.monotonic()
        mine = sa.update(leases).where(leases.c.data_set == self.data_set, leases.c.token == self.token)
        with self._database.begin() as connection:
            result = connection.execute(mine.values(expires_at=self._database.clock + self._ttl))
        if result.rowcount == 1:
            self._renewed = asked
        else:
            self._taken = True

    def release(self) -> None:
        """Give it back, where it is still ours."""
        mine = sa.delete(leases).where(leases.c.data_set == self.data_set, leases.c.token == self.token)
        with self._database.begin() as connection:
            connection.execute(mine)


@contextmanager
def lease(ledger: Ledger, data_set: str, ttl: float = 60, beat: float = 15) -> Iterator[Lease]:
    """Hold the data set's lease for the length of a night.

    A process that dies loses it: at once to a newcomer on the same host, after `ttl` seconds to one
    elsewhere.

    Args:
        ttl: seconds after which a lease that is not renewed is free.
        beat: seconds between two renewals.

    Raises:
        LeaseHeld: another night of this data set is running; names its process.
    """
    held = _take(ledger.database, data_set, ttl)
    stop = threading.Event()
    thread = threading.Thread(target=_keep, args=(held, stop, beat), name=f"lease {data_set}", daemon=True)
    thread.start()
    try:
        yield held
    finally:
        stop.set()
        thread.join()
        held.release()


def _take(database: Database, data_set: str, ttl: float) -> Lease:
    row = {
        "token": uuid.uuid4().hex,
        "process": str(this_process()),
        "taken_at": database.clock,
        "expires_at": database.clock + ttl,
    }
    with database.begin() as connection:
        holder = _holder(connection, data_set)
        free = leases.c.expires_at < database.clock
        if holder is not None and is_dead(Process.parse(holder.process)):
            logger.info("%s: taking over the lease of a dead process, %s", data_set, holder.process)
            free = sa.or_(free, leases.c.token == holder.token)
        token = connection.scalar(
            database.insert(leases)
            .values(data_set=data_set, **row)
            .on_conflict_do_update(index_elements=[leases.c.data_set], set_=row, where=free)
            .returning(leases.c.token)
        )
        if token is not None:
            return Lease(database, data_set, token, ttl)
        holder = _holder(connection, data_set)
    who = "another process" if holder is None else f"process {holder.process} (host:pid:start)"
    raise LeaseHeld(
        f"{data_set}: a night is already running, in {who}. Remedy: wait for it to end, or stop that process."
    )


def _holder(connection: sa.Connection, data_set: str) -> sa.Row[tuple[str, str]] | None:
    row = sa.select(leases.c.token, leases.c.process).where(leases.c.data_set == data_set)
    return connection.execute(row).one_or_none()


def _keep(held: Lease, stop: threading.Event, beat: float) -> None:
    """Renew until told to stop. A database that is away for less than the lease's length does no harm."""
    while not stop.wait(beat):
        try:
            held.renew()
        except LedgerUnreachable as error:
            logger.warning("%s: the lease could not be renewed: %s", held.data_set, error)

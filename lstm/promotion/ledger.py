"""The ledger: every night and every decision, and which version is the champion.

The champion is a row, changed in one transaction that compares before it sets; the registry's alias
follows it (`lstm.tracking.registry`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from data.processes import this_process
from lstm.promotion.database import Database, LedgerError, champions, decisions, nights
from lstm.promotion.identity import Identity
from lstm.promotion.records import FINAL, Champion, Ending, Entry, Kind, Night


class ChampionChanged(LedgerError):
    """The champion is not the one that the decision was made against; nothing was changed."""


class Ledger:
    """Nights, decisions and champions in a database; safe for many processes and hosts.

    Args:
        url: as of `Database`, which also says what is raised.
    """

    def __init__(self, url: str) -> None:
        self.database = Database(url)

    def begin_night(self, identity: Identity) -> Night:
        """Note that this process works on a night. A night with a final ending stays as it is."""
        fresh = {"process": str(this_process()), "began_at": _now()}
        reopened = {"ended_at": None, "ending": None, "reason": ""}
        statement = self.database.insert(nights).values(
            key=identity.key,
            data_set=identity.data_set,
            as_of=identity.as_of,
            config_hash=identity.config_hash,
            attempts=1,
            details="{}",
            **fresh,
            **reopened,
        )
        unfinished = sa.or_(nights.c.ending.is_(None), nights.c.ending.not_in(FINAL))
        with self.database.begin() as connection:
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=[nights.c.key],
                    set_={"attempts": nights.c.attempts + 1, **fresh, **reopened},
                    where=unfinished,
                )
            )
            return _night(connection, identity)

    def night(self, identity: Identity) -> Night | None:
        """The night, or None where it never began."""
        with self.database.begin() as connection:
            row = connection.execute(sa.select(nights).where(nights.c.key == identity.key)).one_or_none()
        return None if row is None else _to_night(row)

    def is_taken_over(self, identity: Identity) -> bool:
        """Whether another process has begun a night since, which has no result yet."""
        night = self.night(identity)
        return night is not None and _is_anothers(night)

    def end_night(
        self,
        identity: Identity,
        ending: Ending,
        reason: str,
        details: Mapping[str, Any] | None = None,
    ) -> Night:
        """Give a night its ending, and the decisions a row. Returns the night as it then stands.

        A final ending is not changed by another one: a night that has promoted stays promoted, whatever
        happens to the process afterwards. The same ending again replaces reason and details. A night
        that has its result and is run again is a *skipped* row of the decisions, and stays as it was. One
        that is another process's by now (`is_taken_over`) stays as it is.

        Args:
            details: anything worth keeping that JSON can hold; merged into what is there.

        Raises:
            LedgerError: the night never began, or the ending *promoted* was not earned by `promote`.
        """
        with self.database.begin() as connection:
            night = _night(connection, identity)
            if ending == "promoted" != night.ending:
                raise LedgerError(f"{identity.key}: only promote() ends a night as promoted.")
            if night.is_final and night.ending != ending:
                if ending == "skipped":
                    _write(connection, identity.data_set, "skipped", reason, night=identity.key)
                return night
            if _is_anothers(night):
                return night
            if night.ending != ending:
                _write(connection, identity.data_set, ending, reason, night=identity.key)
            _end(connection, night, ending, reason, details or {})
            return _night(connection, identity)

    def fail_unended(self, data_set: str) -> tuple[str, ...]:
        """End as *failed* every night of a data set that began and never ended. Returns their keys.

        Call it with the data set's lease held, which says that none of them is alive.
        """
        unended = sa.select(nights).where(nights.c.data_set == data_set, nights.c.ending.is_(None))
        with self.database.begin() as connection:
            killed = [_to_night(row) for row in connection.execute(unended.with_for_update())]
            for night in killed:
                reason = f"Its process, {night.process}, was killed."
                _write(connection, data_set, "failed", reason, night=night.identity.key)
                _end(connection, night, "failed", reason, {})
        return tuple(night.identity.key for night in killed)

    def save_seen(self, identity: Identity, seen: str) -> None:
        """Keep what the contract saw, as JSON text, for the next night to compare with."""
        with self.database.begin() as connection:
            connection.execute(sa.update(nights).where(nights.c.key == identity.key).values(seen=seen))

    def last_seen(self, data_set: str, until: str | None = None) -> str | None:
        """What the newest night that promoted or kept saw; None before the first one.

        Args:
            until: only nights whose `as_of` is at or before this one.
        """
        wanted = [nights.c.data_set == data_set, nights.c.ending.in_(("promoted", "kept"))]
        if until is not None:
            wanted.append(nights.c.as_of <= until)
        newest = sa.select(nights.c.seen).where(*wanted, nights.c.seen.is_not(None))
        with self.database.begin() as connection:
            seen: str | None = connection.scalar(
                newest.order_by(nights.c.as_of.desc(), nights.c.ended_at.desc()).limit(1)
            )
        return seen

    def last_result(self, data_set: str) -> Night | None:
        """The night that promoted or kept last; None before the first one."""
        wanted = [nights.c.data_set == data_set, nights.c.ending.in_(("promoted", "kept"))]
        newest = sa.select(nights).where(*wanted).order_by(nights.c.ended_at.desc()).limit(1)
        with self.database.begin() as connection:
            row = connection.execute(newest).one_or_none()
        return None if row is None else _to_night(row)

    def champion(self, data_set: str) -> Champion | None:
        """The champion; None means that there is none, and never that the ledger could not be read."""
        with self.database.begin() as connection:
            row = connection.execute(
                sa.select(champions).where(champions.c.data_set == data_set)
            ).one_or_none()
        if row is None or row.version is None:
            return None
        return Champion(data_set, row.version, row.previous, row.decided_at)

    def promote(
        self,
        identity: Identity,
        version: str,
        expected: str | None,
        reason: str,
        details: Mapping[str, Any] | None = None,
    ) -> bool:
        """Make a version the champion and end the night as promoted, in one transaction.

        Args:
            version: the challenger's model version.
            expected: the champion that the gate compared with; None where there was none.

        Returns:
            False where this night has promoted before: then nothing is changed.

        Raises:
            ChampionChanged: the champion is no longer `expected`.
            LedgerError: the night never began.
        """
        with self.database.begin() as connection:
            night = _night(connection, identity)
            if night.ending == "promoted":
                return False
            self._change(
                connection, "promoted", identity.data_set, version, expected, expected, reason, identity.key
            )
            _end(connection, night, "promoted", reason, details or {})
        return True

    def adopt(self, data_set: str, version: str, expected: str | None, reason: str) -> None:
        """Record that a person made a version the champion.

        Raises:
            ChampionChanged: the champion is no longer `expected`.
        """
        with self.database.begin() as connection:
            self._change(connection, "adopted", data_set, version, expected, expected, reason)

    def rollback(self, data_set: str, reason: str) -> Champion:
        """Make the previous version the champion again.

        Raises:
            LedgerError: there is no previous version.
        """
        with self.database.begin() as connection:
            row = connection.execute(
                sa.select(champions).where(champions.c.data_set == data_set)
            ).one_or_none()
            if row is None or row.previous is None:
                raise LedgerError(
                    f"{data_set}: there is no previous version to roll back to. "
                    "Remedy: set the registry's alias `champion` to the version that should serve."
                )
            before = connection.scalar(
                sa.select(decisions.c.previous)
                .where(decisions.c.data_set == data_set, decisions.c.version == row.previous)
                .where(decisions.c.kind.in_(("promoted", "adopted")))
                .order_by(decisions.c.number.desc())
                .limit(1)
            )
            self._change(connection, "rolled back", data_set, row.previous, before, row.version, reason)
        champion = self.champion(data_set)
        assert champion is not None
        return champion

    def retire(self, data_set: str, reason: str) -> None:
        """Leave the data set without a champion; `rollback` brings it back.

        Raises:
            LedgerError: there is no champion.
        """
        champion = self.champion(data_set)
        if champion is None:
            raise LedgerError(f"{data_set}: there is no champion to retire.")
        with self.database.begin() as connection:
            version = champion.version
            self._change(connection, "retired", data_set, None, version, version, reason)

    def decisions(self, data_set: str | None = None, limit: int = 20) -> tuple[Entry, ...]:
        """The newest decisions first, of one data set or of all."""
        newest = sa.select(decisions).order_by(decisions.c.number.desc()).limit(limit)
        if data_set is not None:
            newest = newest.where(decisions.c.data_set == data_set)
        with self.database.begin() as connection:
            return tuple(Entry(**row) for row in connection.execute(newest).mappings())

    def alias(self, data_set: str) -> str | None:
        """The version that the registry's alias `champion` was last set to."""
        with self.database.begin() as connection:
            version: str | None = connection.scalar(
                sa.select(champions.c.alias).where(champions.c.data_set == data_set)
            )
        return version

    def save_alias(self, data_set: str, version: str | None) -> None:
        """Note what the registry's alias `champion` was set to."""
        statement = self.database.insert(champions).values(data_set=data_set, alias=version)
        with self.database.begin() as connection:
            connection.execute(
                statement.on_conflict_do_update(index_elements=["data_set"], set_={"alias": version})
            )

    def _change(
        self,
        connection: sa.Connection,
        kind: Kind,
        data_set: str,
        version: str | None,
        previous: str | None,
        expected: str | None,
        reason: str,
        night: str | None = None,
    ) -> None:
        """Compare the champion with `expected`, and set it, in one statement."""
        empty = self.database.insert(champions).values(data_set=data_set)
        connection.execute(empty.on_conflict_do_nothing())
        changed = connection.execute(
            sa.update(champions)
            .where(champions.c.data_set == data_set, champions.c.version.is_not_distinct_from(expected))
            .values(version=version, previous=previous, decided_at=_now())
        )
        if changed.rowcount != 1:
            found = connection.scalar(sa.select(champions.c.version).where(champions.c.data_set == data_set))
            raise ChampionChanged(
                f"{data_set}: the champion is {found or 'none'}, not {expected or 'none'}, so nothing was "
                "changed. Remedy: run the night again; it compares with the champion of then."
            )
        _write(connection, data_set, kind, reason, version=version, previous=expected, night=night)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _night(connection: sa.Connection, identity: Identity) -> Night:
    row = connection.execute(
        sa.select(nights).where(nights.c.key == identity.key).with_for_update()
    ).one_or_none()
    if row is None:
        raise LedgerError(f"{identity.key}: this night has not begun.")
    return _to_night(row)


def _is_anothers(night: Night) -> bool:
    return not night.is_final and night.process != str(this_process())


def _to_night(row: sa.Row[Any]) -> Night:
    return Night(
        identity=Identity(row.data_set, row.as_of, row.config_hash),
        attempts=row.attempts,
        process=row.process,
        began_at=row.began_at,
        ended_at=row.ended_at,
        ending=row.ending,
        reason=row.reason,
        details=json.loads(row.details),
    )


def _end(
    connection: sa.Connection, night: Night, ending: Ending, reason: str, details: Mapping[str, Any]
) -> None:
    merged = json.dumps({**night.details, **details}, allow_nan=False)
    connection.execute(
        sa.update(nights)
        .where(nights.c.key == night.identity.key)
        .values(ending=ending, reason=reason, details=merged, ended_at=night.ended_at or _now())
    )


def _write(
    connection: sa.Connection,
    data_set: str,
    kind: Kind,
    reason: str,
    *,
    version: str | None = None,
    previous: str | None = None,
    night: str | None = None,
) -> None:
    connection.execute(
        sa.insert(decisions).values(
            data_set=data_set,
            kind=kind,
            version=version,
            previous=previous,
            night=night,
            reason=reason,
            decided_at=_now(),
        )
    )

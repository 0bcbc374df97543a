"""The ledger on SQLite files and a PostgreSQL server: how nights begin and end, and what cannot be opened."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from ledgers import NEXT, NIGHT, OTHER, promoted, race

from lstm.promotion.database import LedgerError, LedgerUnreachable
from lstm.promotion.identity import Identity, to_iso
from lstm.promotion.ledger import Ledger


@pytest.fixture
def url(url: str) -> str:
    """In a folder that does not exist either, where it is a file."""
    return url.replace("/fresh.db", "/new/folder/ledger.db")


def test_a_night_that_was_killed_gets_an_ending(url: str) -> None:
    """The data set's next night gives it; nights that have ended and other data sets stay as they are."""
    ledger = Ledger(url)
    for identity in (NIGHT, NEXT, OTHER):
        process = ledger.begin_night(identity).process
    ledger.end_night(NEXT, "refused", "Stale.")
    assert ledger.fail_unended("power") == (NIGHT.key,)
    assert ledger.fail_unended("power") == ()
    [killed, stale] = ledger.decisions("power")
    assert (killed.kind, killed.night) == ("failed", NIGHT.key)
    assert killed.reason == f"Its process, {process}, was killed."
    assert (stale.kind, stale.reason) == ("refused", "Stale.")
    night, other = ledger.night(NIGHT), ledger.night(OTHER)
    assert night is not None
    assert other is not None
    assert (night.ending, night.reason, other.ending) == ("failed", killed.reason, None)
    assert night.ended_at is not None
    assert ledger.begin_night(NIGHT).ending is None


@pytest.mark.parametrize("url", ["no url", "postgresql://me:hidden@db.example.com:port/night"])
def test_a_url_that_is_none_is_a_sentence_without_it(url: str) -> None:
    with pytest.raises(LedgerError, match="NIGHTCAST_DATABASE_URL") as error:
        Ledger(url)
    assert "hidden" not in str(error.value)


@given(st.integers(0, 4_000_000_000_000_000))
def test_iso_times_are_whole_seconds_and_sort(microseconds: int) -> None:
    time = np.datetime64(microseconds, "us")
    text = to_iso(time)
    assert np.datetime64(text.removesuffix("Z")) == time.astype("datetime64[s]")
    assert text < to_iso(time + np.timedelta64(1, "s"))


def test_identity_key_is_safe_and_tells_nights_apart() -> None:
    assert NIGHT.key == "power.20101119T200000Z.0123456789ab"
    assert Identity.of("power", np.datetime64("2010-11-19T20:00:00", "us"), "0123456789ab") == NIGHT
    assert len({NIGHT.key, NEXT.key, OTHER.key}) == 3


@pytest.mark.parametrize(
    "text", ["2010-11-19", "2010-11-19T20:00:00", "2010-11-19T20:00:00+01:00", "2010-1-9T20:00:00Z"]
)
def test_identity_refuses_other_times(text: str) -> None:
    with pytest.raises(ValueError, match="2010"):
        Identity("power", text, "0")


def test_night_begins_resumes_and_ends(url: str) -> None:
    ledger = Ledger(url)
    assert ledger.night(NIGHT) is None
    first = ledger.begin_night(NIGHT)
    assert (first.identity, first.attempts, first.ending, first.is_final) == (NIGHT, 1, None, False)
    again = ledger.begin_night(NIGHT)
    assert (again.attempts, again.ending) == (2, None)
    ended = ledger.end_night(NIGHT, "kept", "Not better.", {"version": "3"})
    assert (ended.ending, ended.reason, ended.details, ended.is_final) == (
        "kept",
        "Not better.",
        {"version": "3"},
        True,
    )
    assert ended.ended_at is not None
    assert ledger.begin_night(NIGHT) == ended == ledger.night(NIGHT)
    assert ledger.night(NEXT) is None


@pytest.mark.parametrize("ending", ["refused", "failed"])
def test_refused_and_failed_nights_may_run_again(tmp_path: Path, ending: str) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.begin_night(NIGHT)
    ledger.end_night(NIGHT, ending, "Bad.", {"a": 1})
    reopened = ledger.begin_night(NIGHT)
    assert (reopened.attempts, reopened.ending, reopened.ended_at, reopened.reason) == (2, None, None, "")
    assert reopened.details == {"a": 1}
    assert ledger.end_night(NIGHT, "kept", "Fine.", {"b": 2}).details == {"a": 1, "b": 2}
    assert [entry.kind for entry in ledger.decisions("power")] == ["kept", ending]


def test_skipping_leaves_the_result_and_a_row(url: str) -> None:
    ledger = Ledger(url)
    ledger.begin_night(NIGHT)
    kept = ledger.end_night(NIGHT, "kept", "Not better.")
    assert ledger.end_night(NIGHT, "skipped", "Nothing new.") == kept
    skipped, first = ledger.decisions("power")
    assert (skipped.kind, skipped.reason, skipped.night) == ("skipped", "Nothing new.", NIGHT.key)
    assert first.kind == "kept"
    ledger.begin_night(NEXT)
    assert ledger.end_night(NEXT, "skipped", "Nothing new.").ending == "skipped"


def test_a_skipped_night_is_run_again_when_its_data_comes_late(url: str) -> None:
    ledger = Ledger(url)
    ledger.begin_night(NIGHT)
    assert not ledger.end_night(NIGHT, "skipped", "Nothing new.").is_final
    assert ledger.begin_night(NIGHT).ending is None
    assert ledger.end_night(NIGHT, "kept", "Not better.").is_final


def test_final_ending_stays(url: str) -> None:
    ledger = Ledger(url)
    promoted(ledger, NIGHT, "1", None)
    before = ledger.night(NIGHT)
    assert ledger.end_night(NIGHT, "failed", "Killed while uploading.") == before
    assert [entry.kind for entry in ledger.decisions()] == ["promoted"]
    after = ledger.end_night(NIGHT, "promoted", "Better by 3 %.", {"run_id": "r"})
    assert (after.ending, after.reason, after.details) == ("promoted", "Better by 3 %.", {"run_id": "r"})
    assert [entry.kind for entry in ledger.decisions()] == ["promoted"]


def test_only_promoting_ends_a_night_as_promoted(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    with pytest.raises(LedgerError, match="has not begun"):
        ledger.end_night(NIGHT, "kept", "")
    with pytest.raises(LedgerError, match="has not begun"):
        ledger.promote(NIGHT, "1", None, "")
    assert ledger.champion("power") is None
    ledger.begin_night(NIGHT)
    with pytest.raises(LedgerError, match="only promote"):
        ledger.end_night(NIGHT, "promoted", "I say so.")


def test_seen_is_that_of_the_newest_good_night(url: str) -> None:
    ledger = Ledger(url)
    assert ledger.last_seen("power") is None
    for identity, seen in ((NIGHT, "first"), (NEXT, "second")):
        ledger.begin_night(identity)
        ledger.save_seen(identity, json.dumps(seen))
    assert ledger.last_seen("power") is None
    ledger.end_night(NEXT, "kept", "")
    assert ledger.last_seen("power") == '"second"'
    assert ledger.last_seen("power", until=NIGHT.as_of) is None
    ledger.promote(NIGHT, "1", None, "")
    assert ledger.last_seen("power") == '"second"'
    assert ledger.last_seen("power", until=NIGHT.as_of) == '"first"'
    assert ledger.last_seen("water") is None
    third = Identity("power", "2010-11-21T20:00:00Z", "0")
    ledger.begin_night(third)
    ledger.save_seen(third, "refused")
    ledger.end_night(third, "refused", "")
    assert ledger.last_seen("power") == '"second"'


@pytest.mark.slow
def test_processes_that_open_a_fresh_database_at_once(url: str) -> None:
    body = """
    from lstm.promotion.ledger import Ledger
    print(Ledger(url).champion("power"))
    """
    assert race(url, body) == ["None"] * 4


def test_a_night_that_another_process_has_taken_over_is_ended_by_that_one_alone(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that slept, or was cut off, has lost its lease and only wakes to say that it failed."""
    ledger = Ledger(url)
    with monkeypatch.context() as patch:
        patch.setattr("lstm.promotion.ledger.this_process", lambda: "another:1:2.0")
        ledger.begin_night(NIGHT)
    taken = ledger.begin_night(NIGHT)
    with monkeypatch.context() as patch:
        patch.setattr("lstm.promotion.ledger.this_process", lambda: "another:1:2.0")
        assert ledger.end_night(NIGHT, "failed", "The lease is lost.") == taken
    assert ledger.night(NIGHT) == taken
    assert ledger.decisions("power") == ()
    assert ledger.end_night(NIGHT, "kept", "Not better.").ending == "kept"


def test_a_driver_that_gives_up_is_a_sentence(tmp_path: Path) -> None:
    database = Ledger(f"sqlite:///{tmp_path}/ledger.db").database
    with pytest.raises(LedgerUnreachable, match="connection already closed"), database.begin():
        raise sa.exc.InterfaceError("SELECT 1", {}, Exception("connection already closed"))


def test_unreachable_is_not_the_same_as_no_champion(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(f"sqlite:///{path}")
    path.write_text("This is no database, but it is long enough to be looked at as one." * 20)
    with pytest.raises(LedgerUnreachable, match="not a database"):
        ledger.champion("power")


def test_urls_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnreachable) as caught:
        Ledger("postgresql://me:secret@127.0.0.1:1/base")
    assert "secret" not in str(caught.value)
    assert "***@127.0.0.1:1/base" in str(caught.value)
    for url, words in (
        ("nonsense", "NIGHTCAST_DATABASE_URL"),
        ("mysql://h/b", "not mysql"),
        ("sqlite://", "in memory"),
    ):
        with pytest.raises(LedgerError, match=words):
            Ledger(url)
    (tmp_path / "file").touch()
    with pytest.raises(LedgerUnreachable, match="folder"):
        Ledger(f"sqlite:///{tmp_path}/file/ledger.db")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    ledger = Ledger(url)
    with ledger.database.begin() as connection:
        connection.execute(sa.text("UPDATE nightcast_schema SET version = 99"))
    with pytest.raises(LedgerError, match="written by a newer Nightcast"):
        Ledger(url)


def test_last_result_is_the_newest_that_promoted_or_kept(url: str) -> None:
    ledger = Ledger(url)
    assert ledger.last_result("power") is None
    for identity, ending in ((NEXT, "kept"), (NIGHT, "kept"), (OTHER, "kept")):
        ledger.begin_night(identity)
        ledger.end_night(identity, ending, "", {"content": identity.key})
    failed = Identity("power", "2010-11-21T20:00:00Z", "0")
    ledger.begin_night(failed)
    ledger.end_night(failed, "failed", "")
    last = ledger.last_result("power")
    assert last is not None
    assert (last.identity, last.details) == (NIGHT, {"content": NIGHT.key})

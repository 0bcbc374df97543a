"""The lease on real databases: one holder, expiry, and holders that are killed or frozen."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from forked import PIPE, Fork

from data.processes import this_process
from lstm.promotion.database import leases
from lstm.promotion.lease import LeaseHeld, LeaseLost, lease
from lstm.promotion.ledger import Ledger

HOLD = """
import sys, time
from lstm.promotion.lease import lease
from lstm.promotion.ledger import Ledger
with lease(Ledger(sys.argv[1]), "power", ttl=float(sys.argv[2]), beat=0.05) as held:
    print("held", flush=True)
    sys.stdin.readline()
    print(held.lost, flush=True)
"""


@contextmanager
def holder(url: str, ttl: float) -> Iterator[Fork]:
    """Another process that holds the lease until it reads a line."""
    process = Fork(HOLD, url, ttl, stdin=PIPE, stdout=PIPE)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def set_row(ledger: Ledger, **values: object) -> None:
    with ledger.database.begin() as connection:
        connection.execute(sa.update(leases).values(**values))


def rows(ledger: Ledger) -> int:
    with ledger.database.begin() as connection:
        return len(connection.execute(sa.select(leases)).all())


def test_held_once_and_given_back(url: str) -> None:
    ledger = Ledger(url)
    with lease(ledger, "power") as held:
        assert not held.lost
        held.check()
        with pytest.raises(LeaseHeld, match=f"power: .*process {this_process()}"), lease(ledger, "power"):
            pytest.fail("two nights of one data set")
        with lease(ledger, "water"):
            assert rows(ledger) == 2
        assert not held.lost
    assert rows(ledger) == 0
    with lease(ledger, "power"):
        assert rows(ledger) == 1


def test_given_back_after_an_exception(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt), lease(ledger, "power"):
        raise KeyboardInterrupt
    assert rows(ledger) == 0
    assert threading.active_count() == threads


@pytest.mark.slow
def test_a_killed_holder_on_this_host_is_taken_over_at_once(url: str) -> None:
    ledger = Ledger(url)
    with holder(url, ttl=3600) as other:
        with pytest.raises(LeaseHeld, match=f":{other.pid}:"), lease(ledger, "power"):
            pytest.fail("the holder lives")
        other.send_signal(signal.SIGKILL)
        other.wait()
        with lease(ledger, "power") as held:
            assert not held.lost
            assert rows(ledger) == 1


def test_a_holder_elsewhere_is_taken_over_only_after_it_expired(url: str) -> None:
    ledger = Ledger(url)
    with lease(ledger, "power", beat=3600) as held:
        set_row(ledger, process="elsewhere:1:1.00")
        with pytest.raises(LeaseHeld, match="elsewhere:1"), lease(ledger, "power"):
            pytest.fail("it has not expired")
        set_row(ledger, expires_at=ledger.database.clock - 1)
        with lease(ledger, "power") as newcomer:
            held.renew()
            assert held.lost
            assert not newcomer.lost
            with pytest.raises(LeaseLost, match=r"power: .*ran out"):
                held.check()
            held.release()
            newcomer.renew()
            assert not newcomer.lost


def test_beats_keep_it_longer_than_its_length(url: str) -> None:
    ledger = Ledger(url)
    with lease(ledger, "power", ttl=3, beat=0.1) as held:
        time.sleep(3.5)
        assert not held.lost
        with pytest.raises(LeaseHeld), lease(ledger, "power"):
            pytest.fail("it was renewed")


def test_lost_when_not_renewed_for_its_length(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    with lease(ledger, "power", ttl=2, beat=3600) as held:
        assert not held.lost
        time.sleep(2.1)
        assert held.lost
        with lease(ledger, "power"):
            assert rows(ledger) == 1


@pytest.mark.slow
def test_a_frozen_holder_finds_out_when_it_wakes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    ledger = Ledger(url)
    with holder(url, ttl=0.5) as other:
        os.kill(other.pid, signal.SIGSTOP)
        time.sleep(0.7)
        with lease(ledger, "power"):
            os.kill(other.pid, signal.SIGCONT)
            assert other.communicate("wake\n")[0] == "True\n"
            assert rows(ledger) == 1


def test_a_database_away_for_a_moment_does_no_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(f"sqlite:///{path}")
    with caplog.at_level(logging.WARNING), lease(ledger, "power", ttl=60, beat=0.05) as held:
        content = path.read_bytes()
        path.write_text("This is no database, but it is long enough to be looked at as one." * 20)
        while "power: the lease could not be renewed" not in caplog.text:
            time.sleep(0.01)
        path.write_bytes(content)
        time.sleep(0.2)
        assert not held.lost
    assert rows(ledger) == 0


@pytest.mark.slow
def test_of_many_newcomers_one_gets_it(url: str) -> None:
    ledger = Ledger(url)
    with holder(url, ttl=3600) as dead:
        dead.send_signal(signal.SIGKILL)
        dead.wait()
    outcomes: list[str] = []
    start, end = threading.Barrier(4), threading.Barrier(4)

    def try_it() -> None:
        start.wait()
        try:
            with lease(ledger, "power"):
                outcomes.append("held")
                end.wait()
        except LeaseHeld:
            outcomes.append("refused")
            end.wait()

    threads = [threading.Thread(target=try_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held", "refused", "refused", "refused"]

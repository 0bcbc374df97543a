"""Search workers of this machine: how soon their end is noticed, and who takes their place."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import nursery
import psutil
import pytest

from flows import leash
from flows.workers import SPARE, LocalWorkers, local_workers


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("NIGHTCAST_HOME", str(tmp_path / "home"))


def children():
    return [one for one in psutil.Process().children() if "flows.worker" in command_line(one)]


def command_line(process):
    """Right after its start, while the kernel sets a new program up, a process has none for a moment."""
    while not (words := process.cmdline()):
        time.sleep(0.001)
    return words


def test_a_killed_worker_is_noticed_at_once_and_replaced_a_few_times(tmp_path):
    with local_workers("no-such-run", 1, tmp_path) as workers:
        assert not workers.wait(0.01)
        assert workers.replace_killed() == 0
        for _ in range(SPARE):
            [child] = children()
            child.kill()
            before = time.monotonic()
            assert workers.wait(30)
            assert time.monotonic() - before < 2
            assert workers.replace_killed() == 1
            assert workers.replace_killed() == 0
            assert not workers.wait(0)
        [child] = children()
        child.kill()
        assert workers.wait(30)
        assert workers.replace_killed() == 0
        assert len(workers.errors()) == SPARE + 1
    assert children() == []


def test_a_run_that_crashed_and_ended_well_after_all_replaces_none(tmp_path, monkeypatch):
    killed = iter([1, 0, 0])
    monkeypatch.setattr(LocalWorkers, "_count_killed", lambda self: next(killed))
    monkeypatch.setattr(LocalWorkers, "_start", lambda self: None)
    with local_workers("no-such-run", 1, tmp_path) as workers:
        assert [workers.replace_killed() for _ in range(3)] == [1, 0, 0]


def test_a_worker_that_ends_in_an_error_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("NIGHTCAST_DEVICE", "abacus")
    monkeypatch.setattr(leash, "start", nursery.start)
    with local_workers("no-such-run", 1, tmp_path) as workers:
        assert workers.wait(60)
        assert workers.replace_killed() == 0
        [error] = workers.errors()
    assert error.startswith(f"{tmp_path / 'worker-0.log'}:\n")
    assert "NIGHTCAST_DEVICE" in error or "literal_error" in error


def test_workers_end_with_the_block(tmp_path):
    with local_workers("no-such-run", 2, tmp_path) as workers:
        assert isinstance(workers, LocalWorkers)
        started = children()
        assert len(started) == 2
        # Of a session of its own: a terminal's Ctrl-C does not reach it.
        assert all(psutil.Process(one.pid).terminal() is None for one in started)
    assert psutil.wait_procs(started, timeout=0)[1] == []


def test_a_leash_ends_a_child_whose_parent_was_killed(tmp_path):
    script = tmp_path / "dog.py"
    script.write_text("import time\n\ndef main():\n    print('up', flush=True)\n    time.sleep(60)\n")
    owner = (
        "import sys, time; from pathlib import Path; from flows import leash; "
        f"sys.path.insert(0, {str(tmp_path)!r}); "
        f"print(leash.start('dog', log=Path({str(tmp_path / 'dog.log')!r}), "
        f"environment={{'PYTHONPATH': ':'.join(sys.path)}}).pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", owner], stdout=subprocess.PIPE, text=True) as parent:
        dog = psutil.Process(int(parent.stdout.readline()))
        while "up" not in leash.tail(tmp_path / "dog.log"):
            time.sleep(0.02)
        assert dog.is_running()
        parent.send_signal(signal.SIGKILL)
    assert psutil.wait_procs([dog], timeout=10)[1] == []

"""One night, stopped again and again: by Ctrl-C, by SIGTERM, by SIGKILL, each at another moment.

After each stop nothing lives and nothing is left half done; each start goes on where the one before was
stopped, and the last one ends as if nothing had happened. Another data set's night is there beside it, first
in a home that neither of them has seen before.
"""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing

import psutil
import pytest
from nights import Command, House

from lstm.search.places import CLAIM

pytestmark = pytest.mark.slow

SLOW = {"hidden_size": [16], "segment_length": [1], "lookback": [48]}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    house = House(tmp_path_factory.mktemp("signals"))
    house.declare("made", SLOW, max_epochs=6)
    house.declare("other")
    for name in ("made", "other"):
        house.write(name, 28 * 24)
    return house


@pytest.fixture
def start(house):
    """Starts nights; none that a failing test left behind lives on."""
    commands = []

    def begin(name="made"):
        commands.append(Command(house, "retrain", name, "--json"))
        return commands[-1]

    yield begin
    for command in commands:
        command.kill()


def ask(house, name, query):
    """Rows of a SQLite database of the home; none while it has no such table."""
    path = house.home / name
    if not path.exists():
        return []
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=20) as connection:
            return [row[0] for row in connection.execute(query)]
    except sqlite3.OperationalError:
        return []


def trials(house, state):
    return ask(house, "optuna.db", f"select number from trials where state = '{state}'")


def signed(house):
    """Running trials that their workers have signed; one killed in the moment before is known in a minute."""
    join = "join trial_user_attributes a using (trial_id)"
    claimed = f"select number from trials {join} where state = 'RUNNING' and a.key = '{CLAIM}'"
    return ask(house, "optuna.db", claimed)


def checkpoints(house, pattern):
    return list(house.settings.checkpoints.glob(f"made.*/{pattern}.safetensors"))


def ctrl_c(command):
    """A terminal's interrupt: it reaches the command and whatever shares its process group."""
    os.killpg(command.process.pid, signal.SIGINT)


def is_in_order(house):
    """Nothing that says that it runs, and no file that is half written."""
    statuses = ask(house, "mlflow.db", "select status from runs")
    states = ask(house, "prefect/prefect.db", "select state_type from flow_run")
    assert not {"RUNNING", "SCHEDULED"} & set(statuses)
    assert not {"RUNNING", "PENDING", "SCHEDULED"} & set(states)
    assert states
    assert trials(house, "RUNNING") == []
    assert ask(house, "ledger.db", "select data_set from leases") == []
    assert list(house.home.rglob("*.tmp")) == []


def test_a_ctrl_c_in_the_search_and_one_while_the_data_is_checked(house, start):
    command, other = start(), start("other")
    other.until_says("start")
    ctrl_c(other)
    command.until(lambda: trials(house, "RUNNING"))
    ctrl_c(command)
    for one in (command, other):
        assert one.end() == 130
        assert one.survivors(5) == []
    is_in_order(house)
    assert house.ledger.champion("made") is None
    [last] = house.ledger.decisions("made", 1)
    assert (last.kind, last.reason) == ("failed", "interrupted: KeyboardInterrupt")


def test_a_kill_in_the_search_takes_the_whole_tree_along(house, start):
    command = start()
    command.until(lambda: trials(house, "RUNNING") and checkpoints(house, "trial-*"))
    assert workers(command)
    command.process.kill()
    assert command.end() == -signal.SIGKILL
    assert command.survivors(20) == []


def test_a_killed_worker_is_replaced_and_sigterm_ends_the_search_and_the_training(house, start):
    command = start()
    command.until(lambda: signed(house))
    [worker] = workers(command)
    [running] = signed(house)
    worker.kill()
    command.until(lambda: (now := trials(house, "RUNNING")) and now != [running])
    assert workers(command) not in ([], [worker])
    sigterm(house, command)
    command = start()
    command.until(lambda: checkpoints(house, "judged-*"))
    sigterm(house, command)


def sigterm(house, command):
    """A night that is asked to end does, with its workers, and says so."""
    command.process.terminate()
    assert command.end() == 128 + signal.SIGTERM
    assert command.survivors(5) == []
    is_in_order(house)
    [last] = house.ledger.decisions("made", 1)
    assert (last.kind, last.reason) == ("failed", "interrupted: TerminationSignal")


def test_a_kill_between_register_and_promote(house, start):
    """The night finds the ledger busy when it is about to promote."""
    command = start()
    command.until_says("judge")
    with closing(sqlite3.connect(house.home / "ledger.db", isolation_level=None)) as ledger:
        ledger.execute("begin immediate")
        command.until(lambda: ask(house, "mlflow.db", "select version from model_versions"))
        command.process.kill()
    assert command.end() == -signal.SIGKILL
    assert command.survivors(20) == []
    assert house.ledger.champion("made") is None


def test_the_next_start_promotes_once_beside_another_night(house, start):
    commands = {name: start(name) for name in ("made", "other")}
    for name, command in commands.items():
        assert command.end(200) == 0, command.text
        assert command.survivors(5) == []
        assert command.result()["ending"] == "promoted"
        # What was stopped between registering and promoting was not registered again.
        assert house.aliases(name) == {"champion": "1", "challenger": "1"}
        [night] = house.runs(name, "night")
        assert night.info.status == "FINISHED"
        kinds = [entry.kind for entry in house.ledger.decisions(name)]
        assert kinds.count("promoted") == 1
        assert len(house.forecasts(name)) == 1
    is_in_order(house)
    assert sorted(ask(house, "mlflow.db", "select name from model_versions")) == ["made", "other"]
    # What was stopped in the search was taken up again: two places of each budget, each ended once.
    assert len(trials(house, "COMPLETE")) + len(trials(house, "PRUNED")) == 4
    assert list(house.settings.checkpoints.iterdir()) == []


def workers(command):
    """Its search workers that are alive."""
    return [one for one in command.tree() if is_worker(one)]


def is_worker(process):
    try:
        return process.name() == "flows.worker"
    except psutil.Error:
        return False

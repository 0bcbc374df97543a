"""`nightcast up` itself: refusals, ends, and what is left after a kill."""

from __future__ import annotations

import json
import socket

import psutil
import pytest
from nights import Command, House
from servers import Up, free_ports, wait

from data.processes import this_process
from flows.stack import Addresses, Stack, StackFailed, stack
from lstm.settings import Settings


@pytest.mark.parametrize("taken", ["prefect", "mlflow"])
def test_a_taken_port_is_refused_with_the_option(tmp_path, taken) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports = dict(zip(("prefect", "mlflow"), free_ports(2), strict=True)) | {taken: other.getsockname()[1]}
        addresses = Addresses(ports["prefect"], ports["mlflow"])
        with (
            pytest.raises(StackFailed, match=f"--{taken}-port"),
            stack(Settings(home=tmp_path), addresses, lambda _: None),
        ):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_home_in_use_is_refused(tmp_path) -> None:
    (tmp_path / "up.json").write_text(json.dumps({"parent": str(this_process()), "children": {}}))
    with (
        pytest.raises(StackFailed, match=f"process {this_process().pid} on .* Remedy: .*Ctrl-C"),
        stack(Settings(home=tmp_path), Addresses(*free_ports(2)), lambda _: None),
    ):
        pass


def test_a_part_that_ends_shows_its_log(tmp_path) -> None:
    made = Stack(Settings(home=tmp_path), {})
    try:
        made.start("part", "calendar", "no-such-year")
        with pytest.raises(StackFailed, match=r"(?s)part ended with status \d+\..*part\.log:.*no-such-year"):
            made.wait_for("part", "http://127.0.0.1:1/")
    finally:
        made.stop()
    assert not (tmp_path / "up.json").exists()


def test_what_outlives_its_parent_is_ended_too(tmp_path) -> None:
    """A child's child in a session of its own is nobody's descendant once the child is gone."""
    note = tmp_path / "pid"
    orphan = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    popen = f"subprocess.Popen([sys.executable, '-c', {orphan!r}], start_new_session=True)"
    start = f"import subprocess, sys; {popen}"
    made = Stack(Settings(home=tmp_path), {})
    made.start("part", "timeit", "-n", "1", "-r", "1", start)
    wait(lambda: note.exists() and note.read_text(), 30)
    left = psutil.Process(int(note.read_text()))
    assert left.is_running()
    made.stop()
    assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_a_server_that_dies_ends_all_with_its_log(tmp_path, lived_in) -> None:
    house = House(tmp_path, lived_in)
    house.declare("one")
    ports = map(str, free_ports(2))
    command = Command(house, "up", "--prefect-port", next(ports), "--mlflow-port", next(ports))
    record = house.home / "up.json"
    command.until(lambda: record.exists() and "mlflow-server" in record.read_text())
    server = json.loads(record.read_text())["children"]["mlflow-server"]
    psutil.Process(int(server.split(":")[1])).kill()
    assert command.end() == 1
    assert "mlflow-server ended with status -9" in command.text
    assert "mlflow-server.log:" in command.text
    assert not command.survivors(5)
    assert not record.exists()


@pytest.mark.slow
def test_doctor(up: Up, tmp_path) -> None:
    well = up.run("nightcast", "doctor", "--json")
    broken = {
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_ports(1)[0]}",
        "NIGHTCAST_CATALOG": str(tmp_path / "none.yaml"),
    }
    ill = up.run("nightcast", "doctor", "--json", environment=broken)
    text, _ = well.communicate()
    assert well.returncode == 0, text
    answer = json.loads(text)
    assert (answer["healthy"], answer["failed"], answer["prefect"]) == (
        True,
        [],
        up.exports["PREFECT_API_URL"],
    )
    text, _ = ill.communicate()
    assert ill.returncode == 1, text
    answer = json.loads(text[text.index("{") :])
    assert (answer["healthy"], answer["failed"]) == (False, ["catalog", "mlflow"])
    assert "none.yaml: no such catalog" in answer["catalog"]
    assert broken["MLFLOW_TRACKING_URI"] in answer["mlflow"]


@pytest.mark.slow
def test_a_second_one_in_the_same_home_is_refused(up: Up) -> None:
    second = Command(up.house, "up", "--prefect-port", str(free_ports(1)[0]))
    assert second.end() == 1
    assert f"process {up.command.process.pid} on" in second.text
    assert up.command.process.poll() is None


@pytest.mark.slow
def test_killed_in_the_night_the_next_one_cleans_up_and_works(up: Up) -> None:
    """Nothing runs on, in no store; then Ctrl-C ends the next one."""
    night = up.submit("retrain/nightly", data_set="long_again", workers=1)
    wait(lambda: up.trials_running("long_again"), 180, lambda: up.logs)
    killed = up.command
    killed.tree()
    assert up.local_workers()
    killed.process.kill()
    killed.process.wait()
    up.start()
    assert not killed.survivors(0)
    assert up.state(night)["type"] == "CRASHED"
    assert [run.info.status for run in up.runs("long_again", "night")] == ["FAILED"]
    assert not up.trials_running("long_again")
    up.end()

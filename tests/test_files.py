"""Atomic files: whole or not there; and findings as a person reads them."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from data.files import remove_leftovers, replacing, write_atomically
from data.findings import Finding


def test_a_written_file_is_whole_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "bundle.json"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("old")
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_no_rest(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "state"
    path.write_text("old")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "state"):
        pass
    assert not (tmp_path / "state").exists()


def test_the_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    write_atomically(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_leftovers_of_the_dead_go_however_they_were_named(tmp_path: Path) -> None:
    """A process writes its name into the file's; older versions had another form of it."""
    program = "import sys; from data.files import replacing; import os, pathlib\n"
    program += "with replacing(pathlib.Path(sys.argv[1])) as path: path.touch(); os._exit(0)"
    subprocess.run([sys.executable, "-c", program, tmp_path / "new.json"], check=True)
    host = socket.gethostname()
    (tmp_path / f".{host}:{2**22 + 1}:1795779927.35.{8 * '0'}.old.json.tmp").touch()
    with replacing(tmp_path / "ours.json") as ours:
        ours.touch()
        (tmp_path / ".hidden.tmp").touch()
        assert len(remove_leftovers(tmp_path)) == 2
        assert {path.name for path in tmp_path.iterdir()} == {ours.name, ".hidden.tmp"}


def test_leftovers_are_looked_for_while_other_folders_come_and_go(tmp_path: Path) -> None:
    """Another data set's night removes its checkpoints meanwhile."""
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            for number in range(20):
                (tmp_path / f"other.{number}" / "deep").mkdir(parents=True)
            for number in range(20):
                shutil.rmtree(tmp_path / f"other.{number}")

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(300):
            assert remove_leftovers(tmp_path) == ()
    finally:
        done.set()
        other.join()


def test_a_finding_reads_as_one_line() -> None:
    assert str(Finding("rows were sorted")) == "rows were sorted"
    finding = Finding(
        "missing steps", series="north", column="load", time="2024-01-01 00:00+00:00", count=1200
    )
    assert str(finding) == (
        "missing steps (series north, column load, first at 2024-01-01 00:00+00:00, 1,200 times)"
    )

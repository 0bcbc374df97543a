"""One comparison at a time in its folder, and what killed ones left behind put in order."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from data.errors import NightcastError
from data.files import remove_leftovers, write_atomically
from data.processes import this_process
from flows.comparing import Comparing
from flows.contender import JOB_FILE
from lstm.comparison.records import CHECKPOINTS

LOCK_FILE = "lock"
HOLDER_FILE = "holder"


class ComparisonHeld(NightcastError):
    """The same comparison is running."""


@contextmanager
def held(comparing: Comparing) -> Iterator[None]:
    """Keep the comparison's folder for the block, with its job in it; a process that dies lets go of it.

    Unfinished trainings that the block leaves are removed, unless it raises: then they are gone on with.

    Raises:
        ComparisonHeld: another process has it.
        TrackingUnreachable: MLflow does not answer.
    """
    folder = comparing.folder
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ComparisonHeld(_where(comparing)) from error
    try:
        write_atomically(folder / HOLDER_FILE, str(this_process()).encode())
        comparing.tracker.sweep(comparing.identity.data_set, "comparison")
        remove_leftovers(folder.parent)
        write_atomically(folder / JOB_FILE, comparing.job.model_dump_json(indent=1).encode())
        yield
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    finally:
        lock.release()


def _where(comparing: Comparing) -> str:
    holder = comparing.folder / HOLDER_FILE
    process = holder.read_text(encoding="utf-8") if holder.exists() else "that is just beginning"
    return (
        f"{comparing.identity.data_set}: the same comparison is running, in process {process} "
        f"(host:pid:start), in {comparing.folder}. Remedy: wait for it to end, or stop that process; run "
        "again, what it has done is kept."
    )

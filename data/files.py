"""Files that are whole or not there: written beside their place, flushed to disk, then renamed."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.processes import Process, is_dead, this_process

_TEMPORARY = re.compile(r"^\.(?P<process>.+:\d+:(?:[0-9a-f]{8}-)?\d+\.\d+)\.[0-9a-f]{8}\..+\.tmp$")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; at the end it replaces `path` in one step.

    The folder is made where it is missing. The block must write the temporary file. Where the block
    raises, the temporary file is removed and `path` stays as it was.

    Raises:
        OSError: the folder cannot be written, or the block wrote nothing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{this_process()}.{uuid.uuid4().hex[:8]}.{path.name}.tmp")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file or nothing.

    Raises:
        OSError: the folder cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def remove_leftovers(folder: Path) -> tuple[Path, ...]:
    """Remove the temporary files, in a folder and below it, of processes of this host that were killed.

    Returns:
        What was removed.
    """
    removed = []
    # Unlike `rglob` it passes over a folder that goes meanwhile: another night may be removing its own.
    for parent, _, names in os.walk(folder):
        for name in names:
            found = _TEMPORARY.match(name)
            if found and is_dead(Process.parse(found["process"])):
                path = Path(parent, name)
                path.unlink(missing_ok=True)
                removed.append(path)
    return tuple(removed)


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

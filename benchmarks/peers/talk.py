"""How a peer talks: JSON lines on standard input and output; standard library only.

Lines in: the task, then one empty line a repeat; the end of input ends the process. Lines out: the answer
to the task, with the seconds of the first, untimed repeat and the versions at work, then the seconds of each
repeat, and what else it measured: a repeat that returns a dictionary adds it to its answer.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

Repeat = Callable[[], Any]


def threads() -> int:
    """The threads that this process was started with."""
    return int(os.environ["OMP_NUM_THREADS"])


def serve(prepare: Callable[[dict[str, Any]], Repeat], packages: Sequence[str]) -> None:
    """Answer until the input ends.

    Args:
        prepare: makes one repeat of a task: a function that does all the work to be timed.
        packages: the distributions whose versions are reported.
    """
    # Libraries print what they like on standard output; the conversation keeps a copy of it for itself.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    repeat = prepare(json.loads(sys.stdin.readline()))
    first = _measured(repeat)["seconds"]
    answers.write(json.dumps({"first": first, "versions": {name: version(name) for name in packages}}) + "\n")
    for _ in sys.stdin:
        answers.write(json.dumps(_measured(repeat)) + "\n")


def _measured(repeat: Repeat) -> dict[str, Any]:
    begin = time.perf_counter()
    found = repeat()
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, **(found if isinstance(found, dict) else {})}

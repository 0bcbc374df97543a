"""`seed` by the same plain torch loop over Nightcast's `LSTM`, which gives the last state alone.

Threads are as in Nightcast's own training. On a GPU a step is captured once and repeated, as there.
"""

from __future__ import annotations

from typing import Any

from benchmarks.peers import talk
from benchmarks.peers.seed_torch import loop
from lstm.kernels import LSTM
from lstm.training.device import set_threads
from lstm.training.graphs import Repeated


def prepare(task: dict[str, Any]) -> talk.Repeat:
    """Args: see `benchmarks.seed`."""
    set_threads(talk.threads())
    lstm = LSTM(1, task["hidden_size"], batch_first=True, device=task["device"])
    return loop(task, lstm, lstm.last, Repeated())


if __name__ == "__main__":
    talk.serve(prepare, ["nightcast", "torch"])

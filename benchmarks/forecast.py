"""`forecast`: training on the sample data set, target only, in windows a second; `beside`: with company.

LSTM(50), a lookback of a week (168 hours), a horizon of a day (24 hours), batches of 256, 96 of them a
repeat. Ours is the real training loop; the others do what their docstrings in `benchmarks/peers` say.
Everybody may multiply in bfloat16: ours does on processors with AMX or AVX-512's BF16, the others try both.

`beside` has another program keep a core busy meanwhile, by repeats of 8 batches, and gives everybody all
the threads that it would have taken by itself.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import household
from benchmarks.contender import Contender
from benchmarks.race import race
from benchmarks.results import Result, raced
from lstm.settings import BRIEF_WAIT

# So many batches that the first ones, slow since others had the caches meanwhile, hardly count.
HIDDEN_SIZE, LOOKBACK, HORIZON, BATCH_SIZE, BATCHES, BATCHES_BESIDE = 50, 168, 24, 256, 96, 8
PRECISIONS = ({"precision": "float32"}, {"precision": "bfloat16"})


def _ours(what: str = "", **environment: str) -> Contender:
    name = f"Nightcast {what}".strip()
    return Contender(name, "forecast_nightcast", environment={**BRIEF_WAIT, **environment})


def _others(precisions: Sequence[Mapping[str, Any]], workers: Sequence[int]) -> tuple[Contender, ...]:
    loaders = tuple({**precision, "num_workers": number} for precision in precisions for number in workers)
    each = tuple(precisions)
    return (
        Contender("plain torch loop", "forecast_torch", options=each),
        Contender("NeuralForecast", "forecast_neuralforecast", venv="neuralforecast", options=each),
        Contender("Darts", "forecast_darts", venv="darts", options=loaders),
    )


CONTENDERS = (
    _ours(),
    _ours("in float32", NIGHTCAST_PRECISION="float32"),
    _ours("on torch's kernel", NIGHTCAST_KERNEL="torch"),
    *_others(PRECISIONS, (0, 1)),
)
BESIDE = (
    _ours(),
    # As OpenMP has it by itself.
    _ours("whose threads wait as torch's do", GOMP_SPINCOUNT="300000"),
    # What takes longest here, as it was fastest there.
    *_others(PRECISIONS[1:], (0,)),
)


def run(threads: Sequence[int], repeats: int) -> Result:
    """The race, on an idle machine.

    Raises:
        PeerFailed: a contender's process ended early.
    """
    return _race("forecast", CONTENDERS, BATCHES, "", threads, repeats)


def run_beside(threads: Sequence[int], repeats: int) -> Result:
    """The race beside a program that keeps a core busy, with the most threads.

    Raises:
        PeerFailed: a contender's process ended early.
    """
    with _busy():
        return _race("beside", BESIDE, BATCHES_BESIDE, " beside a busy program", [max(threads)], repeats)


def _race(
    name: str, contenders: Sequence[Contender], batches: int, where: str, threads: Sequence[int], repeats: int
) -> Result:
    windows = batches * BATCH_SIZE
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "values.npy"
        np.save(data, household.series())
        task = {
            "data": str(data),
            "hidden_size": HIDDEN_SIZE,
            "lookback": LOOKBACK,
            "horizon": HORIZON,
            "batch_size": BATCH_SIZE,
            "windows": windows,
            "quantiles": household.data_set().retrain.quantiles,
        }
        runs = race(contenders, task, threads, repeats)
    title = (
        f"{name}: training LSTM({HIDDEN_SIZE}){where}, lookback {LOOKBACK}, horizon {HORIZON}, "
        f"batch {BATCH_SIZE}, {windows:,} windows a repeat"
    )
    return raced(name, title, runs, "windows/s", lambda seconds: windows / seconds, {"windows": windows})


@contextmanager
def _busy() -> Iterator[None]:
    """A program that does nothing but count, inside the block."""
    program = "import itertools\nfor _ in itertools.count(): pass"
    with subprocess.Popen([sys.executable, "-c", program]) as process:  # noqa: S603
        try:
            yield
        finally:
            process.kill()

"""`forecast`: training on the sample data set, target only, in windows a second.

LSTM(50), a lookback of a week (168 hours), a horizon of a day (24 hours), batches of 256, 96 of them a
repeat. Ours is the real training loop; the others do what their docstrings in `benchmarks/peers` say.
Everybody may multiply in bfloat16: ours does on processors with AMX, the others try both.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import household
from benchmarks.contender import Contender
from benchmarks.race import race
from benchmarks.results import Result, raced

# So many batches that the first ones, slow since others had the caches meanwhile, hardly count.
HIDDEN_SIZE, LOOKBACK, HORIZON, BATCH_SIZE, BATCHES = 50, 168, 24, 256, 96
PRECISIONS = ({"precision": "float32"}, {"precision": "bfloat16"})

CONTENDERS = (
    Contender("Nightcast", "forecast_nightcast"),
    Contender("Nightcast in float32", "forecast_nightcast", environment={"NIGHTCAST_PRECISION": "float32"}),
    Contender("Nightcast on torch's kernel", "forecast_nightcast", environment={"NIGHTCAST_KERNEL": "torch"}),
    Contender("plain torch loop", "forecast_torch", options=PRECISIONS),
    Contender("NeuralForecast", "forecast_neuralforecast", venv="neuralforecast", options=PRECISIONS),
    Contender(
        "Darts",
        "forecast_darts",
        venv="darts",
        options=tuple(
            {**precision, "num_workers": workers} for precision in PRECISIONS for workers in (0, 1)
        ),
    ),
)


def run(threads: Sequence[int], repeats: int) -> Result:
    """The race.

    Raises:
        PeerFailed: a contender's process ended early.
    """
    windows = BATCHES * BATCH_SIZE
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
        runs = race(CONTENDERS, task, threads, repeats)
    title = (
        f"forecast: training LSTM({HIDDEN_SIZE}), lookback {LOOKBACK}, horizon {HORIZON}, "
        f"batch {BATCH_SIZE}, {windows:,} windows a repeat"
    )
    return raced(
        "forecast", title, runs, "windows/s", lambda seconds: windows / seconds, {"windows": windows}
    )

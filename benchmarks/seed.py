"""`seed`: one epoch of the LSTM that everybody writes first.

1,000 sequences of 1,000 steps of one feature; LSTM(50) and Dense(1) on its last state; Adam, mean squared
error, batches of 64. Seconds an epoch, and the floor: the time in which the processor's fastest matrix
product does the same arithmetic. `seed-cuda` is the same on a GPU.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.arithmetic import lstm_training
from benchmarks.contender import Contender
from benchmarks.race import race
from benchmarks.results import Result, raced
from lstm.settings import BRIEF_WAIT

SEQUENCES, STEPS, HIDDEN_SIZE, BATCH_SIZE = 1_000, 1_000, 50, 64

CONTENDERS = (
    Contender("Nightcast", "seed_nightcast", environment=BRIEF_WAIT),
    Contender("torch.nn.LSTM", "seed_torch"),
    Contender(
        "Keras on TensorFlow",
        "seed_keras",
        venv="keras-tensorflow",
        environment={"KERAS_BACKEND": "tensorflow"},
        options=({"jit_compile": False}, {"jit_compile": True}),
    ),
    Contender(
        "Keras on JAX",
        "seed_keras",
        venv="keras-jax",
        environment={"KERAS_BACKEND": "jax"},
        options=({"jit_compile": True},),
    ),
    Contender("sgemm of the same arithmetic", "sgemm"),
)
ON_A_GPU = (
    Contender("Nightcast", "seed_nightcast", environment=BRIEF_WAIT),
    Contender("torch.nn.LSTM (cuDNN)", "seed_torch"),
    Contender(
        "Keras on JAX",
        "seed_keras",
        venv="keras-jax-cuda",
        # Others are on the device too.
        environment={"KERAS_BACKEND": "jax", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        options=({"jit_compile": True},),
    ),
    Contender("sgemm of the same arithmetic", "sgemm"),
)


def run(threads: Sequence[int], repeats: int) -> Result:
    """The race on the CPU.

    Raises:
        PeerFailed: a contender's process ended early.
    """
    return _run("seed", "cpu", CONTENDERS, threads, repeats)


def run_on_cuda(threads: Sequence[int], repeats: int) -> Result:
    """The race on the first CUDA device, each process with one thread of its own.

    Raises:
        PeerFailed: a contender's process ended early.
    """
    return _run("seed-cuda", "cuda", ON_A_GPU, [1], repeats)


def _run(
    name: str, device: str, contenders: Sequence[Contender], threads: Sequence[int], repeats: int
) -> Result:
    flop = lstm_training(SEQUENCES, STEPS, inputs=1, hidden_size=HIDDEN_SIZE)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "x.npy"
        np.save(data, np.random.default_rng(0).standard_normal((SEQUENCES, STEPS, 1), dtype=np.float32))
        task = {
            "data": str(data),
            "device": device,
            "hidden_size": HIDDEN_SIZE,
            "batch_size": BATCH_SIZE,
            "flop": flop,
        }
        runs = race(contenders, task, threads, repeats)
    title = f"{name}: one epoch of {SEQUENCES:,} x {STEPS:,} steps, LSTM({HIDDEN_SIZE}), batch {BATCH_SIZE}"
    return raced(name, title, runs, "seconds", lambda seconds: seconds, {"flop": flop})

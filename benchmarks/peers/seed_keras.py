"""`seed` by Keras: `Model.fit` of LSTM and Dense, on TensorFlow or JAX, as its guides show it.

One epoch a repeat, of arrays in memory, shuffled, silent. The option `jit_compile` is
`Model.compile`'s, whether XLA compiles the step: TensorFlow is tried with and without, JAX always does. JAX
takes its number of threads from the cores that it may use.
"""

from __future__ import annotations

import os
from typing import Any

from benchmarks.peers import talk

if os.environ["KERAS_BACKEND"] == "jax" and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: talk.threads()])

import keras
import numpy as np


def prepare(task: dict[str, Any]) -> talk.Repeat:
    """Args: see `benchmarks.seed`."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(talk.threads())
        tensorflow.config.threading.set_inter_op_parallelism_threads(talk.threads())
    keras.utils.set_random_seed(0)
    x = np.load(task["data"])
    y = x.mean(axis=1)
    model = keras.Sequential(
        [keras.Input(x.shape[1:]), keras.layers.LSTM(task["hidden_size"]), keras.layers.Dense(1)]
    )
    model.compile(optimizer="adam", loss="mse", jit_compile=task["jit_compile"])
    return lambda: model.fit(x, y, batch_size=task["batch_size"], epochs=1, verbose=0)


if __name__ == "__main__":
    talk.serve(prepare, ["keras", "tensorflow-cpu" if keras.backend.backend() == "tensorflow" else "jax"])

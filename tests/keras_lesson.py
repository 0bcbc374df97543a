"""Makes keras_lesson.npz: what Keras computes, with the weights that it computed it with.

    KERAS_BACKEND=tensorflow .venv-bench/keras-tensorflow/bin/python tests/keras_lesson.py

`make bench` makes that environment, from the versions in benchmarks/peers/keras-tensorflow.txt. The network
is the Keras example: LSTM(50), tanh, its last state, Dense(1). Its biases are drawn as well, since Keras
begins with zeros, which any order of gates would pass with.
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

UNITS, BATCH, STEPS, FEATURES = 50, 5, 12, 1


def main() -> None:
    """Draw weights and sequences, run Keras, and write everything."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((STEPS, FEATURES)),
            keras.layers.LSTM(UNITS, activation="tanh"),
            keras.layers.Dense(1),
        ]
    )
    model.set_weights(
        [value + generator.normal(0, 0.2, value.shape) * (value.ndim == 1) for value in model.get_weights()]
    )
    recurrent, dense = model.layers
    x = generator.normal(size=(BATCH, STEPS, FEATURES)).astype(np.float32)
    y = generator.normal(size=(BATCH, 1)).astype(np.float32)
    with tf.GradientTape() as tape:
        forecast = model(tf.constant(x))
        loss = tf.reduce_mean((forecast - y) ** 2)
    names = ["kernel", "recurrent_kernel", "bias", "dense_kernel", "dense_bias"]
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    np.savez_compressed(
        Path(__file__).with_suffix(".npz"),
        x=x,
        y=y,
        forecast=forecast,
        last_state=recurrent(x),
        loss=loss,
        versions=np.array([f"keras {keras.__version__}", f"tensorflow {tf.__version__}"]),
        **dict(zip(names, [*recurrent.get_weights(), *dense.get_weights()], strict=True)),
        **{f"{name}_gradient": value.numpy() for name, value in zip(names, gradients, strict=True)},
    )


if __name__ == "__main__":
    main()

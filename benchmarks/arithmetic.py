"""How much arithmetic a training is: floating-point operations in matrix products, nothing else."""

from __future__ import annotations


def lstm_training(sequences: int, steps: int, inputs: int, hidden_size: int) -> int:
    """Floating-point operations of forward and backward of an LSTM over all sequences once.

    A step multiplies the 4 gates' weights, (4 K, D) and (4 K, K), with input (D) and state (K): a multiply
    and an add each, 2 * 4 K * (D + K) operations. Backward takes the gradient of the weights, as many again,
    and of the state before, 2 * 4 K * K; the gradient of the input is not asked for. What is done once a
    sequence (the dense layer) or element by element (sigmoids, the optimiser) is left out.

    Args:
        inputs: D, features a step.
        hidden_size: K.
    """
    gates = 4 * hidden_size
    both, state = 2 * gates * (inputs + hidden_size), 2 * gates * hidden_size
    return sequences * steps * (both + both + state)

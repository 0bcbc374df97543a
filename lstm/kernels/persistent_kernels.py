"""Triton code of the persistent kernel: a program walks a tile of batch rows through all steps.

It loads the recurrent weights once, before its loop over time, and keeps them on chip, with its states. Sizes
are padded to powers of two; what is padded stays 0, also beside numbers that are not finite.

Axes: B batch, T time steps, G gates, H hidden size. Every tensor is contiguous. `inputs_BTGH` is W_ih x and
the biases, computed before for all steps; `kept_BTH` is what backward needs beside gates and hidden states:
an LSTM's cell states, a GRU's W_hn h + b_hn. `lstm.kernels.reference` has the equations.
"""

import triton
import triton.language as tl


@triton.jit
def _tile(batch, hidden, ROWS: tl.constexpr, UNITS: tl.constexpr):
    """This program's rows (ROWS, 1), the units (1, UNITS), and which of them there are."""
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    units = tl.arange(0, UNITS)[None, :]
    return rows, units, (rows < batch) & (units < hidden)


@triton.jit
def _weights(w_GHH, gate, hidden, UNITS: tl.constexpr):
    """A gate's square matrix, as it lies in memory."""
    row, column = tl.arange(0, UNITS)[:, None], tl.arange(0, UNITS)[None, :]
    return tl.load(w_GHH + (gate * hidden + row) * hidden + column, (row < hidden) & (column < hidden), 0.0)


@triton.jit
def _times(a, b):
    """The product in float32: a GPU's TF32 has three digits."""
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _tanh(x):
    """By the sigmoid; near 0, where that loses its digits, by the first terms of the series (to 6e-8)."""
    square = x * x
    return tl.where(square < 0.01, x * (1 - square * (1 / 3 - square * 2 / 15)), 2 * tl.sigmoid(2 * x) - 1)


@triton.jit
def lstm_forward(
    inputs_BTGH, w_GHH, bias_H, h_BH, c_BH, y_BTH, gates_BTGH, kept_BTH, h_n_BH, c_n_BH, batch, steps, hidden,
    SEQUENCE: tl.constexpr, SAVE: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    rows, units, there = _tile(batch, hidden, ROWS, UNITS)
    w_i = _weights(w_GHH, 0, hidden, UNITS)
    w_f = _weights(w_GHH, 1, hidden, UNITS)
    w_g = _weights(w_GHH, 2, hidden, UNITS)
    w_o = _weights(w_GHH, 3, hidden, UNITS)
    h = tl.load(h_BH + rows * hidden + units, there, 0.0)
    c = tl.load(c_BH + rows * hidden + units, there, 0.0)
    x = inputs_BTGH + rows * steps * 4 * hidden + units
    x_i, x_f = tl.load(x, there, 0.0), tl.load(x + hidden, there, 0.0)
    x_g, x_o = tl.load(x + 2 * hidden, there, 0.0), tl.load(x + 3 * hidden, there, 0.0)
    for step in range(steps):
        at = (rows * steps + step) * hidden + units
        gate = (rows * steps + step) * 4 * hidden + units
        # The next step's inputs, which arrive while this one is computed.
        x, more = inputs_BTGH + gate + 4 * hidden, there & (step + 1 < steps)
        next_i, next_f = tl.load(x, more, 0.0), tl.load(x + hidden, more, 0.0)
        next_g, next_o = tl.load(x + 2 * hidden, more, 0.0), tl.load(x + 3 * hidden, more, 0.0)
        i = tl.sigmoid(x_i + _times(h, w_i))
        f = tl.sigmoid(x_f + _times(h, w_f))
        g = _tanh(x_g + _times(h, w_g))
        o = tl.sigmoid(x_o + _times(h, w_o))
        x_i, x_f, x_g, x_o = next_i, next_f, next_g, next_o
        c = tl.where(there, f * c + i * g, 0.0)
        h = tl.where(there, o * _tanh(c), 0.0)
        if SEQUENCE:
            tl.store(y_BTH + at, h, there)
        if SAVE:
            tl.store(kept_BTH + at, c, there)
            tl.store(gates_BTGH + gate, i, there)
            tl.store(gates_BTGH + gate + hidden, f, there)
            tl.store(gates_BTGH + gate + 2 * hidden, g, there)
            tl.store(gates_BTGH + gate + 3 * hidden, o, there)
    tl.store(h_n_BH + rows * hidden + units, h, there)
    tl.store(c_n_BH + rows * hidden + units, c, there)


@triton.jit
def lstm_backward(
    gates_BTGH, w_GHH, h_BH, c_BH, y_BTH, kept_BTH, dy_BTH, dh_n_BH, dc_n_BH, dinputs_BTGH, dkept_BTH, dh_BH,
    dc_BH, batch, steps, hidden, ROWS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    rows, units, there = _tile(batch, hidden, ROWS, UNITS)
    w_i = _weights(w_GHH, 0, hidden, UNITS)
    w_f = _weights(w_GHH, 1, hidden, UNITS)
    w_g = _weights(w_GHH, 2, hidden, UNITS)
    w_o = _weights(w_GHH, 3, hidden, UNITS)
    dh = tl.load(dh_n_BH + rows * hidden + units, there, 0.0)
    dc = tl.load(dc_n_BH + rows * hidden + units, there, 0.0)
    first = tl.load(c_BH + rows * hidden + units, there, 0.0)
    at = (rows * steps + steps - 1) * hidden + units
    gates = gates_BTGH + (rows * steps + steps - 1) * 4 * hidden + units
    i, f = tl.load(gates, there, 0.0), tl.load(gates + hidden, there, 0.0)
    g, o = tl.load(gates + 2 * hidden, there, 0.0), tl.load(gates + 3 * hidden, there, 0.0)
    c, dy = tl.load(kept_BTH + at, there, 0.0), tl.load(dy_BTH + at, there, 0.0)
    for step in range(steps - 1, -1, -1):
        at = (rows * steps + step) * hidden + units
        gate = (rows * steps + step) * 4 * hidden + units
        # What the step before needs, which arrives while this one is computed.
        gates, more = gates_BTGH + gate - 4 * hidden, there & (step > 0)
        next_i, next_f = tl.load(gates, more, 0.0), tl.load(gates + hidden, more, 0.0)
        next_g, next_o = tl.load(gates + 2 * hidden, more, 0.0), tl.load(gates + 3 * hidden, more, 0.0)
        before = tl.where(step > 0, tl.load(kept_BTH + at - hidden, more, 0.0), first)
        next_dy = tl.load(dy_BTH + at - hidden, more, 0.0)
        tanh_c = _tanh(c)
        dh += dy
        dc += dh * o * (1 - tanh_c * tanh_c)
        di = tl.where(there, dc * g * i * (1 - i), 0.0)
        df = tl.where(there, dc * before * f * (1 - f), 0.0)
        dg = tl.where(there, dc * i * (1 - g * g), 0.0)
        do = tl.where(there, dh * tanh_c * o * (1 - o), 0.0)
        dc *= f
        dh = _times(di, w_i) + _times(df, w_f) + _times(dg, w_g) + _times(do, w_o)
        i, f, g, o, c, dy = next_i, next_f, next_g, next_o, before, next_dy
        tl.store(dinputs_BTGH + gate, di, there)
        tl.store(dinputs_BTGH + gate + hidden, df, there)
        tl.store(dinputs_BTGH + gate + 2 * hidden, dg, there)
        tl.store(dinputs_BTGH + gate + 3 * hidden, do, there)
    tl.store(dh_BH + rows * hidden + units, dh, there)
    tl.store(dc_BH + rows * hidden + units, dc, there)


@triton.jit
def gru_forward(
    inputs_BTGH, w_GHH, bias_H, h_BH, c_BH, y_BTH, gates_BTGH, kept_BTH, h_n_BH, c_n_BH, batch, steps, hidden,
    SEQUENCE: tl.constexpr, SAVE: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    rows, units, there = _tile(batch, hidden, ROWS, UNITS)
    w_r = _weights(w_GHH, 0, hidden, UNITS)
    w_z = _weights(w_GHH, 1, hidden, UNITS)
    w_n = _weights(w_GHH, 2, hidden, UNITS)
    bias = tl.load(bias_H + units, units < hidden, 0.0)
    h = tl.load(h_BH + rows * hidden + units, there, 0.0)
    x = inputs_BTGH + rows * steps * 3 * hidden + units
    x_r, x_z = tl.load(x, there, 0.0), tl.load(x + hidden, there, 0.0)
    x_n = tl.load(x + 2 * hidden, there, 0.0)
    for step in range(steps):
        at = (rows * steps + step) * hidden + units
        gate = (rows * steps + step) * 3 * hidden + units
        x, more = inputs_BTGH + gate + 3 * hidden, there & (step + 1 < steps)
        next_r, next_z = tl.load(x, more, 0.0), tl.load(x + hidden, more, 0.0)
        next_n = tl.load(x + 2 * hidden, more, 0.0)
        r = tl.sigmoid(x_r + _times(h, w_r))
        z = tl.sigmoid(x_z + _times(h, w_z))
        hn = _times(h, w_n) + bias
        n = _tanh(x_n + r * hn)
        x_r, x_z, x_n = next_r, next_z, next_n
        h = tl.where(there, (1 - z) * n + z * h, 0.0)
        if SEQUENCE:
            tl.store(y_BTH + at, h, there)
        if SAVE:
            tl.store(kept_BTH + at, hn, there)
            tl.store(gates_BTGH + gate, r, there)
            tl.store(gates_BTGH + gate + hidden, z, there)
            tl.store(gates_BTGH + gate + 2 * hidden, n, there)
    tl.store(h_n_BH + rows * hidden + units, h, there)


@triton.jit
def gru_backward(
    gates_BTGH, w_GHH, h_BH, c_BH, y_BTH, kept_BTH, dy_BTH, dh_n_BH, dc_n_BH, dinputs_BTGH, dkept_BTH, dh_BH,
    dc_BH, batch, steps, hidden, ROWS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    rows, units, there = _tile(batch, hidden, ROWS, UNITS)
    w_r = _weights(w_GHH, 0, hidden, UNITS)
    w_z = _weights(w_GHH, 1, hidden, UNITS)
    w_n = _weights(w_GHH, 2, hidden, UNITS)
    dh = tl.load(dh_n_BH + rows * hidden + units, there, 0.0)
    first = tl.load(h_BH + rows * hidden + units, there, 0.0)
    at = (rows * steps + steps - 1) * hidden + units
    gates = gates_BTGH + (rows * steps + steps - 1) * 3 * hidden + units
    r, z = tl.load(gates, there, 0.0), tl.load(gates + hidden, there, 0.0)
    n, hn = tl.load(gates + 2 * hidden, there, 0.0), tl.load(kept_BTH + at, there, 0.0)
    dy = tl.load(dy_BTH + at, there, 0.0)
    for step in range(steps - 1, -1, -1):
        at = (rows * steps + step) * hidden + units
        gate = (rows * steps + step) * 3 * hidden + units
        gates, more = gates_BTGH + gate - 3 * hidden, there & (step > 0)
        next_r, next_z = tl.load(gates, more, 0.0), tl.load(gates + hidden, more, 0.0)
        next_n, next_hn = tl.load(gates + 2 * hidden, more, 0.0), tl.load(kept_BTH + at - hidden, more, 0.0)
        before = tl.where(step > 0, tl.load(y_BTH + at - hidden, more, 0.0), first)
        next_dy = tl.load(dy_BTH + at - hidden, more, 0.0)
        dh += dy
        dn = tl.where(there, dh * (1 - z) * (1 - n * n), 0.0)
        dz = tl.where(there, dh * (before - n) * z * (1 - z), 0.0)
        dr = tl.where(there, dn * hn * r * (1 - r), 0.0)
        dhn = tl.where(there, dn * r, 0.0)
        dh = dh * z + _times(dr, w_r) + _times(dz, w_z) + _times(dhn, w_n)
        r, z, n, hn, dy = next_r, next_z, next_n, next_hn, next_dy
        tl.store(dinputs_BTGH + gate, dr, there)
        tl.store(dinputs_BTGH + gate + hidden, dz, there)
        tl.store(dinputs_BTGH + gate + 2 * hidden, dn, there)
        tl.store(dkept_BTH + at, dhn, there)
    tl.store(dh_BH + rows * hidden + units, dh, there)


@triton.jit
def rnn_forward(
    inputs_BTGH, w_GHH, bias_H, h_BH, c_BH, y_BTH, gates_BTGH, kept_BTH, h_n_BH, c_n_BH, batch, steps, hidden,
    RELU: tl.constexpr, SEQUENCE: tl.constexpr, SAVE: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    rows, units, there = _tile(batch, hidden, ROWS, UNITS)
    w = _weights(w_GHH, 0, hidden, UNITS)
    h = tl.load(h_BH + rows * hidden + units, there, 0.0)
    x = tl.load(inputs_BTGH + rows * steps * hidden + units, there, 0.0)
    for step in range(steps):
        at = (rows * steps + step) * hidden + units
        total = x + _times(h, w)
        x = tl.load(inputs_BTGH + at + hidden, there & (step + 1 < steps), 0.0)
        # Relu by comparing, as torch does: the maximum of 0 and what is no number would be 0.
        h = tl.where(there & ~(total < 0), total, 0.0) if RELU else tl.where(there, _tanh(total), 0.0)
        if SEQUENCE:
            tl.store(y_BTH + at, h, there)
    tl.store(h_n_BH + rows * hidden + units, h, there)


@triton.jit
def rnn_backward(
    gates_BTGH, w_GHH, h_BH, c_BH, y_BTH, kept_BTH, dy_BTH, dh_n_BH, dc_n_BH, dinputs_BTGH, dkept_BTH, dh_BH,
    dc_BH, batch, steps, hidden, RELU: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    rows, units, there = _tile(batch, hidden, ROWS, UNITS)
    w = _weights(w_GHH, 0, hidden, UNITS)
    dh = tl.load(dh_n_BH + rows * hidden + units, there, 0.0)
    for step in range(steps - 1, -1, -1):
        at = (rows * steps + step) * hidden + units
        h = tl.load(y_BTH + at, there, 0.0)
        dh += tl.load(dy_BTH + at, there, 0.0)
        d = tl.where(there & ~(h <= 0), dh, 0.0) if RELU else tl.where(there, dh * (1 - h * h), 0.0)
        dh = _times(d, w)
        tl.store(dinputs_BTGH + at, d, there)
    tl.store(dh_BH + rows * hidden + units, dh, there)

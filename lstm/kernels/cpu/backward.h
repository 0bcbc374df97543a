/* The backward pass of one block of columns, and its share of the weight gradients. */
#ifndef NIGHTCAST_BACKWARD_H
#define NIGHTCAST_BACKWARD_H

#include "layout.h"

/* From the gradient by a step's output to that by its gates, unit by unit.
 *
 * kept: of this step, [H][columns / LANES][kept][LANES]: an LSTM's i, f, g, o and the c before; a GRU's n, r, z, what
 *     r scales and the h before; an RNN's h.
 * dh: in, by this step's h; out, the part of it that reaches the h before directly (GRU's z h).
 * dc: in, by this step's c from the steps after; out, by the c before.
 * gates: out, [gates * H][columns].
 * h_before: out for a GRU, the h before this step.
 * h_now: out for an LSTM, whose h is not kept: this step's; NULL: not wanted. */
INLINE void backward_gates(const int cell, const int columns, int64_t H, const float *kept, float *dh,
                           float *dc, float *gates, float *h_before, float *h_now) {
    const int64_t block = H * columns;
    for (int64_t at = 0; at < block; at += LANES, kept += kept_count(cell) * LANES) {
        vec by_h = load(dh + at);
        if (cell == CELL_LSTM) {
            vec i = load(kept), f = load(kept + LANES), g = load(kept + 2 * LANES);
            vec o = load(kept + 3 * LANES), before = load(kept + 4 * LANES);
            vec c = tanh_of(f * before + i * g);
            vec by_c = load(dc + at) + by_h * o * (1.0f - c * c);
            store(gates + at, by_c * g * i * (1.0f - i));
            store(gates + block + at, by_c * before * f * (1.0f - f));
            store(gates + 2 * block + at, by_c * i * (1.0f - g * g));
            store(gates + 3 * block + at, by_h * c * o * (1.0f - o));
            store(dc + at, by_c * f);
            store(dh + at, (vec){0});
            if (h_now) store(h_now + at, o * c);
        } else if (cell == CELL_GRU) {
            vec n = load(kept), r = load(kept + LANES), z = load(kept + 2 * LANES);
            vec hidden = load(kept + 3 * LANES), before = load(kept + 4 * LANES);
            vec by_n = by_h * (1.0f - z) * (1.0f - n * n);
            store(gates + at, by_n);
            store(gates + block + at, by_n * hidden * r * (1.0f - r));
            store(gates + 2 * block + at, by_h * (before - n) * z * (1.0f - z));
            store(gates + 3 * block + at, by_n * r);
            store(dh + at, by_h * z);
            store(h_before + at, before);
        } else {
            vec h = load(kept);
            vec passed = (vec)(~(h <= 0.0f) & (mask)by_h);
            store(gates + at, cell == CELL_TANH ? by_h * (1.0f - h * h) : passed);
            store(dh + at, (vec){0});
        }
    }
}

/* Cache lines that will be needed: they come nearer while something else is computed. */
typedef struct {
    const float *from;
    int64_t lines;
} fetch;

enum { cache_line = 16 /* floats */ };

/* to[rows][columns] += w[gate rows][rows]^T gates: `rows` rows at once. One of `ahead`'s lines is fetched every two
 * gate rows: more often, and the products would wait. So some are left out where a layer is small. */
INLINE void transposed_tile(const int rows, const int vectors, const float *w, const float *gates,
                            int64_t count, fetch ahead, float *to) {
    const int columns = vectors * LANES;
    vec sum[MOST_ROWS][2];
    _Pragma("GCC unroll 12") for (int r = 0; r < rows; r++)
        _Pragma("GCC unroll 2") for (int v = 0; v < vectors; v++) sum[r][v] =
            load(to + r * columns + v * LANES);
    const int64_t fetched = ahead.lines < count / 2 ? ahead.lines : count / 2;
    for (int64_t i = 0; i < fetched; i++, gates += 2 * columns) {
        __builtin_prefetch(ahead.from + i * cache_line, 0, 2);
        w = multiply(rows, vectors, -1, w, gates, 2, sum);
    }
    multiply(rows, vectors, -1, w, gates, count - 2 * fetched, sum);
    _Pragma("GCC unroll 12") for (int r = 0; r < rows; r++)
        _Pragma("GCC unroll 2") for (int v = 0; v < vectors; v++)
            store(to + r * columns + v * LANES, sum[r][v]);
}

INLINE void transposed_tiles(const int vectors, int most, const float *w, const float *gates, int64_t count,
                             int64_t rows, fetch ahead, float *to) {
    const int64_t tiles = (rows + most - 1) / most;
    fetch share = {ahead.from, tiles ? (ahead.lines + tiles - 1) / tiles : 0};
    for (int64_t first = 0; first < rows;) {
        int take = even_share(rows - first, most);
        float *at = to + first * vectors * LANES;
#define ROWS(n) \
    case n: transposed_tile(n, vectors, w, gates, count, share, at); break;
        switch (take) {
            ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7) ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12)
        }
#undef ROWS
        w += take * count;
        share.from += share.lines * cache_line;
        first += take;
    }
}

/* to[rows][columns] += w^T gates, `most` rows at a time, as they are packed; meanwhile `ahead` comes nearer. */
TARGET static void transposed(int vectors, int most, const float *w, const float *gates, int64_t count,
                              int64_t rows, fetch ahead, float *to) {
    if (vectors == 2)
        transposed_tiles(2, most, w, gates, count, rows, ahead, to);
    else
        transposed_tiles(1, most, w, gates, count, rows, ahead, to);
}

/* Weight gradients of a chunk of steps: to[k][j] += sum over steps and columns of gates[j] inputs[k].
 *
 * A tile of four gate rows and some input rows is summed in registers, lane by lane, over the whole chunk. The
 * same input rows meet some gate rows, few enough to stay near until the next ones come. */
enum { tile_gates = 4, tile_inputs = WEIGHT_ROWS, gate_block = 32 };

INLINE void weight_tile(const int rows, const float *gates, int64_t gate_step, const float *inputs,
                        int64_t input_step, int64_t columns, int64_t steps, float *to, int64_t stride) {
    vec sum[tile_inputs][tile_gates] = {0};
    for (int64_t t = 0; t < steps; t++, gates += gate_step, inputs += input_step)
        for (int64_t at = 0; at < columns; at += LANES) {
            vec d[tile_gates];
            _Pragma("GCC unroll 4") for (int j = 0; j < tile_gates; j++) d[j] =
                load(gates + j * columns + at);
            _Pragma("GCC unroll 8") for (int k = 0; k < rows; k++) {
                vec z = load(inputs + k * columns + at);
                _Pragma("GCC unroll 4") for (int j = 0; j < tile_gates; j++) sum[k][j] += z * d[j];
            }
        }
    _Pragma("GCC unroll 8") for (int k = 0; k < rows; k++) * (unaligned_quad *)(to + k * stride) +=
        lane_sums(sum[k]);
}

TARGET static void weight_gradients(const float *gates, int64_t gate_rows, int64_t gate_step,
                                    const float *inputs, int64_t input_rows, int64_t input_step,
                                    int64_t columns, int64_t steps, float *to, int64_t stride) {
    for (int64_t block = 0; block < gate_rows; block += gate_block) {
        const int64_t end = block + gate_block < gate_rows ? block + gate_block : gate_rows;
        for (int64_t k = 0; k < input_rows;) {
            const int take = even_share(input_rows - k, tile_inputs);
            for (int64_t j = block; j < end; j += tile_gates) {
#define ROWS(n) \
    case n: \
        weight_tile(n <= tile_inputs ? n : 1, gates + j * columns, gate_step, inputs + k * columns, \
                    input_step, columns, steps, to + k * stride + j, stride); \
        break;
                switch (take) { ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) }
#undef ROWS
            }
            k += take;
        }
    }
}

/* Likewise those of the biases: to[j] += sum of gates[j]. */
TARGET static void bias_gradients(const float *gates, int64_t gate_rows, int64_t gate_step, int64_t columns,
                                  int64_t steps, float *to) {
    for (int64_t j = 0; j < gate_rows; j += tile_gates) {
        vec sum[tile_gates] = {0};
        for (int64_t t = 0; t < steps; t++)
            for (int64_t at = 0; at < columns; at += LANES)
                _Pragma("GCC unroll 4") for (int i = 0; i < tile_gates; i++) sum[i] +=
                    load(gates + t * gate_step + (j + i) * columns + at);
        *(unaligned_quad *)(to + j) += lane_sums(sum);
    }
}

/* Gate rows of a step in a chunk and in the sums: whole tiles, wherever among the rows the first tile begins. */
static inline int64_t padded_gates(const layer *l) {
    return ROUND_UP(gate_count(l->cell) * l->hidden, tile_gates) + tile_gates;
}

static inline int64_t chunk_steps(const layer *l) { return l->steps < chunk ? l->steps : chunk; }

/* Floats of a thread's sums of weight and bias gradients: [H + I + 1][gate rows], the bias last. */
static int64_t sum_floats(const layer *l) {
    return ROUND_UP(padded_gates(l) * (l->hidden + l->inputs + 1), 16);
}

static void add_sums(const layer *l, const float *own, int gate, int64_t unit, int64_t first, int64_t last, float *to) {
    const int64_t stride = padded_gates(l);
    for (int64_t k = first; k < last; k++) *to++ += own[k * stride + gate * l->hidden + unit];
}

/* Floats of a thread's own memory: its sums, if any, then states and a chunk of steps. */
static int64_t own_floats(const layer *l, int backward) {
    const int64_t H = l->hidden, I = l->inputs, columns = l->vectors * LANES;
    if (!backward) return ROUND_UP((3 * H + I) * columns, 16);
    const int64_t a_step = padded_gates(l) + H + I;
    return sum_floats(l) + ROUND_UP((2 * H + I + chunk_steps(l) * a_step) * columns, 16);
}

static int64_t packed_floats(const layer *l, int backward) {
    const int64_t H = l->hidden, I = l->inputs, gates = gate_count(l->cell), entered = entered_count(l->cell);
    return ROUND_UP((backward ? 0 : gates * H) + entered * H * (H + I), 16);
}

static void pack(const layer *l, int backward, float *to) {
    if (!backward) {
        pack_forward(l, to);
        return;
    }
    pack_backward(l, l->w_hh, by_state[l->cell], l->hidden, to);
    pack_backward(l, l->w_ih, by_input[l->cell], l->inputs,
                  to + entered_count(l->cell) * l->hidden * l->hidden);
}

/* The h before step t, the first row of z, where it is not another step's to write: a GRU's is kept with its gates, and
 * an LSTM's is computed with the step that it comes from, unless that is of the chunk before. */
INLINE void state_before(const int cell, const layer *l, int64_t first, const int columns, int64_t t,
                         int is_first, const float *now, float *to) {
    const int64_t block = l->hidden * columns, kept = kept_count(cell) * block;
    if (cell != CELL_GRU && t == 0)
        gather(l->batch, first, columns, l->h0, l->hidden, 1, l->hidden, 0, to);
    else if (gate_count(cell) == 1)
        memcpy(to, now - kept, sizeof(float) * (size_t)block);
    else if (cell == CELL_LSTM && is_first)
        for (int64_t at = 0; at < block; at += LANES) {
            const float *unit = now + kept_count(cell) * at, *unit_before = unit - kept;
            store(to + at, load(unit_before + 3 * LANES) * tanh_of(load(unit + 4 * LANES)));
        }
}

INLINE void backward_block(const int cell, const int vectors, const layer *l, const float *weights,
                           float *sums, float *own, int64_t first) {
    const int columns = vectors * LANES, gates = gate_count(cell), most = rows_a_tile(l->vectors);
    const int64_t H = l->hidden, I = l->inputs, T = l->steps, block = H * columns;
    const int64_t entered = entered_count(cell) * H, kept = kept_count(cell) * block;
    const int64_t stride = padded_gates(l), gate_step = stride * columns, input_step = (H + I) * columns;
    const float *saved = l->saved + first * T * kept_count(cell) * H;
    /* Of GRU's gate rows the state enters all but the first block, the input all but the last. */
    const int64_t state_gates = cell == CELL_GRU ? block : 0;
    float *dh = own, *dc = dh + block, *dx = dc + block;
    float *d = dx + I * columns, *z = d + chunk_steps(l) * gate_step;
    float *bias_sums = sums + (H + I) * stride;

    /* What fills up the last tile of gate rows is read: let it be numbers. */
    for (int64_t t = 0; t < chunk_steps(l); t++)
        memset(d + t * gate_step + gates * block, 0, sizeof(float) * (size_t)(gate_step - gates * block));
    gather_gradient(l->batch, first, columns, l->dh_n, H, 1, H, 0, dh);
    if (cell == CELL_LSTM) gather_gradient(l->batch, first, columns, l->dc_n, H, 1, H, 0, dc);
    for (int64_t end = T; end > 0;) {
        const int64_t start = end > chunk ? end - chunk : 0;
        for (int64_t t = end - 1; t >= start; t--) {
            float *dt = d + (t - start) * gate_step, *zt = z + (t - start) * input_step;
            const float *now = saved + t * kept;
            gather(l->batch, first, columns, l->x + t * l->x_step, l->x_batch, l->x_input, I, 0, zt + block);
            if (l->dy)
                gather_gradient(l->batch, first, columns, l->dy + t * l->dy_step, l->dy_batch, l->dy_hidden, H, 1,
                                dh);
            state_before(cell, l, first, columns, t, t == start, now, zt);
            backward_gates(cell, columns, H, now, dh, dc, dt, zt, t + 1 < end ? zt + input_step : NULL);
            /* What forward kept of the step before lies farther away than anything else. */
            const fetch nothing = {now, 0}, ahead = t ? (fetch){now - kept, kept / cache_line} : nothing;
            transposed(vectors, most, weights, dt + state_gates, entered, H, ahead, dh);
            if (l->dx) {
                memset(dx, 0, sizeof(float) * (size_t)(I * columns));
                transposed(vectors, most, weights + entered * H, dt, entered, I, nothing, dx);
                scatter(l->batch, first, columns, dx, l->dx + t * I, T * I, I);
            }
        }
        const int64_t steps = end - start;
        if (cell == CELL_GRU) {
            weight_gradients(d + state_gates, entered, gate_step, z, H, input_step, columns, steps, sums + H,
                             stride);
            weight_gradients(d, entered, gate_step, z + block, I, input_step, columns, steps,
                             sums + H * stride, stride);
        } else
            weight_gradients(d, gates * H, gate_step, z, H + I, input_step, columns, steps, sums, stride);
        bias_gradients(d, gates * H, gate_step, columns, steps, bias_sums);
        end = start;
    }
    scatter(l->batch, first, columns, dh, l->dh0, H, H);
    if (cell == CELL_LSTM) scatter(l->batch, first, columns, dc, l->dc0, H, H);
}

#endif

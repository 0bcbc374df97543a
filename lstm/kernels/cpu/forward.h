/* The forward pass of one block of columns through all time steps. */
#ifndef NIGHTCAST_FORWARD_H
#define NIGHTCAST_FORWARD_H

#include "layout.h"

typedef struct {
    const float *state, *input; /* [H][columns], [I][columns] */
    float *next;                /* [H][columns] */
    float *cells;               /* [H][columns], an LSTM's; read and written */
    float *kept;                /* [H][columns / LANES][kept][LANES]; NULL: not wanted */
} cell_step;

/* One tile of units of one step; returns where the next tile's weights stand. `cell`, `units` and `vectors` are
 * constants wherever this is inlined. */
INLINE const float *forward_tile(const int cell, const int units, const int vectors, const float *w,
                                 int64_t H, int64_t I, int64_t unit, const cell_step *s) {
    const int gates = gate_count(cell), rows = units * gates, columns = vectors * LANES;
    vec sum[MOST_ROWS][2];
    _Pragma("GCC unroll 12") for (int r = 0; r < rows; r++)
        _Pragma("GCC unroll 2") for (int v = 0; v < vectors; v++) sum[r][v] = spread(w[r]);
    w = multiply(rows, vectors, cell == CELL_GRU ? 0 : -1, w + rows, s->state, H, sum);
    w = multiply(rows, vectors, cell == CELL_GRU ? 3 : -1, w, s->input, I, sum);
    _Pragma("GCC unroll 12") for (int u = 0; u < units; u++) {
        _Pragma("GCC unroll 2") for (int v = 0; v < vectors; v++) {
            const int64_t at = (unit + u) * columns + v * LANES;
            float *kept = s->kept ? s->kept + at * kept_count(cell) : NULL;
            if (cell == CELL_LSTM) {
                vec i = sigmoid(sum[gates * u][v]), f = sigmoid(sum[gates * u + 1][v]);
                vec g = tanh_of(sum[gates * u + 2][v]), o = sigmoid(sum[gates * u + 3][v]);
                vec before = load(s->cells + at), c = f * before + i * g;
                store(s->cells + at, c);
                store(s->next + at, o * tanh_of(c));
                if (kept) {
                    store(kept, i);
                    store(kept + LANES, f);
                    store(kept + 2 * LANES, g);
                    store(kept + 3 * LANES, o);
                    store(kept + 4 * LANES, before);
                }
            } else if (cell == CELL_GRU) {
                vec r = sigmoid(sum[gates * u + 1][v]), z = sigmoid(sum[gates * u + 2][v]);
                vec n = tanh_of(sum[gates * u][v] + r * sum[gates * u + 3][v]);
                vec before = load(s->state + at);
                store(s->next + at, n + z * (before - n));
                if (kept) {
                    store(kept, n);
                    store(kept + LANES, r);
                    store(kept + 2 * LANES, z);
                    store(kept + 3 * LANES, sum[gates * u + 3][v]);
                    store(kept + 4 * LANES, before);
                }
            } else {
                vec h = cell == CELL_TANH ? tanh_of(sum[u][v]) : rectified(sum[u][v]);
                store(s->next + at, h);
                if (kept) store(kept, h);
            }
        }
    }
    return w;
}

/* All tiles of one step; `most` units each, as they are packed. */
INLINE void forward_step(const int cell, const int vectors, int most, const float *w, int64_t H, int64_t I,
                         const cell_step *s) {
    const int is_single = gate_count(cell) == 1;
    for (int64_t unit = 0; unit < H; unit += most) {
#define UNITS(n) \
    case n: \
        if (n <= 3 || is_single) \
            w = forward_tile(cell, n <= 3 || is_single ? n : 1, vectors, w, H, I, unit, s); \
        break;
        switch (unit + most < H ? most : H - unit) { UNITS(1) UNITS(2) UNITS(3) UNITS(4) UNITS(5) UNITS(6) }
#undef UNITS
    }
}

/* The columns from `first` on. `weights` are packed; `own` holds [3 H + I][columns]. */
INLINE void forward_block(const int cell, const int vectors, const layer *l, const float *weights, float *own,
                          int64_t first) {
    const int columns = vectors * LANES;
    const int64_t H = l->hidden, I = l->inputs, kept = kept_count(cell) * H * columns;
    float *state = own, *next = state + H * columns, *cells = next + H * columns,
          *input = cells + H * columns;
    float *saved = l->saved ? l->saved + first * l->steps * kept_count(cell) * H : NULL;
    gather(l->batch, first, columns, l->h0, H, 1, H, 0, state);
    if (cell == CELL_LSTM) gather(l->batch, first, columns, l->c0, H, 1, H, 0, cells);
    for (int64_t t = 0; t < l->steps; t++) {
        gather(l->batch, first, columns, l->x + t * l->x_step, l->x_batch, l->x_input, I, 0, input);
        cell_step s = {state, input, next, cells, saved ? saved + t * kept : NULL};
        forward_step(cell, vectors, units_a_tile(cell, l->vectors), weights, H, I, &s);
        float *before = state;
        state = next;
        next = before;
        if (l->y) scatter(l->batch, first, columns, state, l->y + t * l->y_step, l->y_batch, H);
    }
    scatter(l->batch, first, columns, state, l->h_n, H, H);
    if (cell == CELL_LSTM) scatter(l->batch, first, columns, cells, l->c_n, H, H);
}

#endif

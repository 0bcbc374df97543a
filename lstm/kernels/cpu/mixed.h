/* The recurrent layer in mixed precision: products of bfloat16 (tiles.h, dots.h), sums, states and gates in float32,
 * and what the backward pass needs kept as float16.
 *
 * As in recurrent.h batch rows lie along the vectors, and a thread walks its columns through all steps alone. Here rows
 * of gates are unit by unit, gate by gate, and what a gate does not read has weights of 0: so an infinite input may
 * make NaN of a GRU's row, as it does where AMX multiplies by them. float16 ends at 65504, which no cell state passes
 * that starts near 0 and takes fewer steps; a relu's could, so there is none here.
 *
 * Included by amx.c and bf16.c, which take in avx512.h, and tiles.h or dots.h before, and define
 *   CODE             the name of what they make
 *   BEGIN, END       what a thread does before and after its columns
 *   STREAMED         bytes of what is kept from which on it goes past the caches */
#ifndef NIGHTCAST_MIXED_H
#define NIGHTCAST_MIXED_H

#include "mixed_layout.h"

/* ---- numbers ---- */

/* x P(x^2) / Q(x^2), a minimax fit of degrees 2 and 2 on [0, 5]: relative error 5e-5, with the quotient's 1.2e-4, which
 * bfloat16 cannot tell. */
INLINE vec rough_tanh(vec x) {
    x = (vec)HIGHER(spread(-5.0f), (vec)LOWER(spread(5.0f), x));
    vec s = x * x;
    vec p = s * 6.70577419e-04f + 1.02418223e-01f;
    vec q = s * 1.28200253e-02f + 4.35433211e-01f;
    p = p * s + 9.99948172e-01f;
    q = q * s + 1.0f;
    return x * (p * (vec)RECIPROCAL(q));
}

/* tanh(x / 2) / 2 + 1 / 2, by the same fit: its numbers over powers of two. */
INLINE vec rough_sigmoid(vec x) {
    x = (vec)HIGHER(spread(-10.0f), (vec)LOWER(spread(10.0f), x));
    vec s = x * x;
    vec p = s * (6.70577419e-04f / 64) + 1.02418223e-01f / 16;
    vec q = s * (1.28200253e-02f / 16) + 4.35433211e-01f / 4;
    p = p * s + 9.99948172e-01f / 4;
    q = q * s + 1.0f;
    return x * (p * (vec)RECIPROCAL(q)) + 0.5f;
}

/* ---- forward ---- */

/* Rows [count][COLUMNS] as words of two rows each; beyond an odd last one stands 0. */
INLINE void pair_rows(const float *rows, int64_t count, uint32_t *to) {
    for (int64_t k = 0; k < count; k += 2, rows += 2 * COLUMNS, to += COLUMNS)
        for (int v = 0; v < COLUMNS; v += LANES)
            store_words(to + v, paired(load(rows + v), k + 1 < count ? load(rows + COLUMNS + v) : (vec){0}));
}

typedef struct {
    float *state, *cells; /* [H][COLUMNS]; read and written */
    uint16_t *kept;       /* [H][kept][COLUMNS] float16; NULL: not wanted */
    int streamed;         /* whether it goes past the caches */
} cell_step;

/* Whether what is kept goes past the caches: it would push out all else, and be gone before backward reads it. Only to
 * whole lines of a cache may it be stored so; memory of that size begins with one wherever it comes in pages. */
static int is_streamed(const layer *l) {
    const int64_t size = 2 * l->batch * l->steps * kept_count(l->cell) * l->hidden;
    return size >= STREAMED && (uintptr_t)l->saved % 64 == 0;
}

/* A unit's step, from the sums of its gates [gates][COLUMNS]. */
INLINE void activate(const int cell, const float *sums, int64_t unit, const cell_step *s) {
    float16s keep[5][2];
    _Pragma("GCC unroll 2") for (int v = 0; v < 2; v++) {
        float *state = s->state + unit * COLUMNS + v * LANES, *cells = s->cells + unit * COLUMNS + v * LANES;
        const float *of = sums + v * LANES;
        vec own[5];
        if (cell == CELL_LSTM) {
            vec i = rough_sigmoid(load(of)), f = rough_sigmoid(load(of + COLUMNS));
            vec g = rough_tanh(load(of + 2 * COLUMNS)), o = rough_sigmoid(load(of + 3 * COLUMNS));
            vec before = load(cells), c = f * before + i * g;
            store(cells, c);
            store(state, o * rough_tanh(c));
            own[0] = i, own[1] = f, own[2] = g, own[3] = o, own[4] = before;
        } else if (cell == CELL_GRU) {
            vec r = rough_sigmoid(load(of + COLUMNS)), z = rough_sigmoid(load(of + 2 * COLUMNS));
            vec hidden = load(of + 3 * COLUMNS), n = rough_tanh(load(of) + r * hidden), before = load(state);
            store(state, n + z * (before - n));
            own[0] = n, own[1] = r, own[2] = z, own[3] = hidden, own[4] = before;
        } else {
            own[0] = rough_tanh(load(of));
            store(state, own[0]);
        }
        _Pragma("GCC unroll 5") for (int k = 0; k < kept_count(cell); k++) keep[k][v] = AS_FLOAT16(own[k]);
    }
    if (!s->kept) return;
    uint16_t *kept = s->kept + unit * kept_count(cell) * COLUMNS;
    _Pragma("GCC unroll 5") for (int k = 0; k < kept_count(cell); k++, kept += COLUMNS)
        if (s->streamed)
            stream_float16s(kept, keep[k][0], keep[k][1]);
        else
            store_float16s(kept, keep[k][0], keep[k][1]);
}

/* All units of a step. The next tile's sums are made before one tile's units are computed: nothing waits for them. */
INLINE void mixed_step(const int cell, const layer *l, const uint32_t *w, const uint32_t *now, uint32_t *next,
                       float *sums, const cell_step *s) {
    const int gates = gate_count(cell), units = SIDE / gates;
    const int64_t H = l->hidden, depth = forward_depth(l), entering = forward_words(l);
    gate_product(cell, w, now, H * gates, state_words(l), entering, sums);
    for (int64_t unit = 0; unit < H; unit += units) {
        const float *own = sums + unit / units % 2 * SIDE * COLUMNS;
        w += depth * TILE;
        const int64_t rest = H - unit - units, count = rest < 0 ? H - unit : units;
        if (rest > 0)
            gate_product(cell, w, now, rest * gates, state_words(l), entering,
                         sums + (unit / units + 1) % 2 * SIDE * COLUMNS);
        for (int64_t u = 0; u < count; u++) activate(cell, own + u * gates * COLUMNS, unit + u, s);
        pair_rows(s->state + unit * COLUMNS, count, next + unit / 2 * COLUMNS);
    }
}

INLINE void mixed_forward(const int cell, const layer *l, const uint32_t *weights, float *own, int64_t first) {
    const int64_t H = l->hidden, I = l->inputs, words_of = forward_depth(l) * SIDE * COLUMNS;
    uint32_t *now = (uint32_t *)own, *next = now + words_of;
    float *sums = own + 2 * words_of, *state = sums + 2 * SIDE * COLUMNS, *cells = state + H * COLUMNS;
    float *input = cells + H * COLUMNS;
    const int64_t kept = kept_count(cell) * H * COLUMNS;
    uint16_t *saved = l->saved ? (uint16_t *)l->saved + first * l->steps * kept_count(cell) * H : NULL;
    const int streamed = is_streamed(l);

    memset(now, 0, sizeof *now * (size_t)(2 * words_of));
    gather(l->batch, first, COLUMNS, l->h0, H, 1, H, 0, state);
    if (cell == CELL_LSTM) gather(l->batch, first, COLUMNS, l->c0, H, 1, H, 0, cells);
    pair_rows(state, H, now);
    for (int at = 0; at < COLUMNS; at++)
        now[state_words(l) * COLUMNS + at] = next[state_words(l) * COLUMNS + at] = ONES;
    for (int64_t t = 0; t < l->steps; t++) {
        gather(l->batch, first, COLUMNS, l->x + t * l->x_step, l->x_batch, l->x_input, I, 0, input);
        pair_rows(input, I, now + (state_words(l) + 1) * COLUMNS);
        const cell_step s = {state, cells, saved ? saved + t * kept : NULL, streamed};
        mixed_step(cell, l, weights, now, next, sums, &s);
        uint32_t *before = now;
        now = next;
        next = before;
        if (l->y) scatter(l->batch, first, COLUMNS, state, l->y + t * l->y_step, l->y_batch, H);
    }
    if (streamed) END_STREAMS; /* whatever thread reads it: such stores keep no order */
    scatter(l->batch, first, COLUMNS, state, l->h_n, H, H);
    if (cell == CELL_LSTM) scatter(l->batch, first, COLUMNS, cells, l->c_n, H, H);
}

/* ---- backward ---- */

/* A row of floats [COLUMNS] as words of its two vectors: so it lies in tiles whose summed axis is the columns. */
INLINE void fold_row(vec low, vec high, uint32_t *to) { store_words(to, paired(low, high)); }

/* From the gradient by a step's output to that by its gates, unit by unit: as `backward_gates` of backward.h, but
 * gates, out, and `h_before` or `h_now`, out, are folded rows. What was kept of the step before comes nearer. */
INLINE void mixed_gates(const int cell, int64_t H, const uint16_t *kept, int64_t kept_step, float *dh, float *dc,
                        uint32_t *gates, uint32_t *h_before, uint32_t *h_now) {
    for (int64_t u = 0; u < H; u++, kept += kept_count(cell) * COLUMNS, dh += COLUMNS, dc += COLUMNS) {
        vec d[4][2], h[2];
        _Pragma("GCC unroll 5") for (int k = 0; k < kept_count(cell); k++)
            __builtin_prefetch(kept - kept_step + k * COLUMNS, 0, 2);
        _Pragma("GCC unroll 2") for (int half = 0; half < 2; half++) {
            const int v = half * LANES;
            const uint16_t *of = kept + v;
            vec by_h = load(dh + v);
            if (cell == CELL_LSTM) {
                vec i = load_half(of), f = load_half(of + COLUMNS), g = load_half(of + 2 * COLUMNS);
                vec o = load_half(of + 3 * COLUMNS), before = load_half(of + 4 * COLUMNS);
                vec c = rough_tanh(f * before + i * g), by_c = load(dc + v) + by_h * o * (1.0f - c * c);
                d[0][half] = by_c * g * i * (1.0f - i);
                d[1][half] = by_c * before * f * (1.0f - f);
                d[2][half] = by_c * i * (1.0f - g * g);
                d[3][half] = by_h * c * o * (1.0f - o);
                store(dc + v, by_c * f);
                store(dh + v, (vec){0});
                h[half] = o * c;
            } else if (cell == CELL_GRU) {
                vec n = load_half(of), r = load_half(of + COLUMNS), z = load_half(of + 2 * COLUMNS);
                vec hidden = load_half(of + 3 * COLUMNS), by_n = by_h * (1.0f - z) * (1.0f - n * n);
                h[half] = load_half(of + 4 * COLUMNS);
                d[0][half] = by_n;
                d[1][half] = by_n * hidden * r * (1.0f - r);
                d[2][half] = by_h * (h[half] - n) * z * (1.0f - z);
                d[3][half] = by_n * r;
                store(dh + v, by_h * z);
            } else {
                h[half] = load_half(of);
                d[0][half] = by_h * (1.0f - h[half] * h[half]);
                store(dh + v, (vec){0});
            }
        }
        const int count = gate_count(cell);
        _Pragma("GCC unroll 4") for (int g = 0; g < count; g++, gates += SIDE) fold_row(d[g][0], d[g][1], gates);
        if (cell == CELL_GRU)
            fold_row(h[0], h[1], h_before + u * SIDE);
        else if (h_now)
            fold_row(h[0], h[1], h_now + u * SIDE);
    }
}

/* Folded rows [count][16] as words of two rows each [count / 2][COLUMNS]; beyond an odd last one stands 0. */
INLINE void pair_folded(const uint32_t *rows, int64_t count, uint32_t *to) {
    for (int64_t k = 0; k < count; k += 2, rows += 2 * SIDE, to += COLUMNS) {
        words a = load_words(rows), b = k + 1 < count ? load_words(rows + SIDE) : (words){0};
        store_words(to, (a & 0xffffu) | b << 16);
        store_words(to + LANES, a >> 16 | (b & 0xffff0000u));
    }
}

/* The h before step t, folded, where no other step's `mixed_gates` writes it: a GRU's it keeps itself, and that of
 * others is known with the step that it comes from, unless that is of the chunk before. */
INLINE void mixed_state_before(const int cell, const layer *l, int64_t first, int64_t t, int is_first,
                               const uint16_t *now, int64_t kept_step, float *room, uint32_t *to) {
    const int64_t H = l->hidden;
    if (cell == CELL_GRU || (t > 0 && !is_first)) return;
    if (t == 0) {
        gather(l->batch, first, COLUMNS, l->h0, H, 1, H, 0, room);
        for (int64_t u = 0; u < H; u++, room += COLUMNS) fold_row(load(room), load(room + LANES), to + u * SIDE);
        return;
    }
    const int64_t count = kept_count(cell) * COLUMNS;
    for (int64_t u = 0; u < H; u++, now += count) {
        vec h[2];
        for (int half = 0; half < 2; half++) {
            const uint16_t *of = now + half * LANES;
            if (cell == CELL_LSTM)
                h[half] = load_half(of - kept_step + 3 * COLUMNS) * rough_tanh(load_half(of + 4 * COLUMNS));
            else
                h[half] = load_half(of - kept_step);
        }
        fold_row(h[0], h[1], to + u * SIDE);
    }
}

INLINE void mixed_backward(const int cell, const layer *l, const uint32_t *weights, float *sums, float *own,
                           int64_t first) {
    const int64_t H = l->hidden, I = l->inputs, T = l->steps, block = H * COLUMNS;
    const int64_t kept = kept_count(cell) * block, depth = backward_depth(l), rows = gate_rows(l);
    const int64_t gate_tiles = tiles(rows, SIDE), entering_tiles = tiles(entering_rows(l), SIDE);
    const int64_t gate_step = gate_tiles * TILE, entering_step = entering_tiles * TILE;
    const uint16_t *saved = (const uint16_t *)l->saved + first * T * kept_count(cell) * H;
    const uint32_t *input_weights = weights + tiles(H, SIDE) * depth * TILE;
    const int64_t steps = T < chunk ? T : chunk;
    uint32_t *d = (uint32_t *)own, *z = d + steps * gate_step, *turned_z = z + steps * entering_step;
    uint32_t *pairs = turned_z + steps * entering_step;
    float *dh = (float *)(pairs + depth * SIDE * COLUMNS), *dx = dh + ROUND_UP(H, SIDE) * COLUMNS;
    float *dc = dx + ROUND_UP(I, SIDE) * COLUMNS, *room = dc + block;

    /* What fills up tiles: zeros; a row of ones for the biases. */
    memset(own, 0, (size_t)((char *)dc - (char *)own));
    for (int64_t t = 0; t < steps; t++)
        for (int at = 0; at < SIDE; at++) z[t * entering_step + (H + I) * SIDE + at] = ONES;
    gather_gradient(l->batch, first, COLUMNS, l->dh_n, H, 1, H, 0, dh);
    if (cell == CELL_LSTM) gather_gradient(l->batch, first, COLUMNS, l->dc_n, H, 1, H, 0, dc);
    for (int64_t end = T; end > 0;) {
        const int64_t start = end > chunk ? end - chunk : 0;
        for (int64_t t = end - 1; t >= start; t--) {
            uint32_t *dt = d + (t - start) * gate_step, *zt = z + (t - start) * entering_step;
            const uint16_t *now = saved + t * kept;
            gather(l->batch, first, COLUMNS, l->x + t * l->x_step, l->x_batch, l->x_input, I, 0, room);
            for (int64_t k = 0; k < I; k++)
                fold_row(load(room + k * COLUMNS), load(room + k * COLUMNS + LANES), zt + (H + k) * SIDE);
            if (l->dy)
                gather_gradient(l->batch, first, COLUMNS, l->dy + t * l->dy_step, l->dy_batch, l->dy_hidden, H, 1, dh);
            mixed_state_before(cell, l, first, t, t == start, now, kept, room, zt);
            mixed_gates(cell, H, now, t ? kept : 0, dh, dc, dt, zt, t + 1 < end ? zt + entering_step : NULL);
            pair_folded(dt, rows, pairs);
            for (int64_t k = 0; k < H; k += SIDE)
                product(1, weights + k / SIDE * depth * TILE, pairs, H - k, tiles(rows, 2), dh + k * COLUMNS);
            if (l->dx) {
                for (int64_t k = 0; k < I; k += SIDE)
                    product(0, input_weights + k / SIDE * depth * TILE, pairs, I - k, tiles(rows, 2), dx + k * COLUMNS);
                scatter(l->batch, first, COLUMNS, dx, l->dx + t * I, T * I, I);
            }
        }
        for (int64_t t = 0; t < end - start; t++)
            for (int64_t k = 0; k < entering_tiles; k++)
                turn_tile(z + t * entering_step + k * TILE, turned_z + t * entering_step + k * TILE);
        add_weights(cell, d, rows, turned_z, entering_rows(l), H, end - start, sums);
        end = start;
    }
    scatter(l->batch, first, COLUMNS, dh, l->dh0, H, H);
    if (cell == CELL_LSTM) scatter(l->batch, first, COLUMNS, dc, l->dc0, H, H);
}

/* ---- a thread's memory ---- */

/* Floats of a thread's sums: [gate tile][entering tile]. */
static int64_t sum_floats(const layer *l) { return tiles(gate_rows(l), SIDE) * tiles(entering_rows(l), SIDE) * TILE; }

static void add_sums(const layer *l, const float *own, int gate, int64_t unit, int64_t first, int64_t last, float *to) {
    const int64_t row = unit * gate_count(l->cell) + gate, across = tiles(entering_rows(l), SIDE);
    const float *from = own + row / SIDE * across * TILE + row % SIDE * SIDE;
    for (int64_t k = first; k < last; k++) *to++ += from[k / SIDE * TILE + k % SIDE];
}

static int64_t own_floats(const layer *l, int backward) {
    const int64_t H = l->hidden, I = l->inputs;
    if (!backward) return 2 * forward_depth(l) * SIDE * COLUMNS + (2 * SIDE + 2 * H + I) * COLUMNS;
    const int64_t steps = l->steps < chunk ? l->steps : chunk, room = H > I ? H : I;
    const int64_t gates = tiles(gate_rows(l), SIDE), entering = tiles(entering_rows(l), SIDE);
    return sum_floats(l) + steps * (gates + 2 * entering) * TILE +
           (backward_depth(l) * SIDE + ROUND_UP(H, SIDE) + ROUND_UP(I, SIDE) + H + room) * COLUMNS;
}

/* ---- entry points ---- */

#define EACH_CELL \
    switch (l->cell) { \
        case CELL_LSTM: PASS(CELL_LSTM); break; \
        case CELL_GRU: PASS(CELL_GRU); break; \
        default: PASS(CELL_TANH); \
    }

TARGET static void forward(const void *task, const float *weights, float *own, int64_t first, int64_t last) {
    const layer *l = task;
    BEGIN;
    for (; first < last; first += COLUMNS) {
#define PASS(cell) mixed_forward(cell, l, (const uint32_t *)weights, own, first)
        EACH_CELL
#undef PASS
    }
    END;
}

TARGET static void backward(const void *task, const float *weights, float *own, int64_t first, int64_t last) {
    const layer *l = task;
    memset(own, 0, sizeof(float) * (size_t)sum_floats(l));
    BEGIN;
    for (; first < last; first += COLUMNS) {
#define PASS(cell) mixed_backward(cell, l, (const uint32_t *)weights, own, own + sum_floats(l), first)
        EACH_CELL
#undef PASS
    }
    END;
}

const code CODE = {
    .lanes = COLUMNS,
    .own_floats = own_floats,
    .packed_floats = packed_floats,
    .pack = pack,
    .forward = forward,
    .backward = backward,
    .add_sums = add_sums,
};

#endif

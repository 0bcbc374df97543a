/* The calendar head of a forecaster (lstm/models/heads.py), forward and backward, for every vector width. By step:
 *
 *   u = W_memory memory + b + W_calendar future + place,  a = gelu(u), units dropped,
 *   v = W_mix a + b,  out = W_out gelu(v) + b
 *
 * As in recurrent.h batch rows lie along the vectors, and a thread walks its columns through the steps alone: what is
 * between two products never leaves the nearest cache, but u and v, which the backward pass needs. */
#ifndef NIGHTCAST_HEAD_H
#define NIGHTCAST_HEAD_H

#include "backward.h"
#include "dropout.h"
#include "head_layout.h"

typedef uint64_t hashes __attribute__((vector_size(LANES * 4)));
typedef int64_t wholes __attribute__((vector_size(LANES * 4)));

/* ---- packing ---- */

/* w[row][column], by these strides, as `transposed` reads it: by tiles of rows, column by column. Returns the end. */
TARGET static float *pack_tiles(int64_t vectors, const float *w, int64_t row_stride, int64_t column_stride,
                                int64_t rows, int64_t columns, float *to) {
    const int most = rows_a_tile(vectors);
    for (int64_t first = 0; first < rows;) {
        const int take = even_share(rows - first, most);
        for (int64_t c = 0; c < columns; c++)
            for (int k = 0; k < take; k++) *to++ = w[(first + k) * row_stride + c * column_stride];
        first += take;
    }
    return to;
}

TARGET static void head_pack(const head *p, int backward, float *to) {
    const int64_t K = p->hidden, F = p->features, Q = p->outputs;
    if (!backward) {
        to = pack_tiles(p->vectors, p->w_calendar, F, 1, K, F, to);
        to = pack_tiles(p->vectors, p->w_mix, K, 1, K, K, to);
        to = pack_tiles(p->vectors, p->w_out, K, 1, Q, K, to);
        pack_tiles(p->vectors, p->w_memory, K, 1, K, K, to);
        return;
    }
    to = pack_tiles(p->vectors, p->w_out, 1, K, K, Q, to);
    to = pack_tiles(p->vectors, p->w_mix, 1, K, K, K, to);
    to = pack_tiles(p->vectors, p->w_memory, 1, K, K, K, to);
    if (p->dfuture) pack_tiles(p->vectors, p->w_calendar, 1, F, F, K, to);
}

/* ---- what stands between the products ---- */

INLINE hashes shifted_hashes(hashes z, int by) { return (hashes)((wholes)z >> by); }

/* `scrambled` of dropout.h. */
INLINE hashes scrambled_hashes(hashes z) {
    z = (z ^ shifted_hashes(z, 30)) * FIRST;
    z = (z ^ shifted_hashes(z, 27)) * SECOND;
    return z ^ shifted_hashes(z, 31);
}

/* The hashes of a vector's rows at a step: of every four rows the first two in the first half. */
INLINE void hash_rows(const head *p, int64_t first, int64_t step, hashes halves[2]) {
    uint64_t rows[2][LANES / 2];
    for (int lane = 0; lane < LANES; lane++)
        rows[lane % 4 / 2][lane / 4 * 2 + lane % 2] =
            (uint64_t)p->key + (uint64_t)((first + lane) * p->steps + step) * GOLDEN;
    for (int half = 0; half < 2; half++) {
        memcpy(&halves[half], rows[half], sizeof *halves);
        halves[half] = scrambled_hashes(halves[half]);
    }
}

/* Multiplies each unit of a step, in `a` and, unless it is NULL, in `also`, by its factor: 0 or the scale. */
INLINE void drop_units(const int vectors, const head *p, int64_t first, int64_t step, float *a, float *also) {
    const int columns = vectors * LANES;
    const int32_t threshold = (int32_t)p->threshold;
    for (int v = 0; v < vectors; v++) {
        hashes rows[2], hash[2];
        hash_rows(p, first + v * LANES, step, rows);
        for (int64_t unit = 0; unit < p->hidden; unit += 4) {
            for (int half = 0; half < 2; half++) {
                hash[half] = (rows[half] ^ group_hash(unit / 4)) * FIRST;
                hash[half] = (hash[half] ^ shifted_hashes(hash[half], 32)) * SECOND;
            }
            /* 32 bits of each row: two units' 16, of which the second ones keep their sign. */
            const mask low = SHUFFLE(mask, (mask)hash[0], (mask)hash[1], FOURS(0, 2, 4, 6));
            const mask high = SHUFFLE(mask, (mask)hash[0], (mask)hash[1], FOURS(1, 3, 5, 7));
            const mask bits[4] = {low << 16 >> 16, low >> 16, high << 16 >> 16, high >> 16};
            const int count = p->hidden - unit < 4 ? (int)(p->hidden - unit) : 4;
            for (int i = 0; i < count; i++) {
                const vec factor = (vec)((bits[i] >= threshold) & (mask)spread(p->scale));
                const int64_t at = (unit + i) * columns + v * LANES;
                store(a + at, load(a + at) * factor);
                if (also) store(also + at, load(also + at) * factor);
            }
        }
    }
}

/* to = gelu(x), x times the normal distribution's share below it (Hendrycks and Gimpel 2016, arXiv:1606.08415). */
INLINE void gelu(int64_t count, const float *x, float *to) {
    for (int64_t at = 0; at < count; at += LANES) {
        vec density, value = load(x + at);
        store(to + at, value * normal_of(value, &density));
    }
}

/* Likewise; and `by`, the gradient by it, becomes that by x. */
INLINE void gelu_backward(int64_t count, const float *x, float *to, float *by) {
    for (int64_t at = 0; at < count; at += LANES) {
        vec density, value = load(x + at), below = normal_of(value, &density);
        store(to + at, value * below);
        store(by + at, load(by + at) * (below + value * density));
    }
}

/* to[rows][columns] = the numbers, each spread over its row. */
INLINE void spread_rows(int columns, const float *numbers, int64_t rows, float *to) {
    for (int64_t k = 0; k < rows; k++)
        for (int at = 0; at < columns; at += LANES) store(to + k * columns + at, spread(numbers[k]));
}

/* ---- forward ---- */

INLINE void head_forward_block(const int vectors, const head *p, const float *packed, float *own, int64_t first) {
    const int columns = vectors * LANES, most = rows_a_tile(p->vectors);
    const int64_t K = p->hidden, F = p->features, Q = p->outputs, units = K * columns;
    const float *w_mix = packed + K * F, *w_out = w_mix + K * K, *w_memory = w_out + K * Q;
    float *memory = own, *a = memory + units, *future = a + units, *out = future + F * columns;
    float *u = p->saved ? p->saved + first * p->steps * 2 * K : out + Q * columns;
    const fetch nothing = {packed, 0};
    gather(p->batch, first, columns, p->memory, K, 1, K, 0, a);
    spread_rows(columns, p->b_memory, K, memory);
    transposed(vectors, most, w_memory, a, K, K, nothing, memory);
    for (int64_t step = 0; step < p->steps; step++) {
        float *v = u + units;
        gather(p->batch, first, columns, p->future + step * F, p->steps * F, 1, F, 0, future);
        for (int64_t k = 0; k < K; k++)
            for (int64_t at = k * columns; at < (k + 1) * columns; at += LANES)
                store(u + at, load(memory + at) + p->place[step * K + k]);
        transposed(vectors, most, packed, future, F, K, nothing, u);
        gelu(units, u, a);
        if (p->drops) drop_units(vectors, p, first, step, a, NULL);
        spread_rows(columns, p->b_mix, K, v);
        transposed(vectors, most, w_mix, a, K, K, nothing, v);
        gelu(units, v, a);
        spread_rows(columns, p->b_out, Q, out);
        transposed(vectors, most, w_out, a, K, Q, nothing, out);
        scatter(p->batch, first, columns, out, p->out + step * Q, p->steps * Q, Q);
        if (p->saved) u += 2 * units;
    }
}

/* ---- backward ---- */

/* A chunk of steps, each array step by step: gradients, in fours of rows, by out, v and u; and what entered. */
typedef struct {
    float *out, *v, *u;    /* [Q in fours], [K in fours] twice; all [columns] */
    float *future, *a, *g; /* [F], [K] twice */
} head_gradients;

/* One step: gradients by what it has, from those by its outputs. `u` is what forward kept. */
INLINE void head_backward_step(const int vectors, const head *p, const float *packed, int64_t first, int64_t step,
                               const float *u, const head_gradients *d) {
    const int columns = vectors * LANES, most = rows_a_tile(p->vectors);
    const int64_t K = p->hidden, F = p->features, Q = p->outputs, units = K * columns;
    const fetch nothing = {packed, 0};
    gather(p->batch, first, columns, p->future + step * F, p->steps * F, 1, F, 0, d->future);
    gather_gradient(p->batch, first, columns, p->dout + step * Q, p->steps * Q, 1, Q, 0, d->out);
    memset(d->v, 0, sizeof(float) * (size_t)units);
    transposed(vectors, most, packed, d->out, Q, K, nothing, d->v);
    gelu_backward(units, u + units, d->g, d->v);
    memset(d->u, 0, sizeof(float) * (size_t)units);
    transposed(vectors, most, packed + K * Q, d->v, K, K, nothing, d->u);
    gelu_backward(units, u, d->a, d->u);
    if (p->drops) drop_units(vectors, p, first, step, d->a, d->u);
}

INLINE void head_backward_block(const int vectors, const head *p, const float *packed, float *sums, int64_t first) {
    const int columns = vectors * LANES, most = rows_a_tile(p->vectors);
    const int64_t K = p->hidden, F = p->features, Q = p->outputs, steps = head_steps(p), units = K * columns;
    const int64_t by_units = in_fours(K) * columns, by_outputs = in_fours(Q) * columns;
    const head_sums s = head_sums_of(p);
    const float *saved = p->saved + first * p->steps * 2 * K, *w_memory = packed + K * Q + K * K;
    const float *w_calendar = w_memory + K * K;
    const fetch nothing = {packed, 0};
    float *by_memory = sums + s.end, *dfuture = by_memory + by_units;
    head_gradients all = {.out = dfuture + F * columns};
    all.v = all.out + steps * by_outputs, all.u = all.v + steps * by_units;
    all.future = all.u + steps * by_units, all.a = all.future + steps * F * columns, all.g = all.a + steps * units;

    /* What fills up a four is read: let it be numbers. */
    memset(all.out, 0, sizeof(float) * (size_t)(all.future - all.out));
    memset(by_memory, 0, sizeof(float) * (size_t)by_units);
    for (int64_t start = 0; start < p->steps; start += steps) {
        const int64_t count = p->steps - start < steps ? p->steps - start : steps;
        for (int64_t t = 0; t < count; t++) {
            const head_gradients d = {all.out + t * by_outputs,     all.v + t * by_units, all.u + t * by_units,
                                      all.future + t * F * columns, all.a + t * units,    all.g + t * units};
            head_backward_step(vectors, p, packed, first, start + t, saved + (start + t) * 2 * units, &d);
            for (int64_t i = 0; i < units; i += LANES) store(by_memory + i, load(by_memory + i) + load(d.u + i));
            bias_gradients(d.u, K, 0, columns, 1, sums + s.place + (start + t) * in_fours(K));
            if (p->dfuture) {
                memset(dfuture, 0, sizeof(float) * (size_t)(F * columns));
                transposed(vectors, most, w_calendar, d.u, K, F, nothing, dfuture);
                scatter(p->batch, first, columns, dfuture, p->dfuture + (start + t) * F, p->steps * F, F);
            }
        }
        weight_gradients(all.v, K, by_units, all.a, K, units, columns, count, sums + s.mix, in_fours(K));
        bias_gradients(all.v, K, by_units, columns, count, sums + s.mix + K * in_fours(K));
        weight_gradients(all.out, Q, by_outputs, all.g, K, units, columns, count, sums + s.out, in_fours(Q));
        bias_gradients(all.out, Q, by_outputs, columns, count, sums + s.out + K * in_fours(Q));
        weight_gradients(all.u, K, by_units, all.future, F, F * columns, columns, count, sums + s.calendar,
                         in_fours(K));
    }
    /* What entered the steps is no longer needed. */
    float *memory = all.a, *dmemory = all.g;
    gather(p->batch, first, columns, p->memory, K, 1, K, 0, memory);
    weight_gradients(by_memory, K, 0, memory, K, 0, columns, 1, sums + s.memory, in_fours(K));
    bias_gradients(by_memory, K, 0, columns, 1, sums + s.memory + K * in_fours(K));
    memset(dmemory, 0, sizeof(float) * (size_t)units);
    transposed(vectors, most, w_memory, by_memory, K, K, nothing, dmemory);
    scatter(p->batch, first, columns, dmemory, p->dmemory, K, K);
}

/* Over columns [first, last): whole vectors; as many at a time as the plan says, a single one at the end. */
TARGET static void head_forward(const void *task, const float *packed, float *own, int64_t first, int64_t last) {
    const head *p = task;
    for (; p->vectors == 2 && first + 2 * LANES <= last; first += 2 * LANES)
        head_forward_block(2, p, packed, own, first);
    for (; first < last; first += LANES) head_forward_block(1, p, packed, own, first);
}

TARGET static void head_backward(const void *task, const float *packed, float *own, int64_t first, int64_t last) {
    const head *p = task;
    memset(own, 0, sizeof(float) * (size_t)head_sums_of(p).end);
    for (; p->vectors == 2 && first + 2 * LANES <= last; first += 2 * LANES)
        head_backward_block(2, p, packed, own, first);
    for (; first < last; first += LANES) head_backward_block(1, p, packed, own, first);
}

#endif

/* How many rows there are of what, weights in the order in which they are read, and columns of a block. */
#ifndef NIGHTCAST_LAYOUT_H
#define NIGHTCAST_LAYOUT_H

#include <stddef.h>
#include <string.h>

#include "native.h"
#include "vector.h"

#define ROUND_UP(n, to) (((n) + (to) - 1) / (to) * (to))

static inline int gate_count(int cell) { return cell == CELL_LSTM || cell == CELL_GRU ? 4 : 1; }

/* Numbers that the backward pass needs of a unit and step: the gates, and the state before, c of an LSTM or h of a
 * GRU. An RNN's gate is its h. */
static inline int kept_count(int cell) { return gate_count(cell) == 4 ? 5 : 1; }

/* Rows of gates that the input (or the state) enters: three for GRU. */
static inline int entered_count(int cell) { return cell == CELL_GRU ? 3 : gate_count(cell); }

/* Steps whose gate gradients are gathered before they become weight gradients: few enough to stay in cache. */
enum { chunk = 16 };

/* ---- packing: weights in the order in which they are read ---- */

/* Units of a forward tile and rows of a transposed one, where blocks have that many vectors (the last may have
 * fewer). */
static inline int units_a_tile(int cell, int64_t vectors) {
    return gate_count(cell) == 1 ? 6 : vectors == 2 ? UNITS_2 : UNITS_1;
}

static inline int rows_a_tile(int64_t vectors) { return vectors == 2 ? ROWS_2 : ROWS_1; }

/* For each tile of units: bias rows, then for every row of the state, then of the input, one weight a gate row.
 * A tile's rows are unit by unit, gate by gate; only the gates that are entered stand there. */
TARGET static void pack_forward(const layer *l, float *to) {
    const int gates = gate_count(l->cell), most = units_a_tile(l->cell, l->vectors);
    int64_t H = l->hidden, I = l->inputs;
    const int *by_x = by_input[l->cell], *by_h = by_state[l->cell];
    for (int64_t unit = 0; unit < H; unit += most) {
        int64_t end = unit + most < H ? unit + most : H;
        for (int64_t u = unit; u < end; u++)
            for (int g = 0; g < gates; g++) {
                float bias = 0;
                if (l->b_ih && by_x[g] >= 0) bias += l->b_ih[by_x[g] * H + u];
                if (l->b_hh && by_h[g] >= 0) bias += l->b_hh[by_h[g] * H + u];
                *to++ = bias;
            }
        for (int64_t k = 0; k < H; k++)
            for (int64_t u = unit; u < end; u++)
                for (int g = 0; g < gates; g++)
                    if (by_h[g] >= 0) *to++ = l->w_hh[(by_h[g] * H + u) * H + k];
        for (int64_t k = 0; k < I; k++)
            for (int64_t u = unit; u < end; u++)
                for (int g = 0; g < gates; g++)
                    if (by_x[g] >= 0) *to++ = l->w_ih[(by_x[g] * H + u) * I + k];
    }
}

/* How many of `left` rows the next tile takes, so that all tiles of a product are about equal. */
static inline int even_share(int64_t left, int most) {
    int64_t tiles = (left + most - 1) / most;
    return (int)((left + tiles - 1) / tiles);
}

/* The transposed product's weights: tile by tile of columns, row by row of gates in our order. */
TARGET static void pack_backward(const layer *l, const float *w, const int *blocks, int64_t columns,
                                 float *to) {
    const int gates = gate_count(l->cell), most = rows_a_tile(l->vectors);
    const int64_t H = l->hidden;
    for (int64_t first = 0; first < columns;) {
        int take = even_share(columns - first, most);
        for (int g = 0; g < gates; g++) {
            if (blocks[g] < 0) continue;
            for (int64_t u = 0; u < H; u++)
                for (int k = 0; k < take; k++) *to++ = w[(blocks[g] * H + u) * columns + first + k];
        }
        first += take;
    }
}

/* ---- columns of a block: between torch's layout and ours ---- */

/* The batch row of a column; columns beyond the batch repeat its last row, so that they stay as finite as it is. */
static inline int64_t batch_row(const layer *l, int64_t column) {
    return column < l->batch ? column : l->batch - 1;
}

/* Four rows of four floats, turned into four columns. */
INLINE void turned(const float *const from[4], int64_t at, quad to[4]) {
    quad a = *(const unaligned_quad *)(from[0] + at), b = *(const unaligned_quad *)(from[1] + at);
    quad c = *(const unaligned_quad *)(from[2] + at), d = *(const unaligned_quad *)(from[3] + at);
    quad ab_low = SHUFFLE(quad_mask, a, b, 0, 4, 1, 5), ab_high = SHUFFLE(quad_mask, a, b, 2, 6, 3, 7);
    quad cd_low = SHUFFLE(quad_mask, c, d, 0, 4, 1, 5), cd_high = SHUFFLE(quad_mask, c, d, 2, 6, 3, 7);
    to[0] = SHUFFLE(quad_mask, ab_low, cd_low, 0, 1, 4, 5);
    to[1] = SHUFFLE(quad_mask, ab_low, cd_low, 2, 3, 6, 7);
    to[2] = SHUFFLE(quad_mask, ab_high, cd_high, 0, 1, 4, 5);
    to[3] = SHUFFLE(quad_mask, ab_high, cd_high, 2, 3, 6, 7);
}

/* to[rows][columns] = the block's batch rows of `from`; += with `add`. */
INLINE void gather(const layer *l, int64_t first, int columns, const float *from, int64_t batch_stride,
                   int64_t stride, int64_t rows, int add, float *to) {
    for (int c = 0; c < columns; c += 4) {
        const float *row[4];
        for (int i = 0; i < 4; i++) row[i] = from + batch_row(l, first + c + i) * batch_stride;
        int64_t k = 0;
        for (; stride == 1 && k + 4 <= rows; k += 4) {
            quad turn[4];
            turned(row, k, turn);
            for (int i = 0; i < 4; i++) {
                unaligned_quad *at = (unaligned_quad *)(to + (k + i) * columns + c);
                if (add) turn[i] += *at;
                *at = turn[i];
            }
        }
        for (; k < rows; k++)
            for (int i = 0; i < 4; i++) {
                float *at = to + k * columns + c + i;
                *at = add ? *at + row[i][k * stride] : row[i][k * stride];
            }
    }
}

/* Likewise for gradients: columns beyond the batch get none. NULL is no gradient: 0. */
INLINE void gather_gradient(const layer *l, int64_t first, int columns, const float *from,
                            int64_t batch_stride, int64_t stride, int64_t rows, int add, float *to) {
    if (from)
        gather(l, first, columns, from, batch_stride, stride, rows, add, to);
    else if (!add)
        memset(to, 0, sizeof(float) * (size_t)(rows * columns));
    for (int64_t k = 0; k < rows && first + columns > l->batch; k++)
        for (int64_t c = l->batch - first; c < columns; c++) to[k * columns + c] = 0;
}

/* The block's batch rows of `to` = from[rows][columns]. */
INLINE void scatter(const layer *l, int64_t first, int columns, const float *from, float *to,
                    int64_t batch_stride, int64_t rows) {
    to += first * batch_stride;
    const int64_t own = l->batch - first < columns ? l->batch - first : columns;
    int64_t c = 0;
    for (; c + 4 <= own; c += 4) {
        float *at = to + c * batch_stride;
        int64_t k = 0;
        for (; k + 4 <= rows; k += 4) {
            const float *source = from + k * columns + c;
            const float *const row[4] = {source, source + columns, source + 2 * columns,
                                         source + 3 * columns};
            quad turn[4];
            turned(row, 0, turn);
            for (int i = 0; i < 4; i++) *(unaligned_quad *)(at + i * batch_stride + k) = turn[i];
        }
        for (; k < rows; k++)
            for (int i = 0; i < 4; i++) at[i * batch_stride + k] = from[k * columns + c + i];
    }
    for (; c < own; c++)
        for (int64_t k = 0; k < rows; k++) to[c * batch_stride + k] = from[k * columns + c];
}

#endif

/* How many rows there are of what, and columns of a block: between torch's layout and ours. */
#ifndef NIGHTCAST_COLUMNS_H
#define NIGHTCAST_COLUMNS_H

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

/* The batch row of a column; columns beyond the batch repeat its last row, so that they stay as finite as it is. */
static inline int64_t batch_row(int64_t batch, int64_t column) { return column < batch ? column : batch - 1; }

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
INLINE void gather(int64_t batch, int64_t first, int columns, const float *from, int64_t batch_stride,
                   int64_t stride, int64_t rows, int add, float *to) {
    for (int c = 0; c < columns; c += 4) {
        const float *row[4];
        for (int i = 0; i < 4; i++) row[i] = from + batch_row(batch, first + c + i) * batch_stride;
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
INLINE void gather_gradient(int64_t batch, int64_t first, int columns, const float *from,
                            int64_t batch_stride, int64_t stride, int64_t rows, int add, float *to) {
    if (from)
        gather(batch, first, columns, from, batch_stride, stride, rows, add, to);
    else if (!add)
        memset(to, 0, sizeof(float) * (size_t)(rows * columns));
    for (int64_t k = 0; k < rows && first + columns > batch; k++)
        for (int64_t c = batch - first; c < columns; c++) to[k * columns + c] = 0;
}

/* The block's batch rows of `to` = from[rows][columns]. */
INLINE void scatter(int64_t batch, int64_t first, int columns, const float *from, float *to,
                    int64_t batch_stride, int64_t rows) {
    to += first * batch_stride;
    const int64_t own = batch - first < columns ? batch - first : columns;
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

/* Weights in the order in which they are read. */
#ifndef NIGHTCAST_LAYOUT_H
#define NIGHTCAST_LAYOUT_H

#include "columns.h"

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

#endif

/* Mixed precision: how many rows there are of what, and weights in the order in which they are read. */
#ifndef NIGHTCAST_MIXED_LAYOUT_H
#define NIGHTCAST_MIXED_LAYOUT_H

#include "words.h"

/* ---- sizes ---- */

static inline int64_t gate_rows(const layer *l) { return gate_count(l->cell) * l->hidden; }

/* Rows that enter a step: the state's, the input's and a row of ones, which the biases multiply. */
static inline int64_t entering_rows(const layer *l) { return l->hidden + l->inputs + 1; }

/* Words of the forward operand: pairs of the state's rows; two rows of ones, for the two parts of a bias; pairs of the
 * input's. */
static inline int64_t state_words(const layer *l) { return tiles(l->hidden, 2); }

static inline int64_t forward_words(const layer *l) { return state_words(l) + 1 + tiles(l->inputs, 2); }

static inline int64_t forward_depth(const layer *l) { return tiles(forward_words(l), SIDE); }

static inline int64_t backward_depth(const layer *l) { return tiles(gate_rows(l), DEPTH); }

/* ---- packing ---- */

/* Numbers to the nearest bfloat16, one after the other. */
TARGET static void shorten(const float *from, int64_t count, uint16_t *to) {
    for (int64_t i = 0; i < count; i += LANES) {
        const shorts some = SHORTENED(load_some(from + i, count - i));
        memcpy(to + i, &some, sizeof *to * (size_t)(count - i < LANES ? count - i : LANES));
    }
}

/* The two bfloat16 that a bias is the sum of, to 16 bits. */
TARGET static void shorten_bias(const layer *l, int gate, int64_t unit, uint16_t *to) {
    const int by_x = by_input[l->cell][gate], by_h = by_state[l->cell][gate];
    float bias = 0, high;
    if (l->b_ih && by_x >= 0) bias += l->b_ih[by_x * l->hidden + unit];
    if (l->b_hh && by_h >= 0) bias += l->b_hh[by_h * l->hidden + unit];
    shorten(&bias, 1, to);
    const uint32_t bits = (uint32_t)to[0] << 16;
    memcpy(&high, &bits, sizeof high);
    const float rest = high - high == 0 ? bias - high : 0; /* what is infinite has none */
    shorten(&rest, 1, to + 1);
}

/* A row of words, [tiles][16], into row `at` of as many tiles. */
TARGET static void place_row(const uint16_t *row, int64_t count, int64_t at, uint32_t *to) {
    for (int64_t k = 0; k < count; k++) memcpy(to + k * TILE + at * SIDE, row + k * DEPTH, sizeof(words));
}

/* For each tile of gate rows, tiles along the forward operand. `row` is room for one of its rows. */
TARGET static void pack_forward(const layer *l, uint16_t *row, uint32_t *to) {
    const int64_t H = l->hidden, I = l->inputs, depth = forward_depth(l);
    const int gates = gate_count(l->cell);
    for (int64_t number = 0; number < gate_rows(l); number++) {
        const int64_t unit = number / gates;
        const int gate = (int)(number % gates);
        const int by_x = by_input[l->cell][gate], by_h = by_state[l->cell][gate];
        memset(row, 0, sizeof *row * (size_t)(depth * DEPTH));
        if (by_h >= 0) shorten(l->w_hh + (by_h * H + unit) * H, H, row);
        shorten_bias(l, gate, unit, row + 2 * state_words(l));
        if (by_x >= 0) shorten(l->w_ih + (by_x * H + unit) * I, I, row + 2 * state_words(l) + 2);
        place_row(row, depth, number % SIDE, to + number / SIDE * depth * TILE);
    }
}

/* The row of `w` that is our gate row; NULL where there is none. */
static const float *gate_row(const layer *l, const float *w, const int *blocks, int64_t columns, int64_t row) {
    const int gates = gate_count(l->cell), block = blocks[row % gates];
    return row >= gate_rows(l) || block < 0 ? NULL : w + (block * l->hidden + row / gates) * columns;
}

/* The transposed product's: for each tile of columns of `w`, tiles along our gate rows. */
TARGET static void pack_backward(const layer *l, const float *w, const int *blocks, int64_t columns, uint32_t *to) {
    for (int64_t first = 0; first < columns; first += SIDE)
        for (int64_t k = 0; k < backward_depth(l); k++, to += TILE) {
            uint32_t tile[TILE];
            for (int i = 0; i < SIDE; i++) {
                const float *low = gate_row(l, w, blocks, columns, k * DEPTH + 2 * i);
                const float *high = gate_row(l, w, blocks, columns, k * DEPTH + 2 * i + 1);
                store_words(tile + i * SIDE, paired(load_some(low ? low + first : NULL, columns - first),
                                                    load_some(high ? high + first : NULL, columns - first)));
            }
            turn_tile(tile, to);
        }
}

static int64_t packed_floats(const layer *l, int backward) {
    /* Tiles, and room for a row. */
    if (!backward) return tiles(gate_rows(l), SIDE) * forward_depth(l) * TILE + forward_depth(l) * SIDE;
    return (tiles(l->hidden, SIDE) + tiles(l->inputs, SIDE)) * backward_depth(l) * TILE;
}

TARGET static void pack(const layer *l, int backward, float *packed) {
    uint32_t *to = (uint32_t *)packed;
    memset(to, 0, sizeof *to * (size_t)packed_floats(l, backward));
    if (!backward) {
        pack_forward(l, (uint16_t *)(to + tiles(gate_rows(l), SIDE) * forward_depth(l) * TILE), to);
        return;
    }
    pack_backward(l, l->w_hh, by_state[l->cell], l->hidden, to);
    pack_backward(l, l->w_ih, by_input[l->cell], l->inputs, to + tiles(l->hidden, SIDE) * backward_depth(l) * TILE);
}

#endif

/* Products of bfloat16 by vectors: AVX-512's BF16, which adds the products of a word's two numbers to a float. A word
 * of one operand is spread over a vector, which meets the other's words of sixteen columns. */
#ifndef NIGHTCAST_DOTS_H
#define NIGHTCAST_DOTS_H

#include "words.h"

/* Rows of sums that are computed together: with two vectors each they take half of the registers. */
enum { FEW = SIDE / 2 };

/* sums[FEW][COLUMNS] += w z over words [from, to) of a row of tiles; without every fourth row, numbered `without`, if
 * that is not -1. */
INLINE void add_words(const int without, const uint32_t *w, const uint32_t *z, int64_t from, int64_t to,
                      vec sums[FEW][2]) {
    while (from < to) {
        const int64_t edge = (from / SIDE + 1) * SIDE, end = edge < to ? edge : to;
        const uint32_t *a = w + from / SIDE * TILE + from % SIDE;
        for (; from < end; from++, a++) {
            const words low = load_words(z + from * COLUMNS), high = load_words(z + from * COLUMNS + LANES);
            _Pragma("GCC unroll 8") for (int r = 0; r < FEW; r++) {
                if (r % 4 == without) continue;
                const words word = a[r * SIDE] - (words){0};
                sums[r][0] = DOTS(sums[r][0], word, low), sums[r][1] = DOTS(sums[r][1], word, high);
            }
        }
    }
}

INLINE void load_few(const float *from, vec sums[FEW][2]) {
    _Pragma("GCC unroll 8") for (int r = 0; r < FEW; r++, from += COLUMNS)
        sums[r][0] = load(from), sums[r][1] = load(from + LANES);
}

INLINE void store_few(float *to, vec sums[FEW][2]) {
    _Pragma("GCC unroll 8") for (int r = 0; r < FEW; r++, to += COLUMNS)
        store(to, sums[r][0]), store(to + LANES, sums[r][1]);
}

/* The first rows of sums[16][COLUMNS] = w z over `count` words; += with `add`. `w` holds tiles, z [count][COLUMNS]
 * words. Rows beyond `rows` may be left as they are. */
INLINE void product(const int add, const uint32_t *w, const uint32_t *z, int64_t rows, int64_t count, float *sums) {
    for (int64_t first = 0; first < SIDE && first < rows; first += FEW, sums += FEW * COLUMNS) {
        vec own[FEW][2] = {{{0}}};
        if (add) load_few(sums, own);
        add_words(-1, w + first * SIDE, z, 0, count, own);
        store_few(sums, own);
    }
}

/* Likewise rows of gates by what enters a step: the state's words, that of the biases, the input's. Of a GRU's two
 * parts of "new" one reads no state, the other no input. */
INLINE void gate_product(const int cell, const uint32_t *w, const uint32_t *z, int64_t rows, int64_t state,
                         int64_t count, float *sums) {
    if (cell != CELL_GRU) {
        product(0, w, z, rows, count, sums);
        return;
    }
    for (int64_t first = 0; first < SIDE && first < rows; first += FEW, sums += FEW * COLUMNS, w += FEW * SIDE) {
        vec own[FEW][2] = {{{0}}};
        add_words(0, w, z, 0, state, own);
        add_words(-1, w, z, state, state + 1, own);
        add_words(3, w, z, state + 1, count, own);
        store_few(sums, own);
    }
}

/* A few rows of sums of `add_weights`: those in `wholes` tiles, two at most, and with `half` those in the first half
 * of the tile after them. */
INLINE void add_few(const int wholes, const int half, const int without, const uint32_t *gates, int64_t gate_step,
                    const uint32_t *entering, int64_t entering_step, int64_t steps, float *sums) {
    vec own[FEW][2];
    half_vec rest[FEW];
    _Pragma("GCC unroll 8") for (int r = 0; r < FEW; r++) {
        _Pragma("GCC unroll 2") for (int v = 0; v < wholes; v++) own[r][v] = load(sums + v * TILE + r * SIDE);
        if (half) rest[r] = load_half_vec(sums + wholes * TILE + r * SIDE);
    }
    for (int64_t t = 0; t < steps; t++)
        for (int64_t k = 0; k < SIDE; k++) {
            const uint32_t *a = gates + t * gate_step + k, *b = entering + t * entering_step + k * SIDE;
            words with[2];
            half_words with_half = {0};
            _Pragma("GCC unroll 2") for (int v = 0; v < wholes; v++) with[v] = load_words(b + v * TILE);
            if (half) with_half = load_half_words(b + wholes * TILE);
            _Pragma("GCC unroll 8") for (int r = 0; r < FEW; r++) {
                if (r % 4 == without) continue;
                const words word = a[r * SIDE] - (words){0};
                _Pragma("GCC unroll 2") for (int v = 0; v < wholes; v++) own[r][v] = DOTS(own[r][v], word, with[v]);
                if (half) rest[r] = HALF_DOTS(rest[r], word, with_half);
            }
        }
    _Pragma("GCC unroll 8") for (int r = 0; r < FEW; r++) {
        _Pragma("GCC unroll 2") for (int v = 0; v < wholes; v++) store(sums + v * TILE + r * SIDE, own[r][v]);
        if (half) store_half_vec(sums + wholes * TILE + r * SIDE, rest[r]);
    }
}

/* sums[gate tile][entering tile] += gates entering^T over the columns of some steps: of each, tiles of folded rows of
 * gates, and turned ones of what enters, `hidden` rows of state, then the inputs', then one of ones. What enters is the
 * larger read, so it is in the nearest cache for all gates. */
INLINE void add_weights(const int cell, const uint32_t *gates, int64_t gate_rows, const uint32_t *entering,
                        int64_t entering_rows, int64_t hidden, int64_t steps, float *sums) {
    const int64_t across = tiles(entering_rows, SIDE) * TILE, gate_step = tiles(gate_rows, SIDE) * TILE;
    for (int64_t j = 0; j < across; j += 2 * TILE) {
        const int64_t first = j / SIDE, last = first + 2 * SIDE, left = entering_rows - first;
        for (int64_t row = 0; row < gate_rows; row += FEW) {
            float *at = sums + row / SIDE * across + j + row % SIDE * SIDE;
#define ADD(wholes, half, without) \
    add_few(wholes, half, without, gates + row * SIDE, gate_step, entering + j, across, steps, at)
            if (left <= SIDE / 2)
                ADD(0, 1, -1);
            else if (left <= SIDE)
                ADD(1, 0, -1);
            else if (left <= SIDE + SIDE / 2)
                ADD(1, 1, -1);
            else if (cell == CELL_GRU && last <= hidden)
                ADD(2, 0, 0);
            else if (cell == CELL_GRU && first >= hidden && last < entering_rows)
                ADD(2, 0, 3);
            else
                ADD(2, 0, -1);
#undef ADD
        }
    }
}

#endif

/* Products of bfloat16 by vectors: AVX-512's BF16, which adds the products of a word's two numbers to a float. A word
 * of one operand is spread over a vector, which meets the other's words of sixteen columns. */
#ifndef NIGHTCAST_DOTS_H
#define NIGHTCAST_DOTS_H

#include "words.h"

/* Rows of sums that are computed together: with two vectors each they take half of the registers. */
enum { FEW = SIDE / 2 };

/* sums[FEW][vectors] += a b over `count` words of a's rows, at most a tile's; without every fourth row, numbered
 * `without`, if that is not -1. A vector of b lies `apart` words from the next, a row `stride`. */
INLINE void add_dots(const int vectors, const int without, const uint32_t *a, const uint32_t *b, int64_t apart,
                     int64_t stride, int64_t count, vec sums[FEW][2]) {
    for (int64_t k = 0; k < count; k++, a++, b += stride) {
        words with[2];
        _Pragma("GCC unroll 2") for (int v = 0; v < vectors; v++) with[v] = load_words(b + v * apart);
        _Pragma("GCC unroll 8") for (int r = 0; r < FEW; r++) {
            if (r % 4 == without) continue;
            const words word = a[r * SIDE] - (words){0};
            _Pragma("GCC unroll 2") for (int v = 0; v < vectors; v++) sums[r][v] = DOTS(sums[r][v], word, with[v]);
        }
    }
}

/* sums[FEW][COLUMNS] += w z over words [from, to) of a row of tiles. */
INLINE void add_words(const int without, const uint32_t *w, const uint32_t *z, int64_t from, int64_t to,
                      vec sums[FEW][2]) {
    while (from < to) {
        const int64_t edge = (from / SIDE + 1) * SIDE, end = edge < to ? edge : to;
        const uint32_t *words_of = w + from / SIDE * TILE + from % SIDE;
        add_dots(2, without, words_of, z + from * COLUMNS, LANES, COLUMNS, end - from, sums);
        from = end;
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

/* A few rows of sums, and one or two tiles of their columns, of `add_weights`. */
INLINE void add_few(const int vectors, const int without, const uint32_t *gates, int64_t gate_step,
                    const uint32_t *entering, int64_t entering_step, int64_t steps, float *sums) {
    vec own[FEW][2];
    _Pragma("GCC unroll 8") for (int r = 0; r < FEW; r++)
        _Pragma("GCC unroll 2") for (int v = 0; v < vectors; v++) own[r][v] = load(sums + v * TILE + r * SIDE);
    for (int64_t t = 0; t < steps; t++, gates += gate_step, entering += entering_step)
        add_dots(vectors, without, gates, entering, TILE, SIDE, SIDE, own);
    _Pragma("GCC unroll 8") for (int r = 0; r < FEW; r++)
        _Pragma("GCC unroll 2") for (int v = 0; v < vectors; v++) store(sums + v * TILE + r * SIDE, own[r][v]);
}

/* sums[gate tile][entering tile] += gates entering^T over the columns of some steps: of each, tiles of folded rows of
 * gates, and turned ones of what enters, `hidden` rows of state, then the inputs', then one of ones. What enters is the
 * larger read, so it is in the nearest cache for all gates. */
INLINE void add_weights(const int cell, const uint32_t *gates, int64_t gate_rows, const uint32_t *entering,
                        int64_t entering_rows, int64_t hidden, int64_t steps, float *sums) {
    const int64_t across = tiles(entering_rows, SIDE) * TILE, gate_step = tiles(gate_rows, SIDE) * TILE;
    for (int64_t j = 0; j < across; j += 2 * TILE) {
        const int64_t first = j / SIDE, last = first + 2 * SIDE;
        for (int64_t row = 0; row < gate_rows; row += FEW) {
            float *at = sums + row / SIDE * across + j + row % SIDE * SIDE;
#define ADD(vectors, without) \
    add_few(vectors, without, gates + row * SIDE, gate_step, entering + j, across, steps, at)
            if (j + TILE == across)
                ADD(1, -1);
            else if (cell == CELL_GRU && last <= hidden)
                ADD(2, 0);
            else if (cell == CELL_GRU && first >= hidden && last < entering_rows)
                ADD(2, 3);
            else
                ADD(2, -1);
#undef ADD
        }
    }
}

#endif

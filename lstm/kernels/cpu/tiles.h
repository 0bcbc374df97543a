/* Products of bfloat16 on a matrix unit, summed in float32: Intel's AMX.
 *
 * Terms: a WORD is two bfloat16 that follow each other along the summed axis, the first in the lower half. A TILE is a
 * register of the unit: 16 rows of 16 words or floats. A product of two tiles, c[i][j] += a[i][k] b[k][j], sums
 * over 32 bfloat16: a row of a is one of c and holds words; a row of b holds a word of each column. */
#ifndef NIGHTCAST_TILES_H
#define NIGHTCAST_TILES_H

#include "columns.h"

typedef uint32_t words __attribute__((vector_size(64)));
typedef uint32_t unaligned_words __attribute__((vector_size(64), aligned(4), may_alias));

typedef uint16_t shorts __attribute__((vector_size(32)));
typedef uint16_t unaligned_shorts __attribute__((vector_size(32), aligned(2), may_alias));

enum { SIDE = 16, TILE = SIDE * SIDE, DEPTH = 2 * SIDE };

/* Columns that walk through time together: two vectors, so that a tile of weights, once loaded, is used twice. */
enum { COLUMNS = MIXED };

static inline int64_t tiles(int64_t rows, int64_t of) { return (rows + of - 1) / of; }

INLINE words load_words(const uint32_t *from) { return *(const unaligned_words *)from; }

INLINE void store_words(uint32_t *to, words value) { *(unaligned_words *)to = value; }

/* Both to the nearest bfloat16, lane by lane; what is half way goes up. */
INLINE words paired(vec low, vec high) {
    words a = (words)low + 0x8000u, b = (words)high + 0x8000u;
    return a >> 16 | (b & 0xffff0000u);
}

static inline uint32_t paired_numbers(float low, float high) {
    uint32_t a, b;
    memcpy(&a, &low, sizeof a);
    memcpy(&b, &high, sizeof b);
    return (a + 0x8000u) >> 16 | ((b + 0x8000u) & 0xffff0000u);
}

/* All tiles are full ones. */
TARGET static void configure(void) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = 4 * SIDE;
        config.rows[i] = SIDE;
    }
    _tile_loadconfig(&config);
}

/* sums[16][COLUMNS] = w z over `depth` tiles; += with `add`. `w` holds tiles, z [depth][16][COLUMNS] words. */
INLINE void product(const int add, const uint32_t *w, const uint32_t *z, int64_t depth, float *sums) {
    enum { row = 4 * COLUMNS };
    if (add) {
        _tile_loadd(0, sums, row);
        _tile_loadd(1, sums + LANES, row);
    } else {
        _tile_zero(0);
        _tile_zero(1);
    }
    for (int64_t k = 0; k < depth; k++, w += TILE, z += SIDE * COLUMNS) {
        _tile_loadd(2, w, 4 * SIDE);
        _tile_loadd(3, z, row);
        _tile_dpbf16ps(0, 2, 3);
        _tile_loadd(4, z + LANES, row);
        _tile_dpbf16ps(1, 2, 4);
    }
    _tile_stored(0, sums, row);
    _tile_stored(1, sums + LANES, row);
}

/* sums += a b over `count` tiles each, for `rows` by `columns` tiles of sums, 1 or 2 and constants: those of a row (or
 * column) lie `a_apart` (`b_apart`) from the next one's, those of a sum `a_step` (`b_step`), all in words. A row of
 * tiles of sums takes `stride` floats. */
INLINE void outer_product(const int rows, const int columns, const uint32_t *a, int64_t a_apart, int64_t a_step,
                          const uint32_t *b, int64_t b_apart, int64_t b_step, int64_t count, float *sums,
                          int64_t stride) {
    enum { row = 4 * SIDE };
    _tile_loadd(0, sums, row);
    if (columns > 1) _tile_loadd(1, sums + TILE, row);
    if (rows > 1) _tile_loadd(2, sums + stride, row);
    if (rows > 1 && columns > 1) _tile_loadd(3, sums + stride + TILE, row);
    for (int64_t k = 0; k < count; k++, a += a_step, b += b_step) {
        _tile_loadd(4, a, row);
        _tile_loadd(6, b, row);
        _tile_dpbf16ps(0, 4, 6);
        if (columns > 1) {
            _tile_loadd(7, b + b_apart, row);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (rows > 1) {
            _tile_loadd(5, a + a_apart, row);
            _tile_dpbf16ps(2, 5, 6);
            if (columns > 1) _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums, row);
    if (columns > 1) _tile_stored(1, sums + TILE, row);
    if (rows > 1) _tile_stored(2, sums + stride, row);
    if (rows > 1 && columns > 1) _tile_stored(3, sums + stride + TILE, row);
}

/* A tile of words, turned: to[j][i] = from[i][j]. */
INLINE void turn_tile(const uint32_t *from, uint32_t *to) {
    words rows[SIDE], next[SIDE];
    _Pragma("GCC unroll 16") for (int i = 0; i < SIDE; i++) rows[i] = load_words(from + i * SIDE);
    /* Four times, rows i and i + 8 shed their words alternately into rows 2 i and 2 i + 1. */
    _Pragma("GCC unroll 4") for (int round = 0; round < 4; round++) {
        _Pragma("GCC unroll 8") for (int i = 0; i < SIDE / 2; i++) {
            next[2 * i] = SHUFFLE(words, rows[i], rows[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            next[2 * i + 1] =
                SHUFFLE(words, rows[i], rows[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        _Pragma("GCC unroll 16") for (int i = 0; i < SIDE; i++) rows[i] = next[i];
    }
    _Pragma("GCC unroll 16") for (int i = 0; i < SIDE; i++) store_words(to + i * SIDE, rows[i]);
}

#endif

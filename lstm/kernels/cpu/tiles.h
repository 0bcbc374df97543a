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
typedef uint16_t shorts_twice __attribute__((vector_size(64)));
typedef uint16_t shorts __attribute__((vector_size(32)));

enum { SIDE = 16, TILE = SIDE * SIDE, DEPTH = 2 * SIDE };

/* Columns that walk through time together: two vectors, so that a tile of weights, once loaded, is used twice. */
enum { COLUMNS = MIXED };

static inline int64_t tiles(int64_t rows, int64_t of) { return (rows + of - 1) / of; }

INLINE words load_words(const uint32_t *from) { return *(const unaligned_words *)from; }

INLINE void store_words(uint32_t *to, words value) { *(unaligned_words *)to = value; }

enum { ONES = 0x3f803f80 }; /* a word of two */

/* Both to the nearest bfloat16, lane by lane. */
INLINE words paired(vec low, vec high) {
    const shorts_twice alternating = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
                                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return (words)SHUFFLED_SHORTS(alternating, BFLOATS(high, low));
}

/* All tiles are full ones. A constant, since some compilers think that the instruction reads eight bytes of it. */
static const struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} full_tiles = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

/* Here all that was stored before is in memory: compilers do not know that tiles are loaded from there. */
#define SETTLED __asm__ volatile("" ::: "memory")

#ifdef CHECKED
/* Sanitizers do not see tiles loaded and stored: let them see each row's ends. */
static void seen(const void *first, int64_t row) {
    for (int i = 0; i < SIDE; i++) {
        const volatile uint32_t *at = (const uint32_t *)((const char *)first + i * row);
        (void)(at[0] + at[SIDE - 1]);
    }
}
#else
#define seen(first, row) (void)0
#endif
#define LOAD_TILE(tile, from, row) \
    do { \
        seen(from, row); \
        _tile_loadd(tile, from, row); \
    } while (0)
#define STORE_TILE(tile, to, row) \
    do { \
        seen(to, row); \
        _tile_stored(tile, to, row); \
    } while (0)

/* sums[16][COLUMNS] = w z over `depth` tiles; += with `add`. `w` holds tiles, z [depth][16][COLUMNS] words. */
INLINE void product(const int add, const uint32_t *w, const uint32_t *z, int64_t depth, float *sums) {
    enum { row = 4 * COLUMNS };
    SETTLED;
    if (add) {
        LOAD_TILE(0, sums, row);
        LOAD_TILE(1, sums + LANES, row);
    } else {
        _tile_zero(0);
        _tile_zero(1);
    }
    for (int64_t k = 0; k < depth; k++, w += TILE, z += SIDE * COLUMNS) {
        LOAD_TILE(2, w, 4 * SIDE);
        LOAD_TILE(3, z, row);
        _tile_dpbf16ps(0, 2, 3);
        LOAD_TILE(4, z + LANES, row);
        _tile_dpbf16ps(1, 2, 4);
    }
    STORE_TILE(0, sums, row);
    STORE_TILE(1, sums + LANES, row);
    SETTLED;
}

/* sums += a b over `count` tiles each, for `rows` by `columns` tiles of sums, 1 or 2 and constants: those of a row (or
 * column) lie `a_apart` (`b_apart`) from the next one's, those of a sum `a_step` (`b_step`), all in words. A row of
 * tiles of sums takes `stride` floats. */
INLINE void outer_product(const int rows, const int columns, const uint32_t *a, int64_t a_apart, int64_t a_step,
                          const uint32_t *b, int64_t b_apart, int64_t b_step, int64_t count, float *sums,
                          int64_t stride) {
    enum { row = 4 * SIDE };
    SETTLED;
    LOAD_TILE(0, sums, row);
    if (columns > 1) LOAD_TILE(1, sums + TILE, row);
    if (rows > 1) LOAD_TILE(2, sums + stride, row);
    if (rows > 1 && columns > 1) LOAD_TILE(3, sums + stride + TILE, row);
    for (int64_t k = 0; k < count; k++, a += a_step, b += b_step) {
        LOAD_TILE(4, a, row);
        LOAD_TILE(6, b, row);
        _tile_dpbf16ps(0, 4, 6);
        if (columns > 1) {
            LOAD_TILE(7, b + b_apart, row);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (rows > 1) {
            LOAD_TILE(5, a + a_apart, row);
            _tile_dpbf16ps(2, 5, 6);
            if (columns > 1) _tile_dpbf16ps(3, 5, 7);
        }
    }
    STORE_TILE(0, sums, row);
    if (columns > 1) STORE_TILE(1, sums + TILE, row);
    if (rows > 1) STORE_TILE(2, sums + stride, row);
    if (rows > 1 && columns > 1) STORE_TILE(3, sums + stride + TILE, row);
    SETTLED;
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

/* Products of bfloat16 on a matrix unit: Intel's AMX, whose registers hold a tile (words.h) each. */
#ifndef NIGHTCAST_TILES_H
#define NIGHTCAST_TILES_H

#include "words.h"

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

/* sums[16][COLUMNS] = w z over `count` words; += with `add`. `w` holds tiles, z [count][COLUMNS] words; up to whole
 * tiles w goes on with zeros, z with anything finite. All rows are computed, of which the first `rows` count. */
INLINE void product(const int add, const uint32_t *w, const uint32_t *z, int64_t rows, int64_t count, float *sums) {
    enum { row = 4 * COLUMNS };
    (void)rows;
    SETTLED;
    if (add) {
        LOAD_TILE(0, sums, row);
        LOAD_TILE(1, sums + LANES, row);
    } else {
        _tile_zero(0);
        _tile_zero(1);
    }
    for (; count > 0; count -= SIDE, w += TILE, z += SIDE * COLUMNS) {
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

/* Likewise rows of gates by what enters a step, the first `state` words of it the state's. */
INLINE void gate_product(const int cell, const uint32_t *w, const uint32_t *z, int64_t rows, int64_t state,
                         int64_t count, float *sums) {
    (void)cell, (void)state;
    product(0, w, z, rows, count, sums);
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

/* sums[gate tile][entering tile] += gates entering^T over the columns of some steps: of each, tiles of folded rows of
 * gates, and turned ones of what enters, `hidden` rows of state first. */
INLINE void add_weights(const int cell, const uint32_t *gates, int64_t gate_rows, const uint32_t *entering,
                        int64_t entering_rows, int64_t hidden, int64_t steps, float *sums) {
    (void)cell, (void)hidden;
    const int64_t gate_tiles = tiles(gate_rows, SIDE), entering_tiles = tiles(entering_rows, SIDE);
    const int64_t a = gate_tiles * TILE, b = entering_tiles * TILE, stride = entering_tiles * TILE;
    for (int64_t i = 0; i < gate_tiles; i += 2)
        for (int64_t j = 0; j < entering_tiles; j += 2) {
            const uint32_t *rows = gates + i * TILE, *columns = entering + j * TILE;
            float *at = sums + i * stride + j * TILE;
            const int two_rows = i + 1 < gate_tiles, two_columns = j + 1 < entering_tiles;
#define OUTER(r, c) outer_product(r, c, rows, TILE, a, columns, TILE, b, steps, at, stride)
            if (two_rows && two_columns)
                OUTER(2, 2);
            else if (two_rows)
                OUTER(2, 1);
            else if (two_columns)
                OUTER(1, 2);
            else
                OUTER(1, 1);
#undef OUTER
        }
}

#endif

/* What products of bfloat16 read, summed in float32, whichever unit makes them (tiles.h, dots.h).
 *
 * Terms: a WORD is two bfloat16 that follow each other along the summed axis, the first in the lower half. A TILE is 16
 * rows of 16 words or floats. A product of two tiles, c[i][j] += a[i][k] b[k][j], sums over 32 bfloat16: a row of a is
 * one of c and holds words; a row of b holds a word of each column. */
#ifndef NIGHTCAST_WORDS_H
#define NIGHTCAST_WORDS_H

#include "columns.h"

typedef uint32_t words __attribute__((vector_size(64)));
typedef uint32_t unaligned_words __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t shorts_twice __attribute__((vector_size(64)));
typedef uint16_t shorts __attribute__((vector_size(32)));

enum { SIDE = 16, TILE = SIDE * SIDE, DEPTH = 2 * SIDE };

/* Columns that walk through time together: two vectors, so that what is loaded of the weights is used twice. */
enum { COLUMNS = 2 * LANES };

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

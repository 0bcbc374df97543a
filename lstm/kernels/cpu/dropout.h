/* The hash of lstm/models/dropout.py, to the bit: products wrap, and a shift keeps the sign. */
#ifndef NIGHTCAST_DROPOUT_H
#define NIGHTCAST_DROPOUT_H

#include <stdint.h>

static const uint64_t GOLDEN = 0x9E3779B97F4A7C15u, FIRST = 0xBF58476D1CE4E5B9u, SECOND = 0x94D049BB133111EBu;

static inline uint64_t shifted(uint64_t z, int by) { return (uint64_t)((int64_t)z >> by); }

static inline uint64_t scrambled(uint64_t z) {
    z = (z ^ shifted(z, 30)) * FIRST;
    z = (z ^ shifted(z, 27)) * SECOND;
    return z ^ shifted(z, 31);
}

/* Of four units, by their number from 0 in fours. */
static inline uint64_t group_hash(int64_t four) { return scrambled((uint64_t)(four + 1) * SECOND); }

static inline uint64_t row_hash(int64_t key, int64_t row) { return scrambled((uint64_t)key + (uint64_t)row * GOLDEN); }

#endif

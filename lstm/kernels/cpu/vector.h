/* Vectors of LANES floats, and the two activations over them. */
#ifndef NIGHTCAST_VECTOR_H
#define NIGHTCAST_VECTOR_H

#pragma GCC diagnostic ignored "-Wpsabi" /* vectors are passed to inlined functions only */

#include <stdint.h>

#define MOST_ROWS 12 /* of a tile: accumulators are [MOST_ROWS][2] */
#define INLINE static inline __attribute__((always_inline)) TARGET

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int32_t mask __attribute__((vector_size(LANES * 4)));
typedef float unaligned __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

INLINE vec load(const float *from) { return *(const unaligned *)from; }

INLINE void store(float *to, vec value) { *(unaligned *)to = value; }

INLINE vec spread(float value) { return value - (vec){0}; }

/* x P(x^2) / Q(x^2), a minimax fit of degrees 4 and 4 on [0, 7.9], beyond which tanh is 1 in float32.
 * Largest relative error 6e-9 before rounding, 3e-7 after. */
INLINE vec tanh_of(vec x) {
    x = (vec)HIGHER(spread(-7.9f), (vec)LOWER(spread(7.9f), x));
    vec s = x * x;
    vec p = s * 1.54277183e-08f + 2.20230791e-05f;
    vec q = s * 8.59868164e-07f + 3.42363460e-04f;
    p = p * s + 3.57898248e-03f;
    q = q * s + 2.61922021e-02f;
    p = p * s + 1.34506127e-01f;
    q = q * s + 4.67839407e-01f;
    p = p * s + 9.99999994e-01f;
    q = q * s + 1.0f;
    return x * p / q;
}

INLINE vec sigmoid(vec x) { return tanh_of(x * 0.5f) * 0.5f + 0.5f; }

INLINE vec rectified(vec x) { return (vec)HIGHER((vec){0}, x); }

/* The sum over a vector's lanes. */
INLINE float lane_sum(vec value) {
    float lanes[LANES];
    store(lanes, value);
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += lanes[i];
    return sum;
}

/* sum[rows][vectors] += w from: `w` holds `rows` weights for each of the `count` rows of `from`, one spread over a
 * vector at a time. Of every four rows the one numbered `without` has no weights; -1: all have. Returns the end of
 * the weights. `rows`, `vectors` and `without` are constants wherever this is inlined. */
INLINE const float *multiply(const int rows, const int vectors, const int without, const float *w,
                             const float *from, int64_t count, vec sum[MOST_ROWS][2]) {
    for (int64_t k = 0; k < count; k++, from += vectors * LANES) {
        vec a[2];
        _Pragma("GCC unroll 2") for (int v = 0; v < vectors; v++) a[v] = load(from + v * LANES);
        _Pragma("GCC unroll 12") for (int r = 0; r < rows; r++) {
            if (r % 4 == without) continue;
            vec weight = spread(*w++);
            _Pragma("GCC unroll 2") for (int v = 0; v < vectors; v++) sum[r][v] += weight * a[v];
        }
    }
    return w;
}

#endif

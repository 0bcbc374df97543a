/* Vectors of LANES floats, and the functions over them. */
#ifndef NIGHTCAST_VECTOR_H
#define NIGHTCAST_VECTOR_H

#pragma GCC diagnostic ignored "-Wpsabi" /* vectors are passed to inlined functions only */

#include <stdint.h>
#include <string.h>

#define MOST_ROWS 12 /* of a tile: accumulators are [MOST_ROWS][2] */
#ifdef __clang__
#define SHUFFLE(kind, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(kind, a, b, ...) __builtin_shuffle(a, b, (kind){__VA_ARGS__})
#endif
/* Sizes become constants where a function is inlined. Tests of the same lines may choose to compile sooner. */
#ifndef INLINE
#define INLINE static inline __attribute__((always_inline)) TARGET
#endif

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int32_t mask __attribute__((vector_size(LANES * 4)));
typedef float quad __attribute__((vector_size(16)));
typedef int32_t quad_mask __attribute__((vector_size(16)));
typedef float unaligned_quad __attribute__((vector_size(16), aligned(4), may_alias));
typedef float unaligned __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

INLINE vec load(const float *from) { return *(const unaligned *)from; }

/* Up to a vector of `count` numbers from `from` on, then 0; all 0 where there are none. */
INLINE vec load_some(const float *from, int64_t count) {
    float some[LANES] = {0};
    if (!from) return (vec){0};
    if (count >= LANES) return load(from);
    memcpy(some, from, sizeof *from * (size_t)count);
    return load(some);
}

INLINE void store(float *to, vec value) { *(unaligned *)to = value; }

INLINE vec spread(float value) { return value - (vec){0}; }

/* x P(x^2) / Q(x^2), a minimax fit of degrees 4 and 4 on [0, 9]: relative error 2e-8 before rounding, 3e-7 after.
 * Beyond, it is 1 exactly, as tanh is in float32, so that a saturated gate passes no gradient. */
INLINE vec tanh_of(vec x) {
    x = (vec)HIGHER(spread(-9.1f), (vec)LOWER(spread(9.1f), x));
    vec s = x * x;
    vec p = s * 1.33545352e-08f + 2.06089967e-05f;
    vec q = s * 7.77650828e-07f + 3.28562651e-04f;
    p = p * s + 3.49558313e-03f;
    q = q * s + 2.58769634e-02f;
    p = p * s + 1.33810215e-01f;
    q = q * s + 4.67143371e-01f;
    p = p * s + 9.99999979e-01f;
    q = q * s + 1.0f;
    return (vec)HIGHER(spread(-1.0f), (vec)LOWER(spread(1.0f), x * p / q));
}

INLINE vec sigmoid(vec x) { return tanh_of(x * 0.5f) * 0.5f + 0.5f; }

/* e^x of x <= 0, by 2^n e^r: a minimax fit of degree 5 on |r| <= ln 2 / 2, relative error 8e-8 before rounding; 0
 * where a float would be a denormal. */
INLINE vec exp_of(vec x) {
    const vec magic = spread(12582912.0f); /* 1.5 * 2^23: what is added to it is rounded to a whole number */
    const mask is_something = ~(x <= -87.0f);
    x = (vec)HIGHER(spread(-87.0f), x);
    vec shifted = x * 1.44269504f + magic, n = shifted - magic;
    vec r = (x - n * 0.693145752f) - n * 1.42860677e-06f;
    vec p = r * 8.29758370e-03f + 4.19158766e-02f;
    p = p * r + 1.66675784e-01f;
    p = p * r + 4.99988905e-01f;
    p = p * r + 9.99999690e-01f;
    p = p * r + 1.00000007f;
    const vec power = (vec)(((mask)shifted - (mask)magic + 127) << 23);
    return (vec)((mask)(p * power) & is_something);
}

/* The normal distribution's share below x, and its density at x. Above |x| lies e^(-x^2 / 2) times a polynomial of
 * 1 / (1 + .285 |x|), as in Abramowitz and Stegun's 26.2.17; a minimax fit of degree 6: error 4e-8 before rounding. */
INLINE vec normal_of(vec x, vec *density) {
    const mask is_negative = x < 0.0f, sign = (mask){0} - 2147483647 - 1;
    vec size = (vec)((mask)x & ~sign), e = exp_of(size * size * -0.5f), t = 1.0f / (size * 0.285f + 1.0f);
    vec p = t * -9.72193481e-02f + 3.34520428e-01f;
    p = p * t + -1.58149170e-01f;
    p = p * t + 2.17586752e-01f;
    p = p * t + 8.70802928e-02f;
    p = p * t + 1.16181013e-01f;
    vec beyond = p * t * e;
    *density = e * 0.398942280f;
    return (vec)((is_negative & (mask)beyond) | (~is_negative & (mask)(1.0f - beyond)));
}

INLINE vec rectified(vec x) { return (vec)HIGHER((vec){0}, x); }

/* Numbers of the same four places in every four lanes, of two vectors one after the other. */
#define PLACE(p, four) ((p) % 4 + 4 * (four) + (p) / 4 * LANES)
#define FOUR(a, b, c, d, four) PLACE(a, four), PLACE(b, four), PLACE(c, four), PLACE(d, four)
#if LANES == 16
#define FOURS(a, b, c, d) FOUR(a, b, c, d, 0), FOUR(a, b, c, d, 1), FOUR(a, b, c, d, 2), FOUR(a, b, c, d, 3)
#elif LANES == 8
#define FOURS(a, b, c, d) FOUR(a, b, c, d, 0), FOUR(a, b, c, d, 1)
#else
#define FOURS(a, b, c, d) FOUR(a, b, c, d, 0)
#endif

/* The four sums over the lanes of four vectors. */
INLINE quad lane_sums(const vec values[4]) {
    vec a = values[0], b = values[1], c = values[2], d = values[3];
    vec ab = SHUFFLE(mask, a, b, FOURS(0, 4, 1, 5)) + SHUFFLE(mask, a, b, FOURS(2, 6, 3, 7));
    vec cd = SHUFFLE(mask, c, d, FOURS(0, 4, 1, 5)) + SHUFFLE(mask, c, d, FOURS(2, 6, 3, 7));
    vec sums = SHUFFLE(mask, ab, cd, FOURS(0, 1, 4, 5)) + SHUFFLE(mask, ab, cd, FOURS(2, 3, 6, 7));
    quad parts[LANES / 4];
    memcpy(parts, &sums, sizeof parts);
    for (int i = 1; i < LANES / 4; i++) parts[0] += parts[i];
    return parts[0];
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

/* What mixed.h needs of AVX-512 with its BF16: Intel's Xeons since Cooper Lake, AMD's processors since Zen 4. */
#ifndef NIGHTCAST_AVX512_H
#define NIGHTCAST_AVX512_H

#include <immintrin.h>

#define LANES 16
#define AVX512 "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c"
#define LOWER(a, b) _mm512_min_ps(a, b)
#define HIGHER(a, b) _mm512_max_ps(a, b)

/* 1 / a to four digits. */
#define RECIPROCAL(a) _mm512_rcp14_ps(a)

/* A vector from float16, and as float16. */
typedef __m256i float16s;
#define load_half(from) ((vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i_u *)(from))))
#define AS_FLOAT16(a) _mm512_cvtps_ph((__m512)(a), _MM_FROUND_TO_NEAREST_INT)

/* Two of these to memory, one after the other; or past the caches, to where a cache's line begins. */
#define JOINED(low, high) _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1)
#define store_float16s(to, low, high) _mm512_storeu_si512((void *)(to), JOINED(low, high))
#ifdef CHECKED
/* Sanitizers do not see such a store: let them see one to the same place. */
#define stream_float16s(to, low, high) \
    (store_float16s(to, low, high), _mm512_stream_si512((void *)(to), JOINED(low, high)))
#else
#define stream_float16s(to, low, high) _mm512_stream_si512((void *)(to), JOINED(low, high))
#endif
#define END_STREAMS _mm_sfence()

/* A vector as bfloat16; likewise two, the low one's first. */
#define SHORTENED(a) ((shorts)_mm512_cvtneps_pbh((__m512)(a)))
#define BFLOATS(high, low) ((shorts_twice)_mm512_cvtne2ps_pbh((__m512)(high), (__m512)(low)))

/* The 16-bit numbers of a in an order. */
#define SHUFFLED_SHORTS(order, a) _mm512_permutexvar_epi16((__m512i)(order), (__m512i)(a))

/* sums + the products of the two bfloat16 of words a and b, lane by lane. */
#define DOTS(sums, a, b) ((vec)_mm512_dpbf16_ps((__m512)(sums), (__m512bh)(a), (__m512bh)(b)))

/* Likewise of the first half of each: less work where a vector is made in two halves, as on Zen 4. */
typedef __m256 half_vec;
typedef __m256i half_words;
#define load_half_vec(from) _mm256_loadu_ps(from)
#define store_half_vec(to, value) _mm256_storeu_ps(to, value)
#define load_half_words(from) _mm256_loadu_si256((const __m256i_u *)(from))
#define HALF_DOTS(sums, a, b) _mm256_dpbf16_ps(sums, (__m256bh)_mm512_castsi512_si256((__m512i)(a)), (__m256bh)(b))

#endif

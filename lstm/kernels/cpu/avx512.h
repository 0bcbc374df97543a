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

/* A vector from and to float16. */
#define load_half(from) ((vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i_u *)(from))))
#define store_half(to, value) \
    _mm256_storeu_si256((__m256i_u *)(to), _mm512_cvtps_ph((__m512)(value), _MM_FROUND_TO_NEAREST_INT))

/* A vector as bfloat16; likewise two, the low one's first. */
#define SHORTENED(a) ((shorts)_mm512_cvtneps_pbh((__m512)(a)))
#define BFLOATS(high, low) ((shorts_twice)_mm512_cvtne2ps_pbh((__m512)(high), (__m512)(low)))

/* The 16-bit numbers of a in an order. */
#define SHUFFLED_SHORTS(order, a) _mm512_permutexvar_epi16((__m512i)(order), (__m512i)(a))

/* sums + the products of the two bfloat16 of words a and b, lane by lane. */
#define DOTS(sums, a, b) ((vec)_mm512_dpbf16_ps((__m512)(sums), (__m512bh)(a), (__m512bh)(b)))

#endif

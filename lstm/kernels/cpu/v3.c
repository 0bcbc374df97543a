/* x86-64-v3: AVX2 and FMA, sixteen registers of eight floats. */
#ifdef __x86_64__

#include <immintrin.h>

#define LANES 8
#define UNITS_1 3
#define UNITS_2 1
#define ROWS_1 12
#define ROWS_2 6
#define WEIGHT_ROWS 2
#define TARGET __attribute__((target("avx2,fma")))
#define LOWER(a, b) _mm256_min_ps(a, b)
#define HIGHER(a, b) _mm256_max_ps(a, b)
#define ROOT(a) _mm256_sqrt_ps(a)
#define CODE code_v3

#include "recurrent.h"

#endif

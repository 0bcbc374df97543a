/* x86-64-v4: AVX-512, thirty-two registers of sixteen floats. */
#ifdef __x86_64__

#include <immintrin.h>

#define LANES 16
#define UNITS_1 3
#define UNITS_2 3
#define ROWS_1 12
#define ROWS_2 12
#define WEIGHT_ROWS 6
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define LOWER(a, b) _mm512_min_ps(a, b)
#define HIGHER(a, b) _mm512_max_ps(a, b)
#define ROOT(a) _mm512_sqrt_ps(a)
#define CODE code_v4

#include "recurrent.h"

#endif

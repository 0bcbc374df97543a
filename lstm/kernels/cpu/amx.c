/* Mixed precision on AMX beside AVX-512: Intel's server processors from Sapphire Rapids on. */
#include "native.h"

#ifdef HAS_AMX

#include <immintrin.h>

#define LANES 16
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,amx-tile,amx-bf16")))
#define LOWER(a, b) _mm512_min_ps(a, b)
#define HIGHER(a, b) _mm512_max_ps(a, b)
#define RECIPROCAL(a) _mm512_rcp14_ps(a)
#define load_half(from) ((vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i_u *)(from))))
#define store_half(to, value) \
    _mm256_storeu_si256((__m256i_u *)(to), _mm512_cvtps_ph((__m512)(value), _MM_FROUND_TO_NEAREST_INT))

#include "mixed.h"

#define EACH_CELL \
    switch (l->cell) { \
        case CELL_LSTM: PASS(CELL_LSTM); break; \
        case CELL_GRU: PASS(CELL_GRU); break; \
        case CELL_TANH: PASS(CELL_TANH); break; \
        default: PASS(CELL_RELU); \
    }

TARGET static void forward(const layer *l, const float *weights, float *own, int64_t first, int64_t last) {
    configure();
    for (; first < last; first += COLUMNS) {
#define PASS(cell) mixed_forward(cell, l, (const uint32_t *)weights, own, first)
        EACH_CELL
#undef PASS
    }
    _tile_release();
}

TARGET static void backward(const layer *l, const float *weights, float *own, int64_t first, int64_t last) {
    memset(own, 0, sizeof(float) * (size_t)sum_floats(l));
    configure();
    for (; first < last; first += COLUMNS) {
#define PASS(cell) mixed_backward(cell, l, (const uint32_t *)weights, own, own + sum_floats(l), first)
        EACH_CELL
#undef PASS
    }
    _tile_release();
}

const code code_amx = {
    COLUMNS, own_floats, packed_floats, pack, forward, backward, add_sums,
};

#endif

/* Mixed precision on AMX beside AVX-512: Intel's Xeons since Sapphire Rapids. */
#include "native.h"

#ifdef HAS_AMX

#include <immintrin.h>

#define LANES 16
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c,amx-tile,amx-bf16")))
#define LOWER(a, b) _mm512_min_ps(a, b)
#define HIGHER(a, b) _mm512_max_ps(a, b)
#define RECIPROCAL(a) _mm512_rcp14_ps(a)
#define load_half(from) ((vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i_u *)(from))))
#define store_half(to, value) \
    _mm256_storeu_si256((__m256i_u *)(to), _mm512_cvtps_ph((__m512)(value), _MM_FROUND_TO_NEAREST_INT))

#define BFLOATS(high, low) ((shorts_twice)_mm512_cvtne2ps_pbh((__m512)(high), (__m512)(low)))
#define SHORTENED(a) ((shorts)_mm512_cvtneps_pbh((__m512)(a)))
#define SHUFFLED_SHORTS(order, a) _mm512_permutexvar_epi16((__m512i)(order), (__m512i)(a))

#include "mixed.h"

#define EACH_CELL \
    switch (l->cell) { \
        case CELL_LSTM: PASS(CELL_LSTM); break; \
        case CELL_GRU: PASS(CELL_GRU); break; \
        default: PASS(CELL_TANH); \
    }

TARGET static void forward(const void *task, const float *weights, float *own, int64_t first, int64_t last) {
    const layer *l = task;
    _tile_loadconfig(&full_tiles);
    for (; first < last; first += COLUMNS) {
#define PASS(cell) mixed_forward(cell, l, (const uint32_t *)weights, own, first)
        EACH_CELL
#undef PASS
    }
    _tile_release();
}

TARGET static void backward(const void *task, const float *weights, float *own, int64_t first, int64_t last) {
    const layer *l = task;
    memset(own, 0, sizeof(float) * (size_t)sum_floats(l));
    _tile_loadconfig(&full_tiles);
    for (; first < last; first += COLUMNS) {
#define PASS(cell) mixed_backward(cell, l, (const uint32_t *)weights, own, own + sum_floats(l), first)
        EACH_CELL
#undef PASS
    }
    _tile_release();
}

const code code_amx = {
    .lanes = COLUMNS,
    .own_floats = own_floats,
    .packed_floats = packed_floats,
    .pack = pack,
    .forward = forward,
    .backward = backward,
    .add_sums = add_sums,
};

#endif

/* AMX for a processor with AVX-512's BF16 alone: tiles in memory, as Intel's manual has them. Included before a source
 * of the kernel. */
#include <cpuid.h>
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

static __thread uint32_t tile_rows[8][16][16];

static inline void tile_zero(int tile) { memset(tile_rows[tile], 0, sizeof tile_rows[tile]); }

static inline void tile_load(int tile, const void *from, int64_t row) {
    for (int i = 0; i < 16; i++) memcpy(tile_rows[tile][i], (const char *)from + i * row, sizeof tile_rows[tile][i]);
}

static inline void tile_store(int tile, void *to, int64_t row) {
    for (int i = 0; i < 16; i++) memcpy((char *)to + i * row, tile_rows[tile][i], sizeof tile_rows[tile][i]);
}

static inline float tile_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline void tile_dots(int sums, int a, int b) {
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++) {
            float sum = tile_float(tile_rows[sums][i][j]);
            for (int k = 0; k < 16; k++) {
                const uint32_t left = tile_rows[a][i][k], right = tile_rows[b][k][j];
                sum += tile_float(left << 16) * tile_float(right << 16);
                sum += tile_float(left & 0xffff0000u) * tile_float(right & 0xffff0000u);
            }
            memcpy(&tile_rows[sums][i][j], &sum, sizeof sum);
        }
}

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#define _tile_loadconfig(configuration) (void)(configuration)
#define _tile_release() (void)0
#define _tile_zero(tile) tile_zero(tile)
#define _tile_loadd(tile, from, row) tile_load(tile, from, row)
#define _tile_stored(tile, to, row) tile_store(tile, to, row)
#define _tile_dpbf16ps(sums, a, b) tile_dots(sums, a, b)

/* What native.c asks the processor and the system. */
#define __get_cpuid_count(leaf, number, a, b, c, d) (*(d) = 1u << 22 | 1u << 24, (void)(a), (void)(b), (void)(c), 1)
#define syscall(...) 0

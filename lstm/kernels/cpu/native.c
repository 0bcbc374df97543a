/* The entry points: which code this processor runs, memory, and the sums over threads. */
#include "native.h"
#include "team.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

#ifdef HAS_AMX
#include <sys/syscall.h>
#include <unistd.h>

/* A process has to ask for AMX's registers: 8 KB more to save of each thread that uses them. */
static int gets_amx(void) {
    enum { REQUEST = 0x1023, REGISTERS = 18 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return 0;
    return syscall(SYS_arch_prctl, REQUEST, REGISTERS) == 0;
}
#endif

const code *code_of(int64_t lanes) {
#ifdef HAS_BF16
    const int has_bf16 = lanes > 16 && __builtin_cpu_supports("avx512bf16") && code_of(16);
    if (lanes == MIXED_BF16 && has_bf16) return &code_bf16;
#endif
#ifdef HAS_AMX
    if (lanes == MIXED_AMX && has_bf16) return &code_amx;
#endif
#if defined(__x86_64__)
    if (lanes == 16 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return &code_v4;
    if (lanes == 8 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &code_v3;
#elif defined(__aarch64__)
    if (lanes == 4) return &code_neon;
#endif
    return NULL;
}

static int is_mixed(int64_t lanes) { return lanes == MIXED_AMX || lanes == MIXED_BF16; }

/* Whether this processor runs the code of those lanes; to be asked before it runs. */
EXPORT int nightcast_supports(int64_t lanes) {
#ifdef HAS_AMX
    if (lanes == MIXED_AMX) return code_of(lanes) && gets_amx();
#endif
    return code_of(lanes) != NULL;
}

/* What Python hands over, by number: of another one it leaves the code alone. */
EXPORT int nightcast_layout(void) { return 5; }

/* Whether the processor is Intel's. */
EXPORT int nightcast_is_intel(void) {
#if defined(__x86_64__)
    return __builtin_cpu_is("intel") != 0;
#else
    return 0;
#endif
}

static int64_t rounded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* Floats that the forward pass keeps for the backward pass; in mixed precision two numbers share one. */
EXPORT int64_t nightcast_saved_floats(const layer *l) {
    const int64_t rows = l->cell == CELL_LSTM || l->cell == CELL_GRU ? 5 : 1;
    return rounded(l->batch, code_of(l->lanes)->lanes) * l->steps * rows * l->hidden / (is_mixed(l->lanes) ? 2 : 1);
}

/* Floats that a pass needs to work in. */
EXPORT int64_t nightcast_work_floats(const layer *l, int backward) {
    const code *c = code_of(l->lanes);
    return c->packed_floats(l, backward) + l->threads * c->own_floats(l, backward);
}

/* Whole blocks of columns to each thread. Returns how many shares there were: their sums lie in the first memories. */
static int64_t run_threads(const layer *l, int backward) {
    const code *c = code_of(l->lanes);
    const int64_t packed = c->packed_floats(l, backward);
    c->pack(l, backward, l->work);
    const teamwork w = {l,
                        backward ? c->backward : c->forward,
                        l->work,
                        l->work + packed,
                        c->own_floats(l, backward),
                        rounded(l->batch, c->lanes),
                        c->lanes * l->vectors,
                        l->threads};
    return run_team(&w);
}

EXPORT void nightcast_forward(const layer *l) { run_threads(l, 0); }

/* One weight's gradient, of `blocks` of gates and entering rows [first, last), from the threads' memories. */
static void add_up(const layer *l, const code *c, const int *blocks, const float *own, int64_t threads, int64_t first,
                   int64_t last, float *to) {
    const int64_t rows = last - first, memory = c->own_floats(l, 1);
    for (int g = 0; g < 4; g++)
        for (int64_t u = 0; blocks[g] >= 0 && u < l->hidden; u++) {
            float *row = to + (blocks[g] * l->hidden + u) * rows;
            memset(row, 0, sizeof *row * (size_t)rows);
            for (int64_t i = 0; i < threads; i++) c->add_sums(l, own + i * memory, g, u, first, last, row);
        }
}

EXPORT void nightcast_backward(const layer *l) {
    const int64_t threads = run_threads(l, 1);
    const code *c = code_of(l->lanes);
    const float *own = l->work + c->packed_floats(l, 1);
    const int64_t H = l->hidden, I = l->inputs;
    const int *by_x = by_input[l->cell], *by_h = by_state[l->cell];
    add_up(l, c, by_h, own, threads, 0, H, l->dw_hh);
    add_up(l, c, by_x, own, threads, H, H + I, l->dw_ih);
    if (l->db_ih) add_up(l, c, by_x, own, threads, H + I, H + I + 1, l->db_ih);
    if (l->db_hh) add_up(l, c, by_h, own, threads, H + I, H + I + 1, l->db_hh);
}

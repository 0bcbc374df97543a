/* The entry points of the calendar head: memory, threads, and the sums over threads. */
#include "head_layout.h"
#include "team.h"

#define EXPORT __attribute__((visibility("default")))

static int64_t columns_of(const head *p) { return (p->batch + p->lanes - 1) / p->lanes * p->lanes; }

/* Floats that the forward pass keeps for the backward pass. */
EXPORT int64_t nightcast_head_saved_floats(const head *p) { return columns_of(p) * p->steps * 2 * p->hidden; }

static int64_t packed_floats(const head *p, int backward) {
    const int64_t K = p->hidden;
    return (K * (2 * K + p->outputs) + (backward && !p->dfuture ? 0 : K * p->features) + 15) / 16 * 16;
}

/* Floats of a share's own memory: its sums, if any, then what it works in. */
static int64_t own_floats(const head *p, int backward) {
    const int64_t K = p->hidden, F = p->features, columns = p->lanes * p->vectors;
    if (!backward) return (4 * K + F + p->outputs) * columns;
    const int64_t a_step = in_fours(p->outputs) + 2 * in_fours(K) + F + 2 * K;
    return (head_sums_of(p).end + (in_fours(K) + F + head_steps(p) * a_step) * columns + 15) / 16 * 16;
}

/* Floats that a pass needs to work in. */
EXPORT int64_t nightcast_head_work_floats(const head *p, int backward) {
    return packed_floats(p, backward) + p->threads * own_floats(p, backward);
}

static int64_t run(const head *p, int backward) {
    const code *c = code_of(p->lanes);
    c->head_pack(p, backward, p->work);
    const teamwork w = {p,
                        backward ? c->head_backward : c->head_forward,
                        p->work,
                        p->work + packed_floats(p, backward),
                        own_floats(p, backward),
                        columns_of(p),
                        p->lanes * p->vectors,
                        p->threads};
    return run_team(&w);
}

EXPORT void nightcast_head_forward(const head *p) { run(p, 0); }

/* to[i * by_row + j * by_column] = the sum over shares of own[i][j], of rows of `columns` in fours. */
static void collect(const float *own, int64_t shares, int64_t each, int64_t rows, int64_t columns, int64_t by_row,
                    int64_t by_column, float *to) {
    for (int64_t i = 0; i < rows; i++, own += in_fours(columns))
        for (int64_t j = 0; j < columns; j++) {
            float sum = 0;
            for (int64_t share = 0; share < shares; share++) sum += own[share * each + j];
            to[i * by_row + j * by_column] = sum;
        }
}

EXPORT void nightcast_head_backward(const head *p) {
    const int64_t shares = run(p, 1), each = own_floats(p, 1);
    const int64_t K = p->hidden, F = p->features, Q = p->outputs;
    const float *own = p->work + packed_floats(p, 1);
    const head_sums s = head_sums_of(p);
    collect(own + s.memory, shares, each, K, K, 1, K, p->dw_memory);
    collect(own + s.memory + K * in_fours(K), shares, each, 1, K, K, 1, p->db_memory);
    collect(own + s.mix, shares, each, K, K, 1, K, p->dw_mix);
    collect(own + s.mix + K * in_fours(K), shares, each, 1, K, K, 1, p->db_mix);
    collect(own + s.out, shares, each, K, Q, 1, K, p->dw_out);
    collect(own + s.out + K * in_fours(Q), shares, each, 1, Q, Q, 1, p->db_out);
    collect(own + s.calendar, shares, each, F, K, 1, F, p->dw_calendar);
    collect(own + s.place, shares, each, p->steps, K, K, 1, p->dplace);
}

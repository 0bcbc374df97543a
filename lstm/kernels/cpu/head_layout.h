/* A calendar head's memory: sums of gradients, and what a thread works in. */
#ifndef NIGHTCAST_HEAD_LAYOUT_H
#define NIGHTCAST_HEAD_LAYOUT_H

#include "native.h"

/* Steps whose gradients are gathered before they become weight gradients: few enough to stay in cache. */
enum { head_chunk = 8 };

/* Gradients come in fours. */
static inline int64_t in_fours(int64_t n) { return (n + 3) / 4 * 4; }

/* Where a share's sums begin: for what enters a product, row by row, the gradients of what leaves it. */
typedef struct {
    int64_t memory, mix, out; /* [K + 1][K in fours] twice, [K + 1][Q in fours]; the last row is the bias's */
    int64_t calendar;         /* [F][K in fours] */
    int64_t place;            /* [H][K in fours] */
    int64_t end;
} head_sums;

static inline head_sums head_sums_of(const head *p) {
    const int64_t K = in_fours(p->hidden), Q = in_fours(p->outputs);
    head_sums s = {0};
    s.mix = s.memory + (p->hidden + 1) * K;
    s.out = s.mix + (p->hidden + 1) * K;
    s.calendar = s.out + (p->hidden + 1) * Q;
    s.place = s.calendar + p->features * K;
    s.end = (s.place + p->steps * K + 15) / 16 * 16;
    return s;
}

static inline int64_t head_steps(const head *p) { return p->steps < head_chunk ? p->steps : head_chunk; }

#endif

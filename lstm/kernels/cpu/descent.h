/* A step of AdamW over tensors, and of the moving average of their weights: one pass over what torch passes some ten
 * times. */
#ifndef NIGHTCAST_DESCENT_H
#define NIGHTCAST_DESCENT_H

#include <math.h>

#include "columns.h"

/* Numbers whose squares are summed in float32, before the sum goes on in double. */
enum { squares_together = 1024 };

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* The first `count` numbers of a vector, at most. */
INLINE void store_some(float *to, int64_t count, vec value) {
    if (count >= LANES) {
        store(to, value);
        return;
    }
    float some[LANES];
    store(some, value);
    memcpy(to, some, sizeof *to * (size_t)count);
}

TARGET static double sum_of_squares(const float *from, int64_t count) {
    double sum = 0;
    for (int64_t first = 0; first < count; first += squares_together) {
        const int64_t last = least(first + squares_together, count);
        vec own = {0};
        for (int64_t i = first; i < last; i += LANES) {
            const vec number = load_some(from + i, last - i);
            own += number * number;
        }
        float each[LANES];
        store(each, own);
        for (int lane = 0; lane < LANES; lane++) sum += (double)each[lane];
    }
    return sum;
}

/* A tensor's step; its gradient is taken times `clipped`. */
TARGET static void descend_tensor(const descent *p, const descent_tensor *t, float clipped) {
    const double step = (double)(*t->step += 1.0f);
    const float by_first = (float)(p->rate / (1.0 - pow(p->beta1, step)));
    const float by_second = (float)(1.0 / sqrt(1.0 - pow(p->beta2, step)));
    const float shrunk = (float)(1.0 - p->rate * t->decay), first = (float)(1.0 - p->beta1);
    const float second = (float)(1.0 - p->beta2), kept = (float)p->beta2, epsilon = (float)p->epsilon;
    const float towards = (float)p->towards;
    for (int64_t i = 0; i < t->count; i += LANES) {
        const int64_t rest = t->count - i;
        const vec g = load_some(t->gradient + i, rest) * clipped;
        vec m = load_some(t->first + i, rest), v = load_some(t->second + i, rest);
        m += (g - m) * first;
        v = v * kept + g * g * second;
        const vec w = load_some(t->weights + i, rest) * shrunk - m * by_first / ((vec)ROOT(v) * by_second + epsilon);
        store_some(t->first + i, rest, m);
        store_some(t->second + i, rest, v);
        store_some(t->weights + i, rest, w);
        if (!t->average) continue;
        const vec average = load_some(t->average + i, rest);
        store_some(t->average + i, rest, average + (w - average) * towards);
    }
}

/* The gradient of all tensors together has the norm `clip` at most. NaN in it makes all weights NaN, what is infinite
 * only its own. */
TARGET static void descend(const descent *p) {
    double squares = 0;
    for (int64_t i = 0; i < p->count; i++) squares += sum_of_squares(p->tensors[i].gradient, p->tensors[i].count);
    const double share = p->clip / (sqrt(squares) + 1e-6);
    for (int64_t i = 0; i < p->count; i++) descend_tensor(p, &p->tensors[i], share > 1 ? 1.0f : (float)share);
}

#endif

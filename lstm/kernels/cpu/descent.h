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
TARGET static void descend_tensor(const descent *p, int64_t tensor, float clipped) {
    const float *gradient = p->gradient[tensor];
    float *weights = p->weights[tensor], *firsts = p->first[tensor], *seconds = p->second[tensor];
    float *averages = p->average ? p->average[tensor] : NULL;
    const double step = (double)(*p->step[tensor] += 1.0f);
    const float by_first = (float)(p->rate / (1.0 - pow(p->beta1, step)));
    const float by_second = (float)(1.0 / sqrt(1.0 - pow(p->beta2, step)));
    const float shrunk = (float)(1.0 - p->rate * p->decays[tensor]), first = (float)(1.0 - p->beta1);
    const float second = (float)(1.0 - p->beta2), kept = (float)p->beta2, epsilon = (float)p->epsilon;
    const float towards = (float)p->towards;
    for (int64_t i = 0; i < p->sizes[tensor]; i += LANES) {
        const int64_t rest = p->sizes[tensor] - i;
        const vec g = load_some(gradient + i, rest) * clipped;
        vec m = load_some(firsts + i, rest), v = load_some(seconds + i, rest);
        m += (g - m) * first;
        v = v * kept + g * g * second;
        const vec w = load_some(weights + i, rest) * shrunk - m * by_first / ((vec)ROOT(v) * by_second + epsilon);
        store_some(firsts + i, rest, m);
        store_some(seconds + i, rest, v);
        store_some(weights + i, rest, w);
        if (!averages) continue;
        const vec average = load_some(averages + i, rest);
        store_some(averages + i, rest, average + (w - average) * towards);
    }
}

/* The gradient of all tensors together has the norm `clip` at most. NaN in it makes all weights NaN, what is infinite
 * only its own. */
TARGET static void descend(const descent *p) {
    double squares = 0;
    for (int64_t i = 0; i < p->count; i++) squares += sum_of_squares(p->gradient[i], p->sizes[i]);
    const double share = p->clip / (sqrt(squares) + 1e-6);
    for (int64_t i = 0; i < p->count; i++) descend_tensor(p, i, share > 1 ? 1.0f : (float)share);
}

#endif

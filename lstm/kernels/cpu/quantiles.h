/* From a head's raw outputs to quantiles (`rising` of lstm/models/heads.py), in the units of the window, and back.
 *
 * Rows, one a step of a horizon, lie along the vectors; a window has `steps` of them, and a location and a scale. */
#ifndef NIGHTCAST_QUANTILES_H
#define NIGHTCAST_QUANTILES_H

#include "columns.h"

/* log(1 + e^x), and its slope. Of the smaller e, log(1 + e) is 2 atanh(e / (2 + e)): a minimax fit of
 * degree 4 in the square, relative error 2e-9 before rounding. */
INLINE vec softplus(vec x, vec *slope) {
    const mask is_positive = x >= 0.0f, sign = (mask){0} - 2147483647 - 1;
    const vec e = exp_of((vec)((mask)x | sign)), s = e / (e + 2.0f), square = s * s, share = 1.0f / (e + 1.0f);
    vec p = square * 2.817903422e-01f + 2.796046668e-01f;
    p = p * square + 4.002491839e-01f;
    p = p * square + 6.666631453e-01f;
    p = p * square + 2.000000008e+00f;
    *slope = (vec)((is_positive & (mask)share) | (~is_positive & (mask)(e * share)));
    return rectified(x) + p * s;
}

/* The windows' numbers that a vector's rows have; rows beyond the last repeat it. */
INLINE vec of_windows(const float *numbers, int64_t first, int64_t rows, int64_t steps) {
    float each[LANES];
    for (int lane = 0; lane < LANES; lane++) each[lane] = numbers[batch_row(rows, first + lane) / steps];
    return load(each);
}

TARGET static void quantiles_forward(const quantiles *p) {
    const int64_t Q = p->outputs, M = p->median;
    float y[most_quantiles * LANES], base[LANES];
    for (int64_t first = 0; first < p->rows; first += LANES) {
        vec distance = {0}, slope;
        gather(p->rows, first, LANES, p->raw, Q, 1, Q, 0, y);
        const vec middle = load(y + M * LANES), scale = of_windows(p->scale, first, p->rows, p->steps);
        const vec location = of_windows(p->location, first, p->rows, p->steps);
        for (int64_t q = M - 1; q >= 0; q--) {
            distance += softplus(load(y + q * LANES), &slope);
            store(y + q * LANES, middle - distance);
        }
        distance = (vec){0};
        for (int64_t q = M + 1; q < Q; q++) {
            distance += softplus(load(y + q * LANES), &slope);
            store(y + q * LANES, middle + distance);
        }
        for (int lane = 0; lane < LANES; lane++) base[lane] = p->base ? p->base[batch_row(p->rows, first + lane)] : 0;
        for (int64_t q = 0; q < Q; q++) store(y + q * LANES, (load(y + q * LANES) + load(base)) * scale + location);
        scatter(p->rows, first, LANES, y, p->y, Q, Q);
    }
}

TARGET static void quantiles_backward(const quantiles *p) {
    const int64_t Q = p->outputs, M = p->median;
    float raw[most_quantiles * LANES], d[most_quantiles * LANES], all[LANES];
    for (int64_t first = 0; first < p->rows; first += LANES) {
        vec sum = {0}, slope;
        gather(p->rows, first, LANES, p->raw, Q, 1, Q, 0, raw);
        gather_gradient(p->rows, first, LANES, p->dy, Q, 1, Q, 0, d);
        const vec scale = of_windows(p->scale, first, p->rows, p->steps);
        vec total = load(d + M * LANES) * scale;
        /* A quantile moves with each distance between it and the median. */
        for (int64_t q = 0; q < M; q++) {
            sum += load(d + q * LANES) * scale;
            softplus(load(raw + q * LANES), &slope);
            store(d + q * LANES, sum * -slope);
        }
        total += sum, sum = (vec){0};
        for (int64_t q = Q - 1; q > M; q--) {
            sum += load(d + q * LANES) * scale;
            softplus(load(raw + q * LANES), &slope);
            store(d + q * LANES, sum * slope);
        }
        total += sum;
        store(d + M * LANES, total);
        scatter(p->rows, first, LANES, d, p->draw, Q, Q);
        if (!p->dbase) continue;
        store(all, total);
        for (int lane = 0; lane < LANES && first + lane < p->rows; lane++) p->dbase[first + lane] = all[lane];
    }
}

#endif

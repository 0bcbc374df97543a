/* The entry points of a forecast's last steps: quantiles, and the loss over them. */
#include <stddef.h>

#include "native.h"

#define EXPORT __attribute__((visibility("default")))

EXPORT void nightcast_quantiles(const quantiles *p) { code_of(p->lanes)->quantiles_forward(p); }

EXPORT void nightcast_quantiles_backward(const quantiles *p) { code_of(p->lanes)->quantiles_backward(p); }

/* The mean pinball loss of `outputs` quantiles over the rows that were observed, 0 if none was; and its gradient,
 * unless `dy` is NULL. A quantile that hits its target is between two slopes, and has their mean. */
EXPORT void nightcast_pinball(const float *y, const float *target, const uint8_t *observed, const float *levels,
                              float *loss, float *dy, int64_t rows, int64_t outputs) {
    int64_t count = 0;
    double sum = 0;
    for (int64_t r = 0; r < rows; r++) count += observed[r];
    const float each = 1.0f / (float)((count ? count : 1) * outputs);
    for (int64_t r = 0; r < rows; r++, y += outputs) {
        const float is_seen = observed[r];
        float own = 0;
        for (int64_t q = 0; q < outputs; q++) {
            const float error = target[r] - y[q], over = levels[q] * error, under = (levels[q] - 1.0f) * error;
            own += over > under ? over : under;
            if (!dy) continue;
            /* Without a branch, which would be wrong as often as right. */
            const float slope = levels[q] - 0.5f * (float)(1 - (error > 0) + (error < 0));
            dy[r * outputs + q] = -slope * is_seen * each;
        }
        sum += (double)(own * is_seen);
    }
    *loss = (float)(sum / (double)((count ? count : 1) * outputs));
}

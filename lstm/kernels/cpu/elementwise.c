/* What stands around a recurrence, in one pass over memory where torch takes several. Plain C: the time is memory's. */
#include "dropout.h"
#include "native.h"

#include <math.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define ALWAYS_INLINE static inline __attribute__((always_inline))
/* Columns, and groups of units, that are seen to at a time: what is kept of them stays in the first cache. */
#define TOGETHER 64

typedef int32_t four __attribute__((vector_size(16)));
typedef float numbers __attribute__((vector_size(16)));
typedef float unaligned __attribute__((vector_size(16), aligned(4), may_alias));

/* The factors of the four units of a hash, the lowest bits first: 0, or a number by its bits. */
static numbers factors(uint64_t hash, int32_t threshold, int32_t scale) {
    const four bits = {(int16_t)hash, (int16_t)(hash >> 16), (int16_t)(hash >> 32), (int16_t)(hash >> 48)};
    return (numbers)((bits >= threshold) & scale);
}

/* y = x times `scale` where a unit's 16 bits are `threshold` or above, else times 0; (rows, size) both. */
EXPORT void nightcast_drop(const float *x, float *y, int64_t rows, int64_t size, int64_t key, int64_t threshold,
                           float scale) {
    int32_t by;
    memcpy(&by, &scale, sizeof by);
    for (int64_t first = 0; first < size; first += 4 * TOGETHER) {
        const int64_t units = size - first < 4 * TOGETHER ? size - first : 4 * TOGETHER, whole = units / 4;
        uint64_t group[TOGETHER];
        for (int64_t g = 0; 4 * g < units; g++) group[g] = group_hash(first / 4 + g);
        for (int64_t r = 0; r < rows; r++) {
            const uint64_t row = row_hash(key, r);
            const float *from = x + r * size + first;
            float *to = y + r * size + first;
            for (int64_t g = 0; 4 * g < units; g++) {
                uint64_t hash = (row ^ group[g]) * FIRST;
                hash = (hash ^ shifted(hash, 32)) * SECOND;
                const numbers factor = factors(hash, (int32_t)threshold, by);
                if (g < whole)
                    *(unaligned *)(to + 4 * g) = *(const unaligned *)(from + 4 * g) * factor;
                else
                    for (int64_t k = 4 * g; k < units; k++) to[k] = from[k] * factor[k - 4 * g];
            }
        }
    }
}

/* sums[c] of (x - from)^power over a window's steps, by column: four at a time, since each addition waits for the one
 * before. In double, so that long windows lose nothing. */
ALWAYS_INLINE void add_steps(const float *x, int64_t steps, int64_t columns, int64_t count, const float *from,
                             const int power, double *sums) {
    double parts[4][TOGETHER];
    int64_t t = 0;
    for (int64_t c = 0; c < count; c++) parts[0][c] = parts[1][c] = parts[2][c] = parts[3][c] = 0;
    for (; t + 4 <= steps; t += 4)
        for (int64_t c = 0; c < count; c++)
            _Pragma("GCC unroll 4") for (int p = 0; p < 4; p++) {
                const double apart = (double)x[(t + p) * columns + c] - from[c];
                parts[p][c] += power == 2 ? apart * apart : apart;
            }
    for (; t < steps; t++)
        for (int64_t c = 0; c < count; c++) {
            const double apart = (double)x[t * columns + c] - from[c];
            parts[0][c] += power == 2 ? apart * apart : apart;
        }
    for (int64_t c = 0; c < count; c++) sums[c] = (parts[0][c] + parts[1][c]) + (parts[2][c] + parts[3][c]);
}

/* Each column of a window: its mean and its standard deviation. */
ALWAYS_INLINE void describe(const float *x, int64_t steps, int64_t columns, int64_t count, float *location,
                            float *spread) {
    const float zeros[TOGETHER] = {0};
    double sums[TOGETHER];
    add_steps(x, steps, columns, count, zeros, 1, sums);
    for (int64_t c = 0; c < count; c++) location[c] = (float)(sums[c] / (double)steps);
    add_steps(x, steps, columns, count, location, 2, sums);
    for (int64_t c = 0; c < count; c++) spread[c] = (float)sqrt(sums[c] / (double)steps);
}

/* Of a window, at most `TOGETHER` of its columns: out[steps][width] gets them, normalised, and `count` further on
 * whether they were observed. */
ALWAYS_INLINE void normalise_columns(const float *x, const uint8_t *observed, int64_t steps, int64_t columns,
                                     int64_t here, int64_t count, int64_t width, int64_t described, float least,
                                     float *location, float *spread, float *out) {
    if (described) describe(x, steps, columns, here, location, spread);
    float by[TOGETHER];
    /* NaN stays what it is. */
    for (int64_t c = 0; c < here; c++) by[c] = 1.0f / (spread[c] < least ? least : spread[c]);
    for (int64_t t = 0; t < steps; t++, x += columns, observed += columns, out += width)
        for (int64_t c = 0; c < here; c++) {
            out[c] = (x[c] - location[c]) * by[c];
            out[count + c] = observed[c];
        }
}

/* What an encoder reads of windows: (windows, steps, 2 count + known) the first `count` columns, less their location
 * and over their spread, or over `least` where that is larger; whether they were observed; and what is known.
 * Location and spread, (windows, count), are given, unless `described`: then they are what `describe` says. */
EXPORT void nightcast_normalise(const float *x, const uint8_t *observed, const float *known, float *out,
                                float *location, float *spread, int64_t windows, int64_t steps, int64_t columns,
                                int64_t count, int64_t others, int64_t described, float least) {
    const int64_t width = 2 * count + others;
    for (int64_t w = 0; w < windows; w++, x += steps * columns, observed += steps * columns, out += steps * width) {
        for (int64_t first = 0; first < count; first += TOGETHER) {
            const int64_t here = count - first < TOGETHER ? count - first : TOGETHER;
            float *loc = location + w * count + first, *scale = spread + w * count + first;
            /* The sums of a single column stay in registers. */
            if (columns == 1)
                normalise_columns(x, observed, steps, 1, 1, 1, width, described, least, loc, scale, out);
            else
                normalise_columns(x + first, observed + first, steps, columns, here, count, width, described, least,
                                  loc, scale, out + first);
        }
        for (int64_t t = 0; others && t < steps; t++, known += others)
            memcpy(out + t * width + 2 * count, known, (size_t)others * sizeof *known);
    }
}

/* The run of rising first places, the first of them 0, in which a place lies. */
static int64_t run_of(const int64_t *first, int64_t runs, int64_t place) {
    int64_t run = 0;
    for (int64_t most = runs; most - run > 1;) {
        const int64_t middle = run + (most - run) / 2;
        if (first[middle] <= place)
            run = middle;
        else
            most = middle;
    }
    return run;
}

/* What the clock knows of the steps after some (lstm/clock.py): (count, ahead, features) the row of each one's day and
 * that of its time of day, summed. A step's place is `advance` after that of the one before, and `units` are a day;
 * `first` are the places where runs begin; with its run's `base` a place counts from midnight of the first day. */
EXPORT void nightcast_calendar(const int64_t *steps, const int64_t *first, const int64_t *base, const float *by_day,
                               const float *by_time, float *out, int64_t count, int64_t ahead, int64_t runs,
                               int64_t advance, int64_t units, int64_t features) {
    for (int64_t i = 0; i < count; i++) {
        int64_t place = advance * (steps[i] + 1), run = run_of(first, runs, place);
        for (int64_t step = 0; step < ahead; step++, place += advance, out += features) {
            while (run + 1 < runs && first[run + 1] <= place) run++;
            const int64_t now = place + base[run];
            const float *day = by_day + now / units * features, *time = by_time + now % units * features;
            int64_t f = 0;
            for (; f + 4 <= features; f += 4)
                *(unaligned *)(out + f) = *(const unaligned *)(day + f) + *(const unaligned *)(time + f);
            for (; f < features; f++) out[f] = day[f] + time[f];
        }
    }
}

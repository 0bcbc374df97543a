/* Runs layers from standard input through the native kernel, forward and backward, and what stands around them, and
 * writes what comes out.
 *
 * The tests build it with sanitizers, or for another processor. Every array has a heap block of exactly its size, so
 * that an access beyond it is seen. A case is 8 numbers (int64: cell, batch, steps, inputs, hidden, lanes, vectors,
 * threads), then float32 x, h0, c0, w_ih, w_hh, b_ih, b_hh, dy, dh_n, dc_n; the answer y, h_n, c_n, dx, dh0, dc0,
 * dw_ih, dw_hh, db_ih, db_hh. Sizes as for an LSTM: a GRU or RNN leaves c alone. Then of x: with units dropped by a
 * key of minus the batch; normalised, with what is positive for observed, its location and its spread; stepped down by
 * an optimizer: weights, moments, average and number of steps; and taken for raw outputs: quantiles around its own
 * first numbers, by that location and spread, their gradients by what was normalised, the loss of these quantiles for
 * its first numbers, and its gradient. Last a calendar of as many features for as many steps after each of the batch.
 *
 * A negative cell is a calendar head of so many outputs, inputs being features, and its arrays memory, future,
 * w_memory, b_memory, w_calendar, place, w_mix, b_mix, w_out, b_out, dout; the answer out, twice, since it is also
 * computed without a backward pass to follow, and the gradient by each of them but the last, by future only if there
 * is an odd number of features. An odd batch drops half of the units by the same key. */
#include "native.h"

#include <stdio.h>
#include <stdlib.h>

int nightcast_supports(int64_t);
void nightcast_forward(const layer *);
void nightcast_backward(const layer *);
int64_t nightcast_saved_floats(const layer *);
int64_t nightcast_work_floats(const layer *, int);
void nightcast_drop(const float *, float *, int64_t, int64_t, int64_t, int64_t, float);
void nightcast_normalise(const float *, const uint8_t *, const float *, float *, float *, float *, int64_t, int64_t,
                         int64_t, int64_t, int64_t, int64_t, float);

void nightcast_quantiles(const quantiles *);
void nightcast_quantiles_backward(const quantiles *);
void nightcast_pinball(const float *, const float *, const uint8_t *, const float *, float *, float *, int64_t,
                       int64_t);
void nightcast_head_forward(const head *);
void nightcast_head_backward(const head *);
int64_t nightcast_head_saved_floats(const head *);
int64_t nightcast_head_work_floats(const head *, int);
void nightcast_descend(const descent *);
void nightcast_calendar(const int64_t *, const int64_t *, const int64_t *, const float *, const float *, float *,
                        int64_t, int64_t, int64_t, int64_t, int64_t, int64_t);

/* Aligned as whole pages are. */
static void *reserve_bytes(size_t size) {
    void *memory = NULL;
    if (posix_memalign(&memory, 64, size)) exit(3);
    return memory;
}

static float *reserve(int64_t count) { return reserve_bytes(sizeof(float) * (size_t)count); }

static float *read_floats(int64_t count) {
    float *memory = reserve(count);
    if (fread(memory, sizeof(float), (size_t)count, stdin) != (size_t)count) exit(4);
    return memory;
}

static void write_floats(float *memory, int64_t count) {
    if (fwrite(memory, sizeof(float), (size_t)count, stdout) != (size_t)count) exit(5);
    free(memory);
}

/* An array of its own with the first numbers of another. */
static float *copied(const float *from, int64_t count) {
    float *to = reserve(count);
    for (int64_t i = 0; i < count; i++) to[i] = from[i];
    return to;
}

static void run_head(const int64_t n[8]) {
    const int64_t Q = -n[0], B = n[1], T = n[2], F = n[3], K = n[4];
    enum { arrays = 10 };
    const int64_t sizes[arrays] = {B * K, B * T * F, K * K, K, K * F, T * K, K * K, K, Q * K, Q};
    float *given[arrays], *by[arrays], *out = reserve(B * T * Q);
    for (int i = 0; i < arrays; i++) given[i] = read_floats(sizes[i]), by[i] = reserve(sizes[i]);
    float *dout = read_floats(B * T * Q);
    head p = {.batch = B, .steps = T, .hidden = K, .features = F, .outputs = Q, .lanes = n[5], .vectors = n[6]};
    p.threads = n[7], p.drops = B % 2, p.key = -B, p.threshold = 0, p.scale = 2.0f;
    p.memory = given[0], p.future = given[1], p.w_memory = given[2], p.b_memory = given[3], p.w_calendar = given[4];
    p.place = given[5], p.w_mix = given[6], p.b_mix = given[7], p.w_out = given[8], p.b_out = given[9];
    p.out = out, p.dout = dout, p.dmemory = by[0], p.dfuture = F % 2 ? by[1] : NULL, p.dw_memory = by[2];
    p.db_memory = by[3], p.dw_calendar = by[4], p.dplace = by[5];
    p.dw_mix = by[6], p.db_mix = by[7], p.dw_out = by[8], p.db_out = by[9];
    p.work = reserve(nightcast_head_work_floats(&p, 0));
    nightcast_head_forward(&p);
    float *without = copied(out, B * T * Q);
    p.saved = reserve(nightcast_head_saved_floats(&p));
    nightcast_head_forward(&p);
    free(p.work);
    p.work = reserve(nightcast_head_work_floats(&p, 1));
    nightcast_head_backward(&p);
    free(p.work), free(p.saved), free(dout);
    write_floats(without, B * T * Q), write_floats(out, B * T * Q);
    for (int i = 0; i < arrays; i++) free(given[i]), write_floats(by[i], i == 1 && !p.dfuture ? 0 : sizes[i]);
}

/* Of x (B, T, I) as raw outputs; `dy` has as many numbers. Frees what it is given. */
static void run_quantiles(int64_t B, int64_t T, int64_t I, int64_t lanes, float *x, uint8_t *observed, float *location,
                          float *spread, float *dy) {
    const int64_t rows = B * T;
    float *base = reserve(rows), *y = reserve(rows * I), *draw = reserve(rows * I), *dbase = reserve(rows);
    float *levels = reserve(I), *loss = reserve(1), *by_y = reserve(rows * I);
    for (int64_t i = 0; i < rows; i++) base[i] = x[i];
    for (int64_t i = 0; i < I; i++) levels[i] = (float)(i + 1) / (float)(I + 1);
    const quantiles p = {rows, I, I / 2, T, lanes, x, base, location, spread, y, dy, draw, dbase};
    nightcast_quantiles(&p);
    nightcast_quantiles_backward(&p);
    nightcast_pinball(y, base, observed, levels, loss, by_y, rows, I);
    free(x), free(observed), free(location), free(spread), free(dy), free(base), free(levels);
    write_floats(y, rows * I), write_floats(draw, rows * I), write_floats(dbase, rows);
    write_floats(loss, 1), write_floats(by_y, rows * I);
}

/* A step of AdamW by x as the gradient; weights, moments and average are x and its squares, too. */
static void run_descent(int64_t count, int64_t lanes, const float *x) {
    float *weights = copied(x, count), *gradient = copied(x, count), *average = copied(x, count);
    float *first = copied(x, count), *second = reserve(count), *step = reserve(1);
    for (int64_t i = 0; i < count; i++) second[i] = x[i] * x[i];
    *step = 3;
    const double decay = 0.1;
    const float *const by = gradient;
    descent p = {.count = 1, .lanes = lanes, .sizes = &count, .decays = &decay, .clip = 1.0, .towards = 0.2};
    p.weights = &weights, p.first = &first, p.second = &second, p.average = &average, p.gradient = &by;
    p.step = &step, p.rate = 0.01, p.beta1 = 0.9, p.beta2 = 0.999, p.epsilon = 1e-8;
    nightcast_descend(&p);
    free(gradient);
    write_floats(weights, count), write_floats(first, count), write_floats(second, count);
    write_floats(average, count), write_floats(step, 1);
}

/* Three runs, days of five units, and tables that end with the last step. */
static void run_calendar(int64_t count, int64_t ahead, int64_t features) {
    enum { runs = 3, units = 5 };
    const int64_t advance = 1 + count % 2, days = (advance * (count + ahead - 1) + 1) / units + 1;
    int64_t *steps = reserve_bytes(sizeof(int64_t) * (size_t)count);
    int64_t *first = reserve_bytes(sizeof(int64_t) * runs), *base = reserve_bytes(sizeof(int64_t) * runs);
    float *by_day = reserve(days * features), *by_time = reserve(units * features);
    float *out = reserve(count * ahead * features);
    for (int64_t i = 0; i < count; i++) steps[i] = i;
    for (int64_t i = 0; i < runs; i++) first[i] = 4 * i, base[i] = i == 1 ? 3 : i / 2;
    for (int64_t i = 0; i < days * features; i++) by_day[i] = (float)i;
    for (int64_t i = 0; i < units * features; i++) by_time[i] = (float)i / 2;
    nightcast_calendar(steps, first, base, by_day, by_time, out, count, ahead, runs, advance, units, features);
    free(steps), free(first), free(base), free(by_day), free(by_time);
    write_floats(out, count * ahead * features);
}

int main(void) {
    int64_t n[8];
    while (fread(n, sizeof(int64_t), 8, stdin) == 8) {
        if (!nightcast_supports(n[5])) exit(6);
        if (n[0] < 0) {
            run_head(n);
            continue;
        }
        const int64_t B = n[1], T = n[2], I = n[3], H = n[4], gates = n[0] == 0 ? 4 : n[0] == 1 ? 3 : 1;
        layer l = {0};
        l.cell = n[0], l.batch = B, l.steps = T, l.inputs = I, l.hidden = H;
        l.lanes = n[5], l.vectors = n[6], l.threads = n[7];
        float *x = read_floats(B * T * I), *h0 = read_floats(B * H), *c0 = read_floats(B * H);
        float *w_ih = read_floats(gates * H * I), *w_hh = read_floats(gates * H * H);
        float *b_ih = read_floats(gates * H), *b_hh = read_floats(gates * H);
        float *dy = read_floats(B * T * H), *dh_n = read_floats(B * H), *dc_n = read_floats(B * H);
        float *y = reserve(B * T * H), *h_n = reserve(B * H), *c_n = calloc((size_t)(B * H), sizeof(float));
        float *dx = reserve(B * T * I), *dh0 = reserve(B * H), *dc0 = calloc((size_t)(B * H), sizeof(float));
        float *dw_ih = reserve(gates * H * I), *dw_hh = reserve(gates * H * H);
        float *db_ih = reserve(gates * H), *db_hh = reserve(gates * H);
        l.x = x, l.x_batch = T * I, l.x_step = I, l.x_input = 1;
        l.h0 = h0, l.c0 = c0, l.w_ih = w_ih, l.w_hh = w_hh, l.b_ih = b_ih, l.b_hh = b_hh;
        l.y = y, l.y_batch = T * H, l.y_step = H, l.h_n = h_n, l.c_n = c_n;
        l.dy = dy, l.dy_batch = T * H, l.dy_step = H, l.dy_hidden = 1, l.dh_n = dh_n, l.dc_n = dc_n;
        l.dx = dx, l.dh0 = dh0, l.dc0 = dc0, l.dw_ih = dw_ih, l.dw_hh = dw_hh, l.db_ih = db_ih, l.db_hh = db_hh;
        l.saved = reserve(nightcast_saved_floats(&l));
        l.work = reserve(nightcast_work_floats(&l, 0));
        nightcast_forward(&l);
        free(l.work);
        l.work = reserve(nightcast_work_floats(&l, 1));
        nightcast_backward(&l);
        free(l.work), free(l.saved);
        float *dropped = reserve(B * T * I), *read = reserve(B * T * 2 * I), *location = reserve(B * I);
        float *spread = reserve(B * I);
        uint8_t *observed = reserve_bytes((size_t)(B * T * I));
        for (int64_t i = 0; i < B * T * I; i++) observed[i] = x[i] > 0;
        nightcast_drop(x, dropped, B * T, I, -B, 0, 2.0f);
        nightcast_normalise(x, observed, NULL, read, location, spread, B, T, I, I, 0, 1, 1e-4f);
        float *of_window = copied(location, B), *scale = copied(spread, B), *dquantiles = copied(read, B * T * I);
        free(h0), free(c0), free(w_ih), free(w_hh), free(b_ih), free(b_hh), free(dy), free(dh_n), free(dc_n);
        write_floats(y, B * T * H), write_floats(h_n, B * H), write_floats(c_n, B * H);
        write_floats(dx, B * T * I), write_floats(dh0, B * H), write_floats(dc0, B * H);
        write_floats(dw_ih, gates * H * I), write_floats(dw_hh, gates * H * H);
        write_floats(db_ih, gates * H), write_floats(db_hh, gates * H);
        write_floats(dropped, B * T * I), write_floats(read, B * T * 2 * I);
        write_floats(location, B * I), write_floats(spread, B * I);
        run_descent(B * T * I, l.lanes > 16 ? 16 : l.lanes, x);
        run_quantiles(B, T, I, l.lanes > 16 ? 16 : l.lanes, x, observed, of_window, scale, dquantiles);
        run_calendar(B, T, I);
    }
    return 0;
}

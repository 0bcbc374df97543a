/* Runs layers from standard input through the native kernel, forward and backward, and what stands around them, and
 * writes what comes out.
 *
 * The tests build it with sanitizers, or for another processor. Every array has a heap block of exactly its size, so
 * that an access beyond it is seen. A case is 8 numbers (int64: cell, batch, steps, inputs, hidden, lanes, vectors,
 * threads), then float32 x, h0, c0, w_ih, w_hh, b_ih, b_hh, dy, dh_n, dc_n; the answer y, h_n, c_n, dx, dh0, dc0,
 * dw_ih, dw_hh, db_ih, db_hh. Sizes as for an LSTM: a GRU or RNN leaves c alone. Then of x: with units dropped by a
 * key of minus the batch; and normalised, with what is positive for observed, its location and its spread. */
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

static float *reserve(int64_t count) {
    float *memory = malloc(sizeof(float) * (size_t)count);
    if (!memory) exit(3);
    return memory;
}

static float *read_floats(int64_t count) {
    float *memory = reserve(count);
    if (fread(memory, sizeof(float), (size_t)count, stdin) != (size_t)count) exit(4);
    return memory;
}

static void write_floats(float *memory, int64_t count) {
    if (fwrite(memory, sizeof(float), (size_t)count, stdout) != (size_t)count) exit(5);
    free(memory);
}

int main(void) {
    int64_t n[8];
    while (fread(n, sizeof(int64_t), 8, stdin) == 8) {
        const int64_t B = n[1], T = n[2], I = n[3], H = n[4], gates = n[0] == 0 ? 4 : n[0] == 1 ? 3 : 1;
        layer l = {0};
        l.cell = n[0], l.batch = B, l.steps = T, l.inputs = I, l.hidden = H;
        l.lanes = n[5], l.vectors = n[6], l.threads = n[7];
        if (!nightcast_supports(l.lanes)) exit(6);
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
        uint8_t *observed = malloc((size_t)(B * T * I));
        if (!observed) exit(3);
        for (int64_t i = 0; i < B * T * I; i++) observed[i] = x[i] > 0;
        nightcast_drop(x, dropped, B * T, I, -B, 0, 2.0f);
        nightcast_normalise(x, observed, NULL, read, location, spread, B, T, I, I, 0, 1, 1e-4f);
        free(observed);
        free(x), free(h0), free(c0), free(w_ih), free(w_hh), free(b_ih), free(b_hh), free(dy), free(dh_n), free(dc_n);
        write_floats(y, B * T * H), write_floats(h_n, B * H), write_floats(c_n, B * H);
        write_floats(dx, B * T * I), write_floats(dh0, B * H), write_floats(dc0, B * H);
        write_floats(dw_ih, gates * H * I), write_floats(dw_hh, gates * H * H);
        write_floats(db_ih, gates * H), write_floats(db_hh, gates * H);
        write_floats(dropped, B * T * I), write_floats(read, B * T * 2 * I);
        write_floats(location, B * I), write_floats(spread, B * I);
    }
    return 0;
}

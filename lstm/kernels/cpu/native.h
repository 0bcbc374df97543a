/* What Python hands over: pointers and sizes, no object of Python's or torch's.
 *
 * A layer is one cell type over one sequence: B batch rows, T steps, I inputs, H hidden size.
 * Weights are torch's: w_ih (gates * H, I), w_hh (gates * H, H), biases (gates * H); all contiguous. */
#ifndef NIGHTCAST_NATIVE_H
#define NIGHTCAST_NATIVE_H

#include <stdint.h>

/* In place of a vector's width: the codes in mixed precision, on AMX and on AVX-512 alone. */
enum { MIXED_AMX = 32, MIXED_BF16 = 33 };

enum cell { CELL_LSTM = 0, CELL_GRU = 1, CELL_TANH = 2, CELL_RELU = 3 };

/* Rows of gates, in blocks of H: LSTM i f g o; GRU new-by-input, r, z, new-by-state ("new" in two parts, since r
 * stands between them); RNN one. For each of them torch's block in w_ih and in w_hh; -1 where there is none. */
static const int by_input[4][4] = {{0, 1, 2, 3}, {2, 0, 1, -1}, {0, -1, -1, -1}, {0, -1, -1, -1}};
static const int by_state[4][4] = {{0, 1, 2, 3}, {-1, 0, 1, 2}, {0, -1, -1, -1}, {0, -1, -1, -1}};

typedef struct {
    int64_t cell, batch, steps, inputs, hidden;
    int64_t lanes;   /* which code runs: vector width in floats, or MIXED_AMX or MIXED_BF16 */
    int64_t vectors; /* vectors of batch rows that walk through time together */
    int64_t threads;
    /* Strides in floats. The last axis of y and dx has stride 1, that of x and dy any. */
    const float *x;
    int64_t x_batch, x_step, x_input;
    const float *h0, *c0;                   /* (B, H); c0 only of an LSTM */
    const float *w_ih, *w_hh, *b_ih, *b_hh; /* biases may be NULL */
    float *y;                               /* (B, T, H); NULL: only the last state is wanted */
    int64_t y_batch, y_step;
    float *h_n, *c_n; /* (B, H) */
    float *saved;     /* nightcast_saved_floats; NULL: no backward pass will follow */
    float *work;      /* nightcast_work_floats */
    /* Backward only. Gradients by outputs may be NULL: zero. */
    const float *dy;
    int64_t dy_batch, dy_step, dy_hidden;
    const float *dh_n, *dc_n; /* (B, H) */
    float *dx;                /* (B, T, I) contiguous; NULL: not wanted */
    float *dh0, *dc0;
    float *dw_ih, *dw_hh, *db_ih, *db_hh; /* biases may be NULL */
} layer;

/* The calendar head: K hidden units, H steps of the horizon, F features of a step, Q outputs. All is contiguous. */
typedef struct {
    int64_t batch, steps, hidden, features, outputs, lanes, vectors, threads;
    int64_t drops, key, threshold; /* whether units are dropped: those whose 16 bits are below `threshold` */
    float scale;                   /* of those that are not */
    const float *memory;           /* (B, K) */
    const float *future;           /* (B, H, F) */
    const float *w_memory, *b_memory;           /* (K, K), (K) */
    const float *w_calendar, *place;            /* (K, F), (H, K) */
    const float *w_mix, *b_mix, *w_out, *b_out; /* (K, K), (K), (Q, K), (Q) */
    float *out;                                 /* (B, H, Q) */
    float *saved;               /* nightcast_head_saved_floats; NULL: no backward pass will follow */
    float *work;                /* nightcast_head_work_floats */
    /* Backward only, which does not read place and biases. */
    const float *dout;        /* (B, H, Q) */
    float *dmemory, *dfuture; /* dfuture may be NULL: not wanted */
    float *dw_memory, *db_memory, *dw_calendar, *dplace, *dw_mix, *db_mix, *dw_out, *db_out;
} head;

enum { most_quantiles = 64 };

/* Quantiles of rows, `steps` of them a window, from a head's raw outputs. All arrays are contiguous. */
typedef struct {
    int64_t rows, outputs, median, steps, lanes; /* at most `most_quantiles` outputs */
    const float *raw;                            /* (rows, outputs) */
    const float *base;                           /* (rows), added to all of a row's; may be NULL */
    const float *location, *scale;               /* of each window */
    float *y;                                    /* (rows, outputs) */
    const float *dy;                             /* backward only */
    float *draw, *dbase;                         /* dbase may be NULL: not wanted */
} quantiles;

/* A step of AdamW over `count` tensors, whose average moves `towards` the weights by that share of the way. What
 * tensors differ in is an array each. */
typedef struct {
    int64_t count, lanes;
    const int64_t *sizes; /* numbers of each tensor */
    const double *decays;
    float *const *weights, *const *first, *const *second; /* first and second moment */
    float *const *average;                                /* may be NULL: none */
    const float *const *gradient;
    float *const *step; /* one number each: steps so far */
    double rate, beta1, beta2, epsilon, clip, towards;
} descent;

/* The code for one vector width, or in mixed precision. Sizes are in floats. */
typedef struct {
    int64_t lanes; /* columns that it walks with at the least */
    int64_t (*own_floats)(const layer *, int backward);    /* a thread's own memory; begins with its sums */
    int64_t (*packed_floats)(const layer *, int backward); /* the weights, packed */
    void (*pack)(const layer *, int backward, float *packed);
    /* Columns [first, last) of a layer: a multiple of `lanes` each. */
    void (*forward)(const void *, const float *packed, float *own, int64_t first, int64_t last);
    void (*backward)(const void *, const float *packed, float *own, int64_t first, int64_t last);
    /* to[k - first] += of a thread's sums those of a gate's unit and of row k, [first, last), of what enters a step:
     * state, input, and a row of ones for the biases. */
    void (*add_sums)(const layer *, const float *own, int gate, int64_t unit, int64_t first, int64_t last, float *to);
    /* Likewise of a head, by head_layout.h. These and the next are NULL in mixed precision, which has none. */
    void (*head_pack)(const head *, int backward, float *packed);
    void (*head_forward)(const void *, const float *packed, float *own, int64_t first, int64_t last);
    void (*head_backward)(const void *, const float *packed, float *own, int64_t first, int64_t last);
    void (*quantiles_forward)(const quantiles *);
    void (*quantiles_backward)(const quantiles *);
    void (*descend)(const descent *);
} code;

/* The code of a layer's `lanes`, where this processor runs it; else NULL. */
const code *code_of(int64_t lanes);

extern const code code_v3, code_v4, code_amx, code_bf16, code_neon;

/* Whether the compiler knows AVX-512's BF16; and AMX, which the system could let us use. */
#if defined(__x86_64__) && \
    ((defined(__clang__) && __clang_major__ >= 12) || (!defined(__clang__) && __GNUC__ >= 11))
#define HAS_BF16
#ifdef __linux__
#define HAS_AMX
#endif
#endif

#endif

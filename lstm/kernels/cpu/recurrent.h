/* The recurrent layer, forward and backward, written once for every vector width.
 *
 * Included by v3.c, v4.c and neon.c, which define
 *   LANES     floats in a vector
 *   UNITS_1, UNITS_2       hidden units whose four gates are computed together, with one or two vectors of columns;
 *                          at most 3
 *   ROWS_1, ROWS_2         rows of a transposed product computed together, likewise; at most 12
 *   WEIGHT_ROWS            input rows of a tile of weight gradients; at most 6
 *   TARGET    the function attribute that allows the instructions
 *   CODE      the name of what this makes
 *   LOWER(a, b), HIGHER(a, b)   a < b ? a : b and a > b ? a : b, so that a NaN in b stays
 *   ROOT(a)   square roots
 *
 * Batch rows lie along the vectors: a state is [H][columns], column = batch row. So any hidden size is computed
 * without padding, and a thread that owns some columns walks them through all time steps alone: no barrier.
 * The gates of a unit stay in registers from the first product to the activation; what memory sees of them is
 * the copy that the backward pass needs.
 *
 * Terms: a BLOCK is one or two vectors of columns. Rows of gates: LSTM i f g o; GRU new-input, r, z, new-hidden
 * ("new" in two parts, since r stands between them); RNN one. */

#include "backward.h"
#include "descent.h"
#include "forward.h"
#include "head.h"
#include "quantiles.h"

/* Runs BLOCK(cell, vectors), both constants, over columns [first, last): whole vectors; as many at a time as the
 * plan says, a single one at the end. */
#define WALK \
    while (first < last) { \
        const int vectors = l->vectors == 2 && first + 2 * LANES <= last ? 2 : 1; \
        switch (l->cell) { \
            case CELL_LSTM: EITHER(CELL_LSTM) break; \
            case CELL_GRU: EITHER(CELL_GRU) break; \
            case CELL_TANH: EITHER(CELL_TANH) break; \
            default: EITHER(CELL_RELU) \
        } \
        first += vectors * LANES; \
    }
#define EITHER(cell) \
    if (vectors == 2) \
        BLOCK(cell, 2); \
    else \
        BLOCK(cell, 1);

TARGET static void forward(const void *task, const float *weights, float *own, int64_t first, int64_t last) {
    const layer *l = task;
#define BLOCK(cell, vectors) forward_block(cell, vectors, l, weights, own, first)
    WALK
#undef BLOCK
}

TARGET static void backward(const void *task, const float *weights, float *own, int64_t first, int64_t last) {
    const layer *l = task;
    const int64_t sums = sum_floats(l);
    memset(own, 0, sizeof(float) * (size_t)sums);
#define BLOCK(cell, vectors) backward_block(cell, vectors, l, weights, own, own + sums, first)
    WALK
#undef BLOCK
}

const code CODE = {
    .lanes = LANES,
    .own_floats = own_floats,
    .packed_floats = packed_floats,
    .pack = pack,
    .forward = forward,
    .backward = backward,
    .add_sums = add_sums,
    .head_pack = head_pack,
    .head_forward = head_forward,
    .head_backward = head_backward,
    .quantiles_forward = quantiles_forward,
    .quantiles_backward = quantiles_backward,
    .descend = descend,
};

/* A team of threads over the rows of a batch. */
#ifndef NIGHTCAST_TEAM_H
#define NIGHTCAST_TEAM_H

#include <stdint.h>

typedef struct {
    const void *task;
    /* Does the columns [first, last), in `own` memory and by `packed` weights. */
    void (*work)(const void *task, const float *packed, float *own, int64_t first, int64_t last);
    const float *packed;
    float *own; /* `own_floats` for each share, one after the other */
    int64_t own_floats;
    int64_t columns, block; /* how many there are, and how many of them, at least, are a share */
    int64_t threads;
} teamwork;

/* Shares whole blocks of columns out to threads. Returns how many shares there were: the first memories are theirs. */
int64_t run_team(const teamwork *w);

#endif

/* Threads: torch's, where its runtime can be borrowed, else our own. */
#include "team.h"

#include <pthread.h>
#include <stdatomic.h>

#define EXPORT __attribute__((visibility("default")))
#define MOST_THREADS 256

/* Gradients that fade over many steps end as denormals, with which some processors compute many times as slowly: while
 * a pass runs, they are 0 to its threads. Returns how it was before. */
static uint64_t flush_denormals(void) {
    uint64_t before = 0;
#if defined(__x86_64__)
    const uint64_t results = 0x8000, operands = 0x40;
    before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr((unsigned)(before | results | operands));
#elif defined(__aarch64__)
    const uint64_t both = 1 << 24;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before) : : "memory");
    __asm__ volatile("msr fpcr, %0" : : "r"(before | both) : "memory");
#endif
    return before;
}

static void restore_denormals(uint64_t before) {
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr((unsigned)before);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(before) : "memory");
#endif
}

/* Shares that threads take one after the other, until there are none. */
typedef struct {
    const teamwork *w;
    int64_t blocks, shares;
    atomic_int_fast64_t next;
} queue;

static void run_shares(void *argument) {
    queue *q = argument;
    const teamwork *w = q->w;
    const uint64_t before = flush_denormals();
    for (int64_t i; (i = atomic_fetch_add(&q->next, 1)) < q->shares;) {
        const int64_t first = q->blocks * i / q->shares * w->block, last = q->blocks * (i + 1) / q->shares * w->block;
        w->work(w->task, w->packed, w->own + i * w->own_floats, first, last < w->columns ? last : w->columns);
    }
    restore_denormals(before);
}

/* GOMP_parallel of an OpenMP runtime that is in this process anyway: its threads are there already, and ours would
 * have to share the cores with them, which spin for a while after each of their own tasks. */
typedef void (*team)(void (*work)(void *), void *data, unsigned threads, unsigned flags);
static team borrowed;

EXPORT void nightcast_borrow(void *gomp_parallel) { borrowed = (team)gomp_parallel; }

static void *run_thread(void *argument) {
    run_shares(argument);
    return NULL;
}

/* By threads of our own. Of those that cannot be started the others do the work. */
static void run_queue(queue *q) {
    pthread_t started[MOST_THREADS];
    int64_t count = 0;
    while (count < q->shares - 1 && pthread_create(&started[count], NULL, run_thread, q) == 0) count++;
    run_shares(q);
    while (count) pthread_join(started[--count], NULL);
}

int64_t run_team(const teamwork *w) {
    const int64_t blocks = (w->columns + w->block - 1) / w->block;
    int64_t threads = w->threads < blocks ? w->threads : blocks;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    queue q = {w, blocks, threads, 0};
    if (threads == 1)
        run_shares(&q);
    else if (borrowed)
        borrowed(run_shares, &q, (unsigned)threads, 0);
    else
        run_queue(&q);
    return threads;
}

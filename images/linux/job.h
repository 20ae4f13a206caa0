/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What job.c and memory.c share. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define PAGE 4096ul

/* One per worker, in memory that all processes share. A worker writes it, the counter reads it. */
typedef struct {
    uint64_t writes; /* pages rewritten */
    uint64_t passes; /* times its whole slice was verified */
    uint64_t bad;    /* pages found wrong */
} WorkerStatus;

typedef struct {
    unsigned number;
    unsigned interval_ms;    /* between two lots of writes */
    unsigned pages_per_turn; /* in a lot */
    size_t n_pages;
    uint64_t *memory; /* n_pages pages, of a file on tmpfs */
    volatile WorkerStatus *status;
} Worker;

/* Sleep until a time that rises by @ms with each call; returns how late it woke up, in ms. */
typedef struct {
    int64_t due_ns;
} Ticker;
int64_t ticker_wait(Ticker *ticker, unsigned ms);

void worker_run(const Worker *worker) __attribute__((noreturn));

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The memory worker: rewrites random pages of its slice of a tmpfs file all the time, and each
 * second verifies the whole slice, every word of it.
 *
 * What a page must hold follows from its number and the sequence number of its last write. The
 * latter is kept in private memory of the process, so that a page that went back (or forward) in
 * time by itself, or whose write was lost, is found, and not only one that was damaged.
 */
#include <stdio.h>
#include <stdlib.h>
#include "job.h"

#define WORDS (PAGE / sizeof(uint64_t))
#define VERIFY_MS 1000

static uint64_t content(size_t page, size_t word, uint64_t sequence)
{
    return sequence * 0x9e3779b97f4a7c15ul + (page * WORDS + word) * 0xd6e8feb86659fd93ul;
}

static void write_page(const Worker *worker, size_t page, uint64_t sequence)
{
    uint64_t *word = worker->memory + page * WORDS;

    word[0] = sequence;
    for (size_t i = 1; i < WORDS; i++)
        word[i] = content(page, i, sequence);
}

static int page_is_right(const Worker *worker, size_t page, uint64_t sequence)
{
    const uint64_t *word = worker->memory + page * WORDS;
    uint64_t differ = word[0] ^ sequence;

    for (size_t i = 1; i < WORDS; i++)
        differ |= word[i] ^ content(page, i, sequence);
    return differ == 0;
}

static void verify(const Worker *worker, const uint64_t *expected)
{
    for (size_t page = 0; page < worker->n_pages; page++) {
        if (page_is_right(worker, page, expected[page]))
            continue;
        worker->status->bad++;
        printf("MEM BAD worker=%u page=%zu want=%llu got=%llu\n", worker->number, page,
               (unsigned long long)expected[page],
               (unsigned long long)worker->memory[page * WORDS]);
    }
    worker->status->passes++;
}

void worker_run(const Worker *worker)
{
    uint64_t *expected = calloc(worker->n_pages, sizeof(*expected));
    uint64_t random = 0x2545f4914f6cdd1dul + worker->number, sequence = 1;
    unsigned since_verify_ms = VERIFY_MS / 2;
    Ticker ticker = { 0 };

    if (expected == NULL)
        exit(1);
    for (size_t page = 0; page < worker->n_pages; page++) {
        expected[page] = sequence++;
        write_page(worker, page, expected[page]);
    }
    for (;;) {
        for (unsigned i = 0; i < worker->pages_per_turn; i++) {
            size_t page;

            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            page = random % worker->n_pages;
            expected[page] = sequence++;
            write_page(worker, page, expected[page]);
            worker->status->writes++;
        }
        since_verify_ms += worker->interval_ms;
        if (since_verify_ms >= VERIFY_MS) {
            verify(worker, expected);
            since_verify_ms = 0;
        }
        ticker_wait(&ticker, worker->interval_ms);
    }
}

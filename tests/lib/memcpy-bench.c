/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How fast one thread copies memory here, as one line of JSON: what a checkpoint's copy rate is
 * compared with.
 *
 *   memcpy-bench [MIB]     size of the source, default 512
 *
 * The source is far larger than the caches and filled with what does not compress to nothing. The
 * target is one buffer of the same size ("far"), or one of 1 MiB again and again ("near", what a
 * pipeline with small buffers can reach). Median of 7, all pages touched before.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"

#define ROUNDS 7
#define NEAR_BYTES ((size_t)1 << 20)

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static char *map(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

/* Median bytes per second of copying @bytes in pieces of @piece, each to the start of its slot in
 * @dst, which has @dst_bytes. */
static double rate(char *dst, size_t dst_bytes, const char *src, size_t bytes, size_t piece)
{
    double rates[ROUNDS];

    for (int i = 0; i < ROUNDS; i++) {
        uint64_t begin = stasis_now_us();
        for (size_t at = 0; at < bytes; at += piece) {
            memcpy(dst + at % dst_bytes, src + at, piece);
            __asm__ volatile("" ::: "memory");
        }
        uint64_t took = stasis_now_us() - begin;
        rates[i] = (double)bytes * 1e6 / (double)(took > 0 ? took : 1);
    }
    qsort(rates, ROUNDS, sizeof(rates[0]), compare);
    return rates[ROUNDS / 2];
}

int main(int argc, char **argv)
{
    long mib = argc > 1 ? strtol(argv[1], NULL, 10) : 512;
    if (mib < 1 || mib > 65536) {
        fprintf(stderr, "usage: memcpy-bench [MIB]\n");
        return 2;
    }
    size_t bytes = (size_t)mib << 20;
    char *src = map(bytes), *dst = map(bytes);
    if (src == NULL || dst == NULL) {
        perror("memcpy-bench: mmap");
        return 1;
    }
    uint64_t x = 88172645463325252u;
    for (size_t at = 0; at < bytes; at += sizeof(x)) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy(src + at, &x, sizeof(x));
    }
    memset(dst, 1, bytes);
    printf("{\"mib\": %ld, \"far_bytes_per_s\": %.0f, \"near_bytes_per_s\": %.0f}\n", mib,
           rate(dst, bytes, src, bytes, NEAR_BYTES), rate(dst, NEAR_BYTES, src, bytes, NEAR_BYTES));
    return 0;
}

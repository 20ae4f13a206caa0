/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Walking a sparse bitmap: most words are 0, and for a VM of many GiB passing over them is what a
 * pass costs. Needs nothing but C: the shim inside QEMU uses it, too.
 */
#pragma once

#include <stdint.h>

/* The first word at or after @at of the @n at @words that is not 0, or @n. */
static inline uint64_t words_next(const uint64_t *words, uint64_t at, uint64_t n)
{
    for (; at + 8 <= n; at += 8) {
        const uint64_t *w = words + at;
        if ((w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7]) != 0)
            break;
    }
    while (at < n && words[at] == 0)
        at++;
    return at;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* SHA-256 (FIPS 180-4), since nothing but the C library is there. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define SHA256_BYTES 32u

typedef struct {
    uint32_t state[8];
    uint64_t n; /* bytes so far */
    uint8_t block[64];
} Sha256;

void sha256_begin(Sha256 *sha);
void sha256_add(Sha256 *sha, const void *bytes, size_t n);
void sha256_end(Sha256 *sha, uint8_t digest[SHA256_BYTES]);

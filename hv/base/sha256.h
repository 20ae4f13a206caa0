/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* SHA-256 of what comes in pieces, at the speed of the CPU's own instructions. */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

#define STASIS_SHA256_HEX 65 /* with its NUL */

typedef struct _StasisSha256 StasisSha256;

StasisSha256 *stasis_sha256_new(void);
void stasis_sha256_add(StasisSha256 *sha, const void *bytes, size_t n);
/* The end: 64 lower-case digits. */
void stasis_sha256_finish(StasisSha256 *sha, char ret[STASIS_SHA256_HEX]);
void stasis_sha256_free(StasisSha256 *sha);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisSha256, stasis_sha256_free)

G_END_DECLS

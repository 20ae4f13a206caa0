/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the manifest, its reader and its writer share: what its texts may be, the digest line that
 * ends it, and the sums over it. */
#pragma once

#include "store/internal.h"
#include "store/seal-manifest.h"

#define STASIS_DIGEST_PREFIX "sha256:"
#define STASIS_DIGEST_LINE "  \"digest\" : \"" STASIS_DIGEST_PREFIX "%s\"\n}\n"
#define STASIS_DIGEST_TAIL_BYTES (sizeof(STASIS_DIGEST_LINE) - 1 - 2 + STASIS_DIGEST_HEX - 1)

/* Has it a character that no name and no text in a manifest may have? */
gboolean stasis_manifest_has_control(const char *text);

/* "sha256:…" of @body, and the line and bracket that must follow it. */
char *stasis_manifest_digest(const char *body, size_t len, char **ret_tail, GError **error);
/* Is the text's end the digest of what comes before it? *ret_digest is set in any case, unless it
 * is too short for one. */
gboolean stasis_manifest_check_digest(const char *text, size_t len, char **ret_digest,
                                      GError **error);
/* The text of @root, with the lines of @seals (NULL: none) and the digest as its last members. */
char *stasis_manifest_close(JsonObject *root, const StasisSeals *seals, GError **error);
/* Bytes of the image's files, with @manifest_len of the manifest and without holes. */
guint64 stasis_manifest_stored_bytes(const StasisManifest *manifest, size_t manifest_len);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How the pages of an extent are stored: one ops table a codec, in one visible array (codec.c). */
#pragma once

#include <stasis/checkpoint.h>

G_BEGIN_DECLS

/* Values are part of the on-disk format (docs/format.md). */
typedef enum {
    STASIS_STORED_ZERO = 0, /* no bytes: all pages are zero */
    STASIS_STORED_RAW = 1,
    STASIS_STORED_LZ4 = 2,
    STASIS_STORED_ZSTD = 3,
} StasisStoredAs;

typedef struct {
    const char *name;
    StasisStoredAs id;
    /* Compress @len bytes into @dst of @cap; the size, or 0 when it does not fit (store raw). */
    size_t (*compress)(void *dst, size_t cap, const void *src, size_t len);
    /* Decompress exactly @len bytes; FALSE when the input is malformed or of another size. Never
     * reads or writes outside the two buffers, whatever the input is. */
    gboolean (*decompress)(void *dst, size_t len, const void *src, size_t stored_len);
} StasisCodecOps;

/* NULL when @id is none of the above. ZERO and RAW have a decompress but no compress. */
const StasisCodecOps *stasis_codec_ops(StasisStoredAs id);
/* What compresses as a user wishes; NULL: nothing does. */
const StasisCodecOps *stasis_codec_compressing(StasisCodec codec);

G_END_DECLS

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The codecs of extents. zstd's contexts are kept for each thread, because making one costs more
 * than compressing an extent; lz4 needs none. The file ends in the table of all of them.
 */
#include "store/codec.h"

#include <lz4.h>
#include <string.h>
#include <zstd.h>

/* Level 1: the higher ones win little on memory pages and cost a multiple of the time. */
#define ZSTD_LEVEL 1

static void free_cctx(gpointer context)
{
    ZSTD_freeCCtx(context);
}

static void free_dctx(gpointer context)
{
    ZSTD_freeDCtx(context);
}

static GPrivate cctx_key = G_PRIVATE_INIT(free_cctx);
static GPrivate dctx_key = G_PRIVATE_INIT(free_dctx);

static gboolean zero_decompress(void *dst, size_t len, const void *src, size_t stored_len)
{
    if (stored_len != 0)
        return FALSE;
    memset(dst, 0, len);
    return TRUE;
}

static gboolean raw_decompress(void *dst, size_t len, const void *src, size_t stored_len)
{
    if (stored_len != len)
        return FALSE;
    memcpy(dst, src, len);
    return TRUE;
}

static size_t lz4_compress(void *dst, size_t cap, const void *src, size_t len)
{
    if (len > LZ4_MAX_INPUT_SIZE)
        return 0;
    int n = LZ4_compress_default(src, dst, (int)len, (int)MIN(cap, G_MAXINT));
    return n > 0 ? (size_t)n : 0;
}

static gboolean lz4_decompress(void *dst, size_t len, const void *src, size_t stored_len)
{
    if (len > G_MAXINT || stored_len > G_MAXINT)
        return FALSE;
    return LZ4_decompress_safe(src, dst, (int)stored_len, (int)len) == (int)len;
}

static size_t zstd_compress(void *dst, size_t cap, const void *src, size_t len)
{
    ZSTD_CCtx *context = g_private_get(&cctx_key);
    if (context == NULL) {
        context = ZSTD_createCCtx();
        g_private_set(&cctx_key, context);
    }
    if (context == NULL)
        return 0;
    size_t n = ZSTD_compressCCtx(context, dst, cap, src, len, ZSTD_LEVEL);
    return ZSTD_isError(n) ? 0 : n;
}

static gboolean zstd_decompress(void *dst, size_t len, const void *src, size_t stored_len)
{
    ZSTD_DCtx *context = g_private_get(&dctx_key);
    if (context == NULL) {
        context = ZSTD_createDCtx();
        g_private_set(&dctx_key, context);
    }
    return context != NULL && ZSTD_decompressDCtx(context, dst, len, src, stored_len) == len;
}

static const StasisCodecOps codecs[] = {
    { "zero", STASIS_STORED_ZERO, NULL, zero_decompress },
    { "raw", STASIS_STORED_RAW, NULL, raw_decompress },
    { "lz4", STASIS_STORED_LZ4, lz4_compress, lz4_decompress },
    { "zstd", STASIS_STORED_ZSTD, zstd_compress, zstd_decompress },
};

const StasisCodecOps *stasis_codec_ops(StasisStoredAs id)
{
    for (guint i = 0; i < G_N_ELEMENTS(codecs); i++)
        if (codecs[i].id == id)
            return &codecs[i];
    return NULL;
}

/* ---- what a user may choose ---- */

static const struct {
    const char *name;
    StasisStoredAs stored_as;
} wishes[] = {
    [STASIS_CODEC_LZ4] = { "lz4", STASIS_STORED_LZ4 },
    [STASIS_CODEC_ZSTD] = { "zstd", STASIS_STORED_ZSTD },
    [STASIS_CODEC_NONE] = { "none", STASIS_STORED_RAW },
};

int stasis_codec_from_string(const char *name)
{
    for (guint i = 0; i < G_N_ELEMENTS(wishes); i++)
        if (strcmp(wishes[i].name, name) == 0)
            return (int)i;
    return -1;
}

const StasisCodecOps *stasis_codec_compressing(StasisCodec codec)
{
    const StasisCodecOps *ops = stasis_codec_ops(wishes[codec].stored_as);
    return ops->compress != NULL ? ops : NULL;
}

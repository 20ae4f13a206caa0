/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is kept beside images though it could be made from them again: STORE/cache/
 * (docs/format.md). It may be deleted at any time, goes with its image, and is never needed to
 * restore one.
 */
#pragma once

#include <stasis/progress.h>

#include "store/image.h"

G_BEGIN_DECLS

/* ---- RAM templates: an image's large RAM blocks as raw files, to be mapped ---- */

typedef struct {
    guint block; /* of the image */
    char *path;  /* absolute */
    int fd;      /* opened read-only, so that it stays what it is if the file is deleted */
} StasisTemplateBlock;

typedef struct {
    GPtrArray *blocks; /* of StasisTemplateBlock */
    guint64 made_us;   /* how long it took to make it; 0: it was there */
    /* Of an encrypted store it lies in memory, which goes back when nobody has it open and no VM
     * maps it, and of one that is signed alone it is ours alone: its directory, share-locked as
     * long as it is in use, and that one's; else -1. */
    int dir_fd, cache_fd;
    char *name;
} StasisTemplate;

/*
 * The template of @reader's image, made if it is not there or lacks a block. @blocks: the indexes
 * (guint) of those to be in it, in order: RAM blocks, or disks, which are a template of their own.
 * Two that ask at once make one, where it may be believed that it is what was made. Making it reads
 * all of the image, each extent checked; it is written aside, synced, and renamed, so that it is
 * there whole or not at all.
 */
StasisTemplate *stasis_template_get(StasisStore *store, StasisImageReader *reader,
                                    const GArray *blocks, StasisProgressFunc progress,
                                    gpointer user_data, GCancellable *cancellable, GError **error);
void stasis_template_free(StasisTemplate *template);

/* ---- pages that a restored VM touched first, in that order ---- */

/* More are not kept: 64 Ki extents are 4 GiB. */
#define STASIS_TOUCHED_MAX 65536u

/* A guest-visible page; whoever uses it takes the extent or the huge page around it. */
typedef struct {
    guint32 block; /* of the image */
    guint64 page;
} StasisTouched;

/* Element type: StasisTouched. Untrusted: NULL with STASIS_ERROR_CORRUPT if anything is odd about
 * it, STASIS_ERROR_NOT_FOUND if there is none. */
GArray *stasis_touched_load(StasisStore *store, StasisImageReader *reader, GError **error);
gboolean stasis_touched_save(StasisStore *store, StasisImageReader *reader, const GArray *touched,
                             GError **error);

/* The bytes of the file, apart from where it lies. */
GBytes *stasis_touched_to_bytes(StasisImageReader *reader, const GArray *touched, GError **error);
GArray *stasis_touched_from_bytes(StasisImageReader *reader, const guint8 *data, gsize len,
                                  GError **error);

/* ---- both ---- */

/* Remove what is kept for image @id. */
void stasis_cache_remove(StasisStore *store, const char *id);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisTemplate, stasis_template_free)

G_END_DECLS

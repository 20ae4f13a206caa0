/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* QEMU's dirty bitmaps of ours: "stasis-ID" counts writes to a node since the instant of image ID.
 */
#pragma once

#include "disk/disk.h"

G_BEGIN_DECLS

/* Those of all nodes, by node: a snapshot of QEMU's own list. */
typedef struct _StasisBitmaps StasisBitmaps;

StasisBitmaps *stasis_bitmaps_list(StasisQmp *qmp, GError **error);
void stasis_bitmaps_free(StasisBitmaps *bitmaps);

/* Has @node one that counts since @image, and counts still? */
gboolean stasis_bitmaps_has(const StasisBitmaps *bitmaps, const char *node, const char *image);
/* Remove all but the working ones that count since @keep (NULL: none). */
gboolean stasis_bitmaps_sweep(const StasisBitmaps *bitmaps, StasisQmp *qmp, const char *keep,
                              GError **error);
/* Behind this comes the path of the device that a node was taken from for a moment (access.h). */
#define STASIS_BITMAP_OWNER "stasis-of:"
/* Give every such device its disk back. */
gboolean stasis_bitmaps_put_back(const StasisBitmaps *bitmaps, StasisQmp *qmp, GError **error);

/* "stasis-@image". */
char *stasis_bitmap_name(const char *image);

/* Add to @actions of a QMP transaction. */
void stasis_bitmap_add(JsonArray *actions, const char *node, const char *name);
void stasis_bitmap_act(JsonArray *actions, const char *what, const char *node, const char *name);
void stasis_bitmap_merge(JsonArray *actions, const char *node, const char *from, const char *into);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisBitmaps, stasis_bitmaps_free)

G_END_DECLS

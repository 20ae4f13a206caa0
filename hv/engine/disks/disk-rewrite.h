/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Giving the disks of a stopped VM the content that they have in an image. */
#pragma once

#include <gio/gio.h>

#include "engine/vm/session.h"
#include "store/image.h"

G_BEGIN_DECLS

typedef struct _StasisDiskRewrite StasisDiskRewrite;

/* Are the VM's writable disks the image's? STASIS_ERROR_UNSUPPORTED names the first that is not. An
 * image without disks: there is nothing to do. @reader must outlive the object. */
StasisDiskRewrite *stasis_disk_rewrite_new(StasisSession *session, StasisImageReader *reader,
                                           GError **error);
/* For a VM whose disks are not to be written: nothing is done. */
StasisDiskRewrite *stasis_disk_rewrite_new_none(StasisImageReader *reader);
void stasis_disk_rewrite_free(StasisDiskRewrite *rewrite);
gboolean stasis_disk_rewrite_has_any(const StasisDiskRewrite *rewrite);

/* The VM's bitmaps count since image @base, whose content is @reader's: what differs from ours is
 * what they say and what the two images' chains say. Without this, or where a disk has no such
 * bitmap, all of it is compared. */
void stasis_disk_rewrite_set_base(StasisDiskRewrite *rewrite, const char *base,
                                  StasisImageReader *reader);

/* The VM is stopped. Killed in the middle, the disks are neither the one nor the other; what was
 * written shows in the bitmaps, too. *ret_pages: how many were written. */
gboolean stasis_disk_rewrite_put(StasisDiskRewrite *rewrite, guint64 *ret_pages, GError **error);
/* From here on, the VM still stopped, bitmaps count since our image (@tracked), or are gone. */
gboolean stasis_disk_rewrite_settle(StasisDiskRewrite *rewrite, gboolean tracked, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisDiskRewrite, stasis_disk_rewrite_free)

G_END_DECLS

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The images that a watch has taken, and which of them go when a process ends or becomes another
 * program. Those of others in the store are left alone.
 */
#pragma once

#include <stasis/process-image.h>

G_BEGIN_DECLS

typedef struct _StasisWatchImages StasisWatchImages;

StasisWatchImages *stasis_watch_images_new(void);
void stasis_watch_images_free(StasisWatchImages *images);

/* Remember it, and that its processes lived then. */
void stasis_watch_images_add(StasisWatchImages *images, const StasisProcessImageInfo *info);
/* That process has ended. */
void stasis_watch_images_ended(StasisWatchImages *images, guint pid, guint64 start);
/* … or is another program now than it is in the images there are. */
void stasis_watch_images_changed(StasisWatchImages *images, guint pid, guint64 start);

typedef enum {
    STASIS_WATCH_ENDED = 1 << 0,   /* all its processes have ended */
    STASIS_WATCH_CHANGED = 1 << 1, /* one is another program now, and there is a newer image */
} StasisWatchReasons;

/* That image need not stay. */
void stasis_watch_images_spare(StasisWatchImages *images, const char *id);
/* The ID of the oldest that goes for one of @reasons, that need not stay, or that is more than the
 * @keep (0: all) newest; NULL: none does. It is forgotten. Free with g_free(). */
char *stasis_watch_images_take(StasisWatchImages *images, guint reasons, guint keep);

/* IDs of those that are left, oldest first. Free with g_strfreev(). */
char **stasis_watch_images_list(const StasisWatchImages *images);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisWatchImages, stasis_watch_images_free)

G_END_DECLS

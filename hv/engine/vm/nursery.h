/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A process that outlives us for as long as VMs of ours are half-started: if we are killed, it ends
 * those and removes their traces; complete ones it leaves alone. A VM that is to live no longer
 * than we do never is complete. Made before there are threads that start VMs; the other calls are
 * for any thread.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

G_BEGIN_DECLS

typedef struct _StasisNursery StasisNursery;

StasisNursery *stasis_nursery_new(GError **error);
/* QEMU @pid is being made VM @name. */
gboolean stasis_nursery_add(StasisNursery *nursery, const char *name, pid_t pid, guint64 start_time,
                            GError **error);
/* Remove directory @path and all in it when the nursery is freed, or we die. */
gboolean stasis_nursery_add_dir(StasisNursery *nursery, const char *path, GError **error);
/* It is complete, or gone. */
void stasis_nursery_release(StasisNursery *nursery, pid_t pid);
void stasis_nursery_free(StasisNursery *nursery);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisNursery, stasis_nursery_free)

G_END_DECLS

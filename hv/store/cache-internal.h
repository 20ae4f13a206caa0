/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What cache.c, template.c and touched.c share. */
#pragma once

#include "store/cache.h"
#include "store/internal.h"

G_BEGIN_DECLS

#define STASIS_CACHE_RAM "ram"         /* a directory */
#define STASIS_CACHE_DISK "disk"       /* the same, of disks */
#define STASIS_CACHE_OWN "-"           /* behind either: shared with nobody, and locked */
#define STASIS_CACHE_TOUCHED "touched" /* a file */

/* STORE/cache, or -1. */
int stasis_cache_open(StasisStore *store, gboolean create, GError **error);
/* "ID.WHAT". */
char *stasis_cache_name(const char *id, const char *what);
/* Wait to be the one who makes something large. Closing the descriptor returned gives the lock
 * back. *ret_aside_fd: an empty directory of the same file system. */
int stasis_cache_lock(StasisStore *store, int cache_fd, int *ret_aside_fd,
                      GCancellable *cancellable, GError **error);

G_END_DECLS

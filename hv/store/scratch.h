/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where what is derived from a store's images lies: their memory as clones map it, disks of VMs
 * that were made from them, scratch files. That is the store itself; but of an encrypted one, and
 * of any if a key that decrypts is named, since nothing of such images may reach a disk in the
 * clear, a directory in memory (/dev/shm), named by the store's UUID.
 */
#pragma once

#include "store/image.h"

G_BEGIN_DECLS

/* The directory itself, made if need be; a descriptor that is the store's. -1 on error. */
int stasis_store_scratch_fd(StasisStore *store, GError **error);
/* NAME in it: "cache", "disks", "tmp"; in memory it is made, else only named. Free with g_free().
 */
char *stasis_store_scratch_path(StasisStore *store, const char *name, GError **error);
/* Is it in memory, which has to be given back? */
gboolean stasis_store_scratch_is_memory(StasisStore *store);
/* NAME in the directories in memory that are there, of whichever store; it may be missing. Free
 * with g_strfreev(). */
char **stasis_scratch_find(const char *name);

G_END_DECLS

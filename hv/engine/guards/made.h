/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images that their makers, guards and transactions, take away again. In the VM's store in memory
 * they are known by their note. In a store of somebody's there may be images of that VM with that
 * note that are none of theirs: which are is in a list in the VM's directory in memory, so that it
 * is known also after a maker was killed.
 */
#pragma once

#include "engine/guards/memory-store.h"

G_BEGIN_DECLS

/* @id in @store, with note @note, is one. @memory: the VM's, held; NULL: @store is ours alone.
 * FALSE: nobody would know of it, and it has been deleted. */
gboolean stasis_made_note(const StasisMemory *memory, StasisStore *store, const char *note,
                          const char *id, GError **error);
/* Delete all of VM @vm_name in @store with note @note that are, but the newest @n_keep. */
gboolean stasis_made_prune(const StasisMemory *memory, StasisStore *store, const char *vm_name,
                           const char *note, guint n_keep, GError **error);

G_END_DECLS

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A VM's store in memory, for images that are wanted for minutes: below $STASIS_RUNTIME_DIR/.memory
 * if that is set, else /dev/shm/stasis-UID (a tmpfs may there take half of RAM, in /run a tenth).
 * It outlives its maker and the VM's QEMU, and whoever works with it holds it.
 */
#pragma once

#include <stasis/store.h>

G_BEGIN_DECLS

typedef struct {
    char *dir; /* of the VM's */
    int lock_fd;
} StasisMemory;

/* Hold that of VM @name, waiting @wait_ms for who does; made if it is not there. @doing is for who
 * waits: "a transaction". STASIS_ERROR_BUSY. */
StasisMemory *stasis_memory_open(const char *name, const char *doing, guint wait_ms,
                                 GError **error);
/* Gives it back. With @drop the store goes. */
void stasis_memory_close(StasisMemory *memory, gboolean drop);
void stasis_memory_free(StasisMemory *memory);
StasisStore *stasis_memory_get_store(StasisMemory *memory, GError **error);
/* Is it really in memory, and not on a disk that $STASIS_RUNTIME_DIR names? */
gboolean stasis_memory_is_ram(const StasisMemory *memory);
/* Is @store that of stasis_memory_get_store()? */
gboolean stasis_memory_has(const StasisMemory *memory, StasisStore *store);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisMemory, stasis_memory_free)

G_END_DECLS

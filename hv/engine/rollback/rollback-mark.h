/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * "Half rolled back": a file in the VM's directory (rollback.json) that is there from before the
 * first byte of the machine is changed until the last one is. While it is there the machine is no
 * state that ever was: it must not run, and no image may be made of it. What the VM's record says
 * of tracking does not count meanwhile.
 *
 * It is a file of its own so that the dead man's switch can take it back with one system call when
 * we die before anything was changed (vmm/lifeline.h).
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

typedef struct {
    char *image; /* where the VM was to go back to; "" when the mark can't be read */
    char *store; /* the store's absolute path */
} StasisRollbackMark;

gboolean stasis_rollback_mark_set(const char *vm_name, const char *image, const char *store,
                                  GError **error);
/* NULL when the VM is not marked. */
StasisRollbackMark *stasis_rollback_mark_get(const char *vm_name);
gboolean stasis_rollback_mark_clear(const char *vm_name, GError **error);
void stasis_rollback_mark_free(StasisRollbackMark *mark);
/* The file's path. Free with g_free(). */
char *stasis_rollback_mark_path(const char *vm_name, GError **error);

/* STASIS_ERROR_BUSY, saying what to do, when the VM is marked. */
gboolean stasis_rollback_check_whole(const char *vm_name, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisRollbackMark, stasis_rollback_mark_free)

G_END_DECLS

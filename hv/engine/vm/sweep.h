/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is in a VM's QEMU of ours to copy its disks or to hold its output, and must not stay:
 * removed by the next command on that VM, or by stasis-sweep.
 */
#pragma once

#include "engine/vm/session.h"

G_BEGIN_DECLS

/* Remove what a command that is no more left there; bitmaps since image @keep (or NULL) stay.
 * STASIS_ERROR_BUSY when somebody still reads the disks through it. */
gboolean stasis_session_sweep(StasisSession *session, const char *keep, GError **error);
/* Note that the disks are read by us from now on, when the VM is held no more; until the release.
 */
gboolean stasis_session_lend_disks(StasisSession *session, GError **error);

/* The same for VM @name, as the next command on it would. Waits for @wait_ms for those who hold the
 * VM. */
gboolean stasis_vm_sweep(const char *name, guint wait_ms, GError **error);
/* We read its disks no more: that, and sweep. */
gboolean stasis_vm_release_disks(const char *name, guint wait_ms, GError **error);

/* The words that do it in a process of its own (stasis-sweep); NULL where that is not installed.
 * Free with g_strfreev(). */
char **stasis_vm_sweep_argv(const char *name);

G_END_DECLS

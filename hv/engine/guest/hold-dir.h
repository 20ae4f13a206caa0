/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What one process at a time may do with a VM's guest, and keeps its state of in the VM's
 * directory. */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

/* Open the directory of VM @name and hold the file @lock in it (flock(2)). STASIS_ERROR_BUSY, with
 * "VM NAME: " and @busy: another process does. *ret_dir_fd and *ret_lock_fd are the caller's to
 * close, on failure as well; -1: not open. */
gboolean stasis_guest_hold_dir(const char *name, const char *lock, const char *busy,
                               int *ret_dir_fd, int *ret_lock_fd, GError **error);

G_END_DECLS

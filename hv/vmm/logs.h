/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What QEMU and its guest write to the VM's directory: console.log and qemu.log. */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* Give back the room of the logs of VM @name, or of all VMs when NULL, but for the last part of
 * each: STASIS_LOG_BYTES (default 16 MiB). The offsets of what stays remain: the beginning becomes
 * a hole. What can't be done is left; errno may change. */
void stasis_logs_bound(const char *name);

G_END_DECLS

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A disk image for one purpose: QEMU's snapshot-load loads device state from an internal snapshot
 * of a qcow2 image and from nowhere else.
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* The virtual disk beside the state: empty, and as small as makes sense. */
#define STASIS_QCOW2_DISK_BYTES 65536u

/* The whole file: an empty disk with one internal snapshot named @tag (1 to 255 bytes) whose VM
 * state is @vmstate, a stream with configuration section, of at most 64 MiB. STASIS_ERROR_CORRUPT
 * when it is empty or larger. Opened by QEMU it must be writable: going to a snapshot rewrites its
 * tables. */
GBytes *stasis_qcow2_with_vmstate(GBytes *vmstate, const char *tag, GError **error);

G_END_DECLS

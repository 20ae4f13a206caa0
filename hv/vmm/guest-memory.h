/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A running guest's memory, read by the guest's own addresses. */
#pragma once

#include <gio/gio.h>
#include <sys/types.h>

#include "vmm/qmp.h"

G_BEGIN_DECLS

typedef struct _StasisGuestMemory StasisGuestMemory;

/* Of QEMU @pid; needs the right to read its memory. Holds for the layout that the guest has now. */
StasisGuestMemory *stasis_guest_memory_new(StasisQmp *qmp, pid_t pid, GError **error);
void stasis_guest_memory_free(StasisGuestMemory *memory);

/* Copy @len bytes at guest-physical @gpa, any numbers, to @dst. FALSE where that is not all RAM or
 * ROM, or can't be read. The guest may write them meanwhile. */
gboolean stasis_guest_memory_read(const StasisGuestMemory *memory, guint64 gpa, guint8 *dst,
                                  gsize len);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisGuestMemory, stasis_guest_memory_free)

G_END_DECLS

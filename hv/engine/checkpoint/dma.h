/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * DMA that goes past every dirty tracker: a disk opened with O_DIRECT reads into guest pages which
 * the kernel pins, and marks as written, when the read begins. If the tracker is re-armed in
 * between, what lands afterwards is not marked again. So after each re-arming the disks are
 * drained, and pages are read only then. (A read into the page cache is copied by the CPU, and
 * seen.)
 */
#pragma once

#include <glib.h>

#include "vmm/qmp.h"

G_BEGIN_DECLS

/* Does any disk of the VM work like that? STASIS_ERROR_UNSUPPORTED when it does and this QEMU has
 * no known way to drain. */
gboolean stasis_dma_needs_drain(StasisQmp *qmp, gboolean *ret_needed, GError **error);
/* Wait until all I/O that is under way has ended. The VM runs; its disks stand still meanwhile. */
gboolean stasis_dma_drain(StasisQmp *qmp, GError **error);

G_END_DECLS

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The device state of a stopped VM, now. */
#pragma once

#include <glib.h>

#include "vmm/qmp.h"

G_BEGIN_DECLS

/* The stream as QEMU's xen-save-devices-state writes it. The VM is stopped, and stays so. */
GBytes *stasis_device_save(StasisQmp *qmp, GError **error);

G_END_DECLS

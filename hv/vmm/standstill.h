/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VM stopped for a moment for the sake of something that QEMU can't do safely while the guest
 * runs. A lifeline lets it go on if we die. A VM that is stopped already stays so.
 */
#pragma once

#include "vmm/qmp.h"

G_BEGIN_DECLS

typedef struct _StasisStandstill StasisStandstill;

/* The VM still runs. @qmp is borrowed. */
StasisStandstill *stasis_standstill_new(StasisQmp *qmp, GError **error);
/* QEMU's "stop": the CPUs are paused, and no request of the guest's to a disk is under way. */
gboolean stasis_standstill_begin(StasisStandstill *still, GError **error);
/* Let it go on if it was begun and the VM ran. May be begun again. */
gboolean stasis_standstill_end(StasisStandstill *still, GError **error);
/* Ends it too. */
void stasis_standstill_free(StasisStandstill *still);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisStandstill, stasis_standstill_free)

G_END_DECLS

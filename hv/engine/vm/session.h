/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One operation on one VM: its lock, what is recorded of it, its monitor. */
#pragma once

#include <stasis/vm.h>

#include "vmm/domain.h"
#include "vmm/qmp.h"
#include "vmm/registry.h"

G_BEGIN_DECLS

typedef struct {
    int lock_fd;
    StasisRecord *record;
    StasisDomain *domain; /* or NULL: a QEMU without libvirt */
    StasisQmp *qmp;
} StasisSession;

/* Take VM @name: STASIS_ERROR_BUSY after @wait_ms, STASIS_ERROR_NOT_FOUND when there is none or its
 * QEMU has ended (it is forgotten then). */
StasisSession *stasis_session_open(const char *name, guint wait_ms, GError **error);
void stasis_session_free(StasisSession *session);

/* A handle on @name; engine-internal constructor. */
StasisVm *stasis_vm_new(const char *name);

/* What there is to tell of @name, whatever hinders it; NULL when it is not known. */
StasisVmInfo *stasis_vm_info_of(const char *name);

/* How long an operation waits for another one on the same VM. */
#define STASIS_LOCK_WAIT_MS 5000
#define STASIS_QMP_TIMEOUT_MS 10000

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisSession, stasis_session_free)

G_END_DECLS

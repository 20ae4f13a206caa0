/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Starting a QEMU under a name: what run and restore share. */
#pragma once

#include <gio/gio.h>
#include <stasis/vm.h>

#include "engine/vm/nursery.h"
#include "vmm/domain.h"
#include "vmm/machine.h"
#include "vmm/qmp.h"
#include "vmm/registry.h"

G_BEGIN_DECLS

typedef struct {
    const char *name;
    const char *const *argv;
    const char *cwd;
    const char *accel;
    gboolean no_shim;
    int niceness;                   /* added to ours */
    gboolean agent;                 /* with a port to an agent */
    pid_t beside;                   /* or 0: keep to the CPUs that this process may use */
    gboolean incoming;              /* wait for device state (a restore) */
    const StasisLaunchClone *clone; /* or NULL */
    const StasisLaunchDisk *disks;  /* that get other files */
    guint n_disks;
    StasisNursery *nursery; /* or NULL: ends it if we die before stasis_started_keep() … */
    gboolean bound;         /* … or after that, too */
} StasisStart;

/* A QEMU that is started, paused, and not kept yet: freeing it ends the process and removes all
 * traces, unless stasis_started_keep() went well. */
typedef struct {
    StasisRecord *record;
    StasisQmp *qmp;
    int lock_fd;
    gboolean kept, bound;
    StasisNursery *nursery;
    /* A clone's new identity, as in StasisLaunch. */
    char *uuid;
    char *generation_id;
    char **macs;
    guint64 shared_bytes; /* of its RAM, mapped from a template */
    guint64 ready_us;     /* when it ran, or was ready to (stasis_now_us()) */
} StasisStarted;

/* Take @name for a new VM: the lock's descriptor, or -1 when one of that name lives. */
int stasis_vm_claim_name(const char *name, GError **error);

/* Make the running QEMU behind @qmp (NULL: @error is set already) known as @record, whose pid and
 * start_time are filled in. Its name is claimed; on failure it is forgotten. */
gboolean stasis_vm_adopt(StasisRecord *record, StasisQmp *qmp, GError **error);

/* Make a domain known that is not yet, under a name that fits. */
StasisVm *stasis_vm_adopt_domain(StasisDomain *domain, GError **error);

StasisStarted *stasis_vm_start(const StasisStart *start, GCancellable *cancellable, GError **error);
gboolean stasis_started_keep(StasisStarted *started, GError **error);
void stasis_started_free(StasisStarted *started);

/* SIGTERM, then SIGKILL; TRUE when the process of that start time is gone. */
gboolean stasis_process_end(pid_t pid, guint64 start_time, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisStarted, stasis_started_free)

G_END_DECLS

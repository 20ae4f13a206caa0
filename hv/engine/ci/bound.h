/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * VMs that live no longer than we do: those of tests and their replays. As the public functions of
 * the same names, but if we are killed, at whatever moment, @nursery ends the VM. Who ends it
 * himself tells the nursery so (stasis_nursery_release()).
 */
#pragma once

#include <stasis/clone.h>
#include <stasis/restore.h>
#include <stasis/vm.h>

#include "engine/vm/nursery.h"

G_BEGIN_DECLS

StasisVm *stasis_vm_run_bound(const char *name, const StasisRunOptions *options,
                              const char *const *argv, StasisNursery *nursery,
                              GCancellable *cancellable, GError **error);
/* Of a bare QEMU: options->connect is NULL. */
StasisVm *stasis_restore_bound(StasisStore *store, const char *id,
                               const StasisRestoreOptions *options, StasisNursery *nursery,
                               GCancellable *cancellable, GError **error);
/* Likewise; forks no process, so there may be threads. */
StasisClones *stasis_clone_bound(StasisStore *store, const char *id,
                                 const StasisCloneOptions *options, StasisNursery *nursery,
                                 GCancellable *cancellable, GError **error);

/* End @vm with its disks and forget it; nothing of it stays. */
void stasis_vm_end_bound(StasisVm *vm, StasisNursery *nursery);

G_END_DECLS

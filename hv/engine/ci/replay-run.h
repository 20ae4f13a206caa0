/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One image of a bundle's ring as a VM in which the test goes on. */
#pragma once

#include <stasis/bundle.h>
#include <stasis/replay.h>

#include "engine/ci/ci-bundle.h"
#include "engine/ci/trial.h"
#include "engine/vm/nursery.h"
#include "engine/vm/session.h"

G_BEGIN_DECLS

/* A bundle, unpacked. */
typedef struct {
    StasisNursery *nursery; /* whatever becomes of us ends its VMs, and removes the directory */
    char *dir;
    char *boot_dir;     /* of the kernel and so on, or NULL: as the machine names them */
    StasisCiTest *test; /* of a guard's bundle without argv, but with what was watched for */
    gint64 at_us;       /* Unix time of the failure */
    StasisStore *store;
    GPtrArray *images; /* of StasisImageInfo, oldest first; none of a machine that was recorded */
    StasisBundle *bundle; /* of that; else NULL */
} StasisReplaySource;

/* Forks a process: to be called before there are threads. */
StasisReplaySource *stasis_replay_source_open(const char *path, const char *scratch,
                                              GCancellable *cancellable, GError **error);
void stasis_replay_source_free(StasisReplaySource *source);
/* How long a run from image @index has unless told. */
guint64 stasis_replay_source_timeout_us(const StasisReplaySource *source, guint index);
/* Index of the image that @from means (StasisReplayOptions). */
gboolean stasis_replay_source_find(const StasisReplaySource *source, const char *from,
                                   guint *ret_index, GError **error);

typedef struct _StasisReplayVm StasisReplayVm;

/* The VM, paused at the image's instant. @perturb as in StasisReplayOptions. */
StasisReplayVm *stasis_replay_vm_new(const StasisReplaySource *source, guint index, guint perturb,
                                     GCancellable *cancellable, GError **error);
/* The VM is gone after that. */
void stasis_replay_vm_free(StasisReplayVm *vm);
StasisVm *stasis_replay_vm_get(StasisReplayVm *vm);
StasisQmp *stasis_replay_vm_get_qmp(StasisReplayVm *vm);
/* Follow the test from here on; the VM is still paused. */
gboolean stasis_replay_vm_follow(StasisReplayVm *vm, guint64 timeout_us, GError **error);
/* Before that: what the test writes goes there, too (StasisReplayOptions). */
void stasis_replay_vm_set_output(StasisReplayVm *vm, StasisOutputFunc output, gpointer user_data);
/* Keep it, for stasis_replay_vm_write(). */
void stasis_replay_vm_keep_output(StasisReplayVm *vm);
/* Once it is over: what the test and the console wrote, as files @base.stdout and so on. */
gboolean stasis_replay_vm_write(StasisReplayVm *vm, const char *base, GError **error);
/* Let it run, once what makes it differ has been sent to it. It is followed. */
gboolean stasis_replay_vm_go(StasisReplayVm *vm, GError **error);
/* As stasis_trial_look(); disturbs the VM if it is to be. */
gboolean stasis_replay_vm_look(StasisReplayVm *vm, StasisOutcome *ret);
/* How often it was stopped for that. */
guint stasis_replay_vm_get_n_pauses(const StasisReplayVm *vm);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisReplaySource, stasis_replay_source_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisReplayVm, stasis_replay_vm_free)

G_END_DECLS

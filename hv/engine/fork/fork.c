/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The image goes into a store of its own, which nobody else knows, in a directory that is removed
 * with the fork. The nursery ends the one and removes the other if we are killed; the fork is never
 * complete in its sense. Its disks stay where they are (fork-disks.h). The VM is not held for that:
 * only what would have to take away what is in it for them is refused meanwhile (sweep.h). At our
 * death stasis-sweep takes it away.
 */
#include "engine/fork/fork.h"

#include <errno.h>
#include <stasis/checkpoint.h>
#include <stasis/error.h>
#include <stdlib.h>

#include "base/fault.h"
#include "base/io.h"
#include "engine/checkpoint/series.h"
#include "engine/disks/disk-copy.h"
#include "engine/fork/fork-disks.h"
#include "engine/fork/fork-domain.h"
#include "engine/fork/fork-sweep.h"
#include "engine/guest/agent-vm.h"
#include "engine/guest/awaken.h"
#include "engine/restore/revive.h"
#include "engine/vm/sweep.h"
#include "vmm/agent-channel.h"

#define RELEASE_WAIT_MS 60000
/* It has time; the VM that it was made of may have deadlines, and both the same CPUs. */
#define NICENESS 3

struct _StasisFork {
    StasisNursery *nursery;
    char *dir; /* of the image's store */
    StasisStore *store;
    StasisImageInfo *image;
    StasisLifeline *guard; /* sweeps the VM if we die; or NULL */
    gboolean disks_lent;   /* the VM's, to us */
    StasisVmDisks *disks;  /* on top of those; or NULL */
    char *uri, *user;      /* of a libvirt domain */
    pid_t vm_pid;
    char *name;
    StasisSource *source;
    StasisStarted *started;
    StasisAgent *agent; /* once it runs */
};

/* If somebody else holds the VM for so long, what he does next sweeps it. */
static void give_disks_back(StasisFork *fork)
{
    if (fork->disks_lent)
        stasis_vm_release_disks(fork->image->vm, RELEASE_WAIT_MS, NULL);
    if (fork->guard != NULL)
        stasis_lifeline_disarm(fork->guard);
    g_clear_pointer(&fork->guard, stasis_lifeline_free);
}

void stasis_fork_free(StasisFork *fork)
{
    if (fork == NULL)
        return;
    g_clear_pointer(&fork->agent, stasis_agent_free);
    g_clear_pointer(&fork->started, stasis_started_free);
    give_disks_back(fork);
    g_clear_pointer(&fork->source, stasis_source_free);
    g_clear_pointer(&fork->image, stasis_image_info_free);
    g_clear_pointer(&fork->store, stasis_store_unref);
    g_clear_pointer(&fork->disks, stasis_vm_disks_free);
    g_clear_pointer(&fork->nursery, stasis_nursery_free); /* removes the directory */
    g_free(fork->name);
    g_free(fork->uri);
    g_free(fork->user);
    g_free(fork->dir);
    g_free(fork);
}

static gboolean make_dir(StasisFork *fork, const char *scratch, GError **error)
{
    g_autofree char *parent =
        scratch != NULL ? g_canonicalize_filename(scratch, NULL) : stasis_runtime_dir(error);
    if (parent == NULL)
        return FALSE;
    stasis_forks_sweep(scratch != NULL ? parent : NULL);
    fork->dir = stasis_fork_dir_new(parent, error);
    if (fork->dir == NULL || !stasis_nursery_add_dir(fork->nursery, fork->dir, error))
        return FALSE;
    fork->store = stasis_store_open(fork->dir, STASIS_STORE_CREATE, error);
    return fork->store != NULL;
}

/* From now on they are read by others than the series, which gives the VM back. Who finds them in
 * QEMU knows that we are not dead. */
static gboolean lend_disks(StasisFork *fork, StasisSeries *series, GError **error)
{
    fork->disks =
        stasis_fork_disks_new(stasis_disk_copy_get_held(series->held_disks), fork->dir, error);
    if (fork->disks == NULL)
        return FALSE;
    g_auto(GStrv) sweeper = stasis_vm_sweep_argv(series->session->record->name);
    if (sweeper != NULL) {
        fork->guard = stasis_lifeline_new_program((const char *const *)sweeper, error);
        if (fork->guard == NULL)
            return FALSE;
        stasis_lifeline_arm(fork->guard);
    }
    fork->disks_lent = TRUE;
    if (!stasis_session_lend_disks(series->session, error))
        return FALSE;
    g_clear_pointer(&series->held_disks, stasis_disk_copy_leave);
    return TRUE;
}

/* What is needed of the VM's record, and its disks. */
static gboolean settle_with_vm(StasisFork *fork, StasisSeries *series, GError **error)
{
    const StasisRecord *record = series->session->record;
    fork->vm_pid = record->pid;
    fork->uri = g_strdup(record->uri);
    if (record->uri != NULL)
        fork->user = stasis_fork_find_user(record->pid);
    return series->held_disks == NULL || lend_disks(fork, series, error);
}

/* Full, since the store is new; the VM's own chain of images goes on as if it had not been. */
static gboolean take_image(StasisFork *fork, StasisVm *vm, const StasisForkOptions *options,
                           GCancellable *cancellable, GError **error)
{
    StasisCheckpointOptions checkpoint = STASIS_CHECKPOINT_OPTIONS_INIT;
    checkpoint.progress = options->progress;
    checkpoint.progress_data = options->progress_data;
    g_autoptr(StasisSeries) series =
        stasis_series_new(vm, fork->store, &checkpoint, cancellable, error);
    if (series != NULL) {
        series->aside = series->hold_disks = TRUE;
        fork->image = stasis_series_take(series, cancellable, error);
    }
    if (fork->image == NULL) {
        g_prefix_error(error, "fork: image of the VM in %s: ", fork->dir);
        return FALSE;
    }
    if (options->taken != NULL)
        options->taken(options->taken_data);
    fork->source = stasis_source_open(fork->store, fork->image->id, error);
    return fork->source != NULL && settle_with_vm(fork, series, error);
}

static gboolean start(StasisFork *fork, GCancellable *cancellable, GError **error)
{
    fork->name = g_strdup_printf("%.40s.fork-%08x", fork->image->vm, g_random_int());
    if (stasis_fork_is_domain(fork->source) &&
        !stasis_fork_describe_domain(fork->source, fork->uri, fork->name, error)) {
        g_prefix_error(error, "fork: ");
        return FALSE;
    }
    g_autoptr(GArray) ram = stasis_source_own_ram(fork->source);
    StasisLaunchClone clone = { .keep_identity = TRUE,
                                .user = fork->user,
                                .ram = (const StasisCloneRam *)(void *)ram->data,
                                .n_ram = ram->len };
    StasisRevival revival = { .name = fork->name,
                              .kind = "forked",
                              .paused = TRUE,
                              .no_shim = TRUE,
                              .agent = TRUE,
                              .beside = fork->vm_pid,
                              .disks = fork->disks != NULL ? fork->disks->disks : NULL,
                              .niceness = NICENESS,
                              .throw_away = TRUE,
                              .clone = &clone,
                              .nursery = fork->nursery };
    fork->started = stasis_revive(fork->source, &revival, cancellable, error);
    if (fork->started == NULL) {
        g_prefix_error(error, "fork: ");
        return FALSE;
    }
    return stasis_fault(STASIS_FAULT_PROC_FORKED, error);
}

StasisFork *stasis_fork_new(StasisVm *vm, const StasisForkOptions *options,
                            GCancellable *cancellable, GError **error)
{
    g_autoptr(StasisFork) fork = g_new0(StasisFork, 1);
    fork->nursery = stasis_nursery_new(error);
    if (fork->nursery == NULL || !make_dir(fork, options->scratch, error) ||
        !take_image(fork, vm, options, cancellable, error) ||
        !stasis_fault(STASIS_FAULT_PROC_IMAGED, error) || !start(fork, cancellable, error))
        return NULL;
    return g_steal_pointer(&fork);
}

const StasisImageInfo *stasis_fork_get_image(StasisFork *fork)
{
    return fork->image;
}

StasisAgent *stasis_fork_get_agent(StasisFork *fork)
{
    return fork->agent;
}

StasisGuestMemory *stasis_fork_open_memory(StasisFork *fork, GError **error)
{
    return stasis_guest_memory_new(fork->started->qmp, fork->started->record->pid, error);
}

GBytes *stasis_fork_run(StasisFork *fork, StasisAgentOp op, const StasisFieldWriter *fields,
                        const StasisAgentWait *wait, GError **error)
{
    const StasisRecord *record = fork->started->record;
    guint64 id;
    g_autoptr(StasisAgentChannel) channel =
        stasis_agent_channel_find(fork->started->qmp, record->pid, error);
    if (channel == NULL)
        return NULL;
    fork->agent = stasis_agent_connect(record->name, channel->path, wait, error);
    if (fork->agent == NULL || !stasis_agent_begin(fork->agent, op, fields, &id, wait, error))
        return NULL;
    g_autoptr(JsonNode) running =
        stasis_qmp_execute(fork->started->qmp, "cont", NULL, -1, 0, error);
    if (running == NULL)
        return NULL;
    g_autoptr(GBytes) answer =
        stasis_agent_finish(fork->agent, id, NULL, NULL, 2 * STASIS_AGENT_MAX_PAYLOAD, wait, error);
    /* Only now, since it takes its time; what comes of it is the fork's own affair. */
    if (answer != NULL)
        stasis_awaken_now(fork->agent, record->name, wait, NULL);
    return g_steal_pointer(&answer);
}

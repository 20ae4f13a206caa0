/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The image goes into a store of its own, which nobody else knows, in a directory that is removed
 * with the fork. The nursery ends the one and removes the other if we are killed; the fork is never
 * complete in its sense.
 */
#include "engine/fork.h"

#include <errno.h>
#include <stasis/checkpoint.h>
#include <stasis/error.h>
#include <stdlib.h>

#include "base/fault.h"
#include "base/io.h"
#include "engine/agent-vm.h"
#include "engine/awaken.h"
#include "engine/domain-revive.h"
#include "engine/revive.h"
#include "vmm/agent-channel.h"

struct _StasisFork {
    StasisNursery *nursery;
    char *dir; /* of the image's store */
    StasisStore *store;
    StasisImageInfo *image;
    StasisSource *source;
    StasisStarted *started;
    StasisAgent *agent; /* once it runs */
};

void stasis_fork_free(StasisFork *fork)
{
    if (fork == NULL)
        return;
    g_clear_pointer(&fork->agent, stasis_agent_free);
    g_clear_pointer(&fork->started, stasis_started_free);
    g_clear_pointer(&fork->source, stasis_source_free);
    g_clear_pointer(&fork->image, stasis_image_info_free);
    g_clear_pointer(&fork->store, stasis_store_unref);
    g_clear_pointer(&fork->nursery, stasis_nursery_free); /* removes the directory */
    g_free(fork->dir);
    g_free(fork);
}

static gboolean make_dir(StasisFork *fork, const char *scratch, GError **error)
{
    g_autofree char *parent =
        scratch != NULL ? g_canonicalize_filename(scratch, NULL) : stasis_runtime_dir(error);
    if (parent == NULL)
        return FALSE;
    fork->dir = g_build_filename(parent, ".fork-XXXXXX", NULL);
    if (g_mkdtemp(fork->dir) == NULL)
        return stasis_set_errno(error, errno, "fork: make a directory in %s", parent);
    if (!stasis_nursery_add_dir(fork->nursery, fork->dir, error))
        return FALSE;
    fork->store = stasis_store_open(fork->dir, STASIS_STORE_CREATE, error);
    return fork->store != NULL;
}

/* Full, since the store is new. */
static gboolean take_image(StasisFork *fork, StasisVm *vm, const StasisForkOptions *options,
                           GCancellable *cancellable, GError **error)
{
    StasisCheckpointOptions checkpoint = STASIS_CHECKPOINT_OPTIONS_INIT;
    checkpoint.progress = options->progress;
    checkpoint.progress_data = options->progress_data;
    fork->image = stasis_checkpoint_create(vm, fork->store, &checkpoint, cancellable, error);
    if (fork->image == NULL) {
        g_prefix_error(error, "fork: image of the VM in %s: ", fork->dir);
        return FALSE;
    }
    fork->source = stasis_source_open(fork->store, fork->image->id, error);
    return fork->source != NULL && stasis_source_check_bare(fork->source, error) &&
           stasis_fault(STASIS_FAULT_PROC_IMAGED, error);
}

static gboolean start(StasisFork *fork, GCancellable *cancellable, GError **error)
{
    g_autoptr(GArray) ram = stasis_source_own_ram(fork->source);
    g_autofree char *name = g_strdup_printf("%.40s.fork-%08x", fork->image->vm, g_random_int());
    StasisLaunchClone clone = { .keep_identity = TRUE,
                                .ram = (const StasisCloneRam *)(void *)ram->data,
                                .n_ram = ram->len };
    StasisRevival revival = { .name = name,
                              .kind = "forked",
                              .paused = TRUE,
                              .no_shim = TRUE,
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
        !take_image(fork, vm, options, cancellable, error) || !start(fork, cancellable, error))
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

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/ci/ci-copy.h"

#include <errno.h>
#include <stasis/error.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/io.h"
#include "engine/guest/agent-copy.h"
#include "engine/guest/agent-vm.h"

#define CONNECT_MS 20000
/* A guest that answers each time just in time does not keep us for ever. */
#define COPY_OUT_US (G_GUINT64_CONSTANT(600) * 1000000)

gboolean stasis_ci_copy_check(const StasisCiOptions *options, GError **error)
{
    const char *what = NULL;
    if (options->deterministic && options->n_copy_in + options->n_copy_out > 0)
        what = "what is recorded is the guest alone: no files are copied into it or out of it";
    for (guint i = 0; i < options->n_copy_in; i++) {
        if (options->copy_in[i].dir[0] != '/')
            what = "files are copied into an absolute directory of the guest";
        else if (access(options->copy_in[i].path, R_OK) < 0)
            return stasis_set_errno(error, errno, "copy %s", options->copy_in[i].path);
    }
    for (guint i = 0; i < options->n_copy_out; i++) {
        if (options->copy_out[i].path[0] != '/')
            what = "files are fetched by absolute paths of the guest";
        else if (access(options->copy_out[i].dir, W_OK | X_OK) < 0)
            return stasis_set_errno(error, errno, "copy to %s", options->copy_out[i].dir);
    }
    if (what == NULL)
        return TRUE;
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE, what);
    return FALSE;
}

static StasisAgentCopyOptions copy_options(const StasisCiOptions *options)
{
    StasisAgentCopyOptions how = STASIS_AGENT_COPY_OPTIONS_INIT;
    how.max_bytes = options->max_copy_bytes;
    how.progress = options->progress;
    how.progress_data = options->progress_data;
    return how;
}

static StasisAgent *connect_to(const char *name, const char *channel, GCancellable *cancellable,
                               GError **error)
{
    StasisAgentWait wait = stasis_agent_wait_until(CONNECT_MS, cancellable);
    return stasis_agent_connect(name, channel, &wait, error);
}

gboolean stasis_ci_copy_in(const StasisCiOptions *options, const char *name, const char *channel,
                           GCancellable *cancellable, GError **error)
{
    StasisAgentCopyOptions how = copy_options(options);
    if (options->n_copy_in == 0)
        return TRUE;
    g_autoptr(StasisAgent) agent = connect_to(name, channel, cancellable, error);
    StasisAgentCopy copy = {
        .agent = agent, .options = &how, .phase = "copy in", .cancellable = cancellable
    };
    for (guint i = 0; agent != NULL && i < options->n_copy_in; i++)
        if (!stasis_agent_copy_in(&copy, options->copy_in[i].path, options->copy_in[i].dir, error))
            return FALSE;
    return agent != NULL;
}

gboolean stasis_ci_copy_out(const StasisCiOptions *options, const char *name, const char *channel,
                            StasisAgentCopied *ret, GCancellable *cancellable, GError **error)
{
    StasisAgentCopyOptions how = copy_options(options);
    if (options->n_copy_out == 0)
        return TRUE;
    g_autoptr(StasisAgent) agent = connect_to(name, channel, cancellable, error);
    if (agent == NULL)
        return FALSE;
    StasisAgentCopy copy = { .agent = agent,
                             .options = &how,
                             .phase = "copy out",
                             .cancellable = cancellable,
                             .deadline_us = stasis_now_us() + COPY_OUT_US };
    g_autoptr(GError) first = NULL;
    for (guint i = 0; i < options->n_copy_out && stasis_agent_is_usable(agent); i++)
        stasis_agent_copy_out(&copy, options->copy_out[i].path, options->copy_out[i].dir,
                              first == NULL ? &first : NULL);
    *ret = copy.copied;
    if (first == NULL)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&first));
    return FALSE;
}

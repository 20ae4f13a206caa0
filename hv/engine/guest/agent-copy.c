/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/guest/agent-copy.h"

#include <string.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/options.h"
#include "engine/guest/agent-vm.h"

#define ANSWER_MS 60000
#define TELL_US 50000

StasisAgentWait stasis_agent_copy_wait(const StasisAgentCopy *copy)
{
    StasisAgentWait wait = stasis_agent_wait_until(ANSWER_MS, copy->cancellable);
    if (copy->deadline_us != 0)
        wait.deadline_us = MIN(wait.deadline_us, copy->deadline_us);
    return wait;
}

gboolean stasis_agent_copy_count(StasisAgentCopy *copy, guint64 n, GError **error)
{
    const StasisAgentCopyOptions *options = copy->options;
    guint64 now = stasis_now_us();
    copy->copied.size_bytes += n;
    if (g_cancellable_is_cancelled(copy->cancellable))
        return stasis_set_cancelled(error);
    if (options->progress != NULL && now - copy->told_us >= TELL_US) {
        const char *phase = copy->phase != NULL ? copy->phase : "copy";
        StasisProgress progress = { phase, copy->copied.size_bytes, 0 };
        options->progress(&progress, options->progress_data);
        copy->told_us = now;
    }
    return TRUE;
}

/* ---- by a VM's name ---- */

static gboolean copy_vm(StasisVm *vm,
                        gboolean (*run)(StasisAgentCopy *, const char *, const char *, GError **),
                        const char *path, const char *dir, const StasisAgentCopyOptions *options,
                        StasisAgentCopied *ret, GCancellable *cancellable, GError **error)
{
    StasisAgentCopyOptions own = STASIS_AGENT_COPY_OPTIONS_INIT;
    stasis_own_options(&own, options, sizeof own);
    StasisAgentWait wait = stasis_agent_wait_until(0, cancellable);
    g_autoptr(StasisAgent) agent = stasis_agent_open_vm(stasis_vm_get_name(vm), &wait, error);
    StasisAgentCopy copy = { .agent = agent, .options = &own, .cancellable = cancellable };
    if (agent == NULL || !run(&copy, path, dir, error)) {
        g_prefix_error(error, "VM %s: ", stasis_vm_get_name(vm));
        return FALSE;
    }
    if (ret != NULL)
        *ret = copy.copied;
    return TRUE;
}

gboolean stasis_vm_agent_copy_in(StasisVm *vm, const char *path, const char *dir,
                                 const StasisAgentCopyOptions *options, StasisAgentCopied *ret,
                                 GCancellable *cancellable, GError **error)
{
    return copy_vm(vm, stasis_agent_copy_in, path, dir, options, ret, cancellable, error);
}

gboolean stasis_vm_agent_copy_out(StasisVm *vm, const char *path, const char *dir,
                                  const StasisAgentCopyOptions *options, StasisAgentCopied *ret,
                                  GCancellable *cancellable, GError **error)
{
    return copy_vm(vm, stasis_agent_copy_out, path, dir, options, ret, cancellable, error);
}

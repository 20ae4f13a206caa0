/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One run under a debugger, from an image of a ring, or of what was recorded. */
#include <stasis/error.h>
#include <stasis/replay.h>
#include <string.h>

#include "base/io.h"
#include "base/options.h"
#include "engine/ci/ci-record.h"
#include "engine/ci/gdbstub.h"
#include "engine/ci/recorded.h"
#include "engine/ci/replay-run.h"
#include "engine/ci/replay-tally.h"

#define LOOK_US 10000

static gboolean listen_for(StasisReplayVm *vm, const char *gdb, GError **error)
{
    g_autofree char *command = stasis_gdbstub_command(gdb, error);
    return command != NULL && stasis_gdbstub_open(stasis_replay_vm_get_qmp(vm), command, error);
}

/* Of @images, the machine's beginning first; the newest unless @from says another. */
static const char *pick(const GPtrArray *images, const char *from, GError **error)
{
    guint64 number = images->len;
    if (from == NULL || strcmp(from, "latest") == 0 ||
        g_ascii_string_to_unsigned(from, 10, 1, images->len, &number, NULL))
        return g_ptr_array_index(images, number - 1);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                "\"%.80s\": images of what was recorded are 1, its beginning, to %u", from,
                images->len);
    return NULL;
}

/* It is run once before, for images to go back to: without, QEMU would replay all of it for each
 * step back. */
static gboolean debug_recorded(const StasisReplaySource *source, const StasisReplayOptions *options,
                               const char *gdb, void (*ready)(StasisVm *vm, gpointer user_data),
                               gpointer user_data, StasisOutcome *ret, GCancellable *cancellable,
                               GError **error)
{
    g_autofree char *line = stasis_gdbstub_command(gdb, error);
    g_autoptr(GPtrArray) images = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(images, g_strdup(STASIS_RECORDED_BEGINNING));
    if (line == NULL || !stasis_ci_record_replay(source, images, ret, cancellable, error))
        return FALSE;
    if (options->ran != NULL)
        options->ran(0, ret, options->ran_data);
    if (ret->kind == STASIS_OUTCOME_LOST) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED, ret->detail);
        return FALSE;
    }
    StasisCiRecordDebug debug = { pick(images, options->from, error), line, ready, user_data };
    return debug.from != NULL && stasis_ci_record_debug(source, &debug, ret, cancellable, error);
}

static gboolean debug_image(const StasisReplaySource *source, const StasisReplayOptions *options,
                            guint index, const char *gdb,
                            void (*ready)(StasisVm *vm, gpointer user_data), gpointer user_data,
                            StasisOutcome *ret, GCancellable *cancellable, GError **error)
{
    g_autoptr(StasisReplayVm) vm =
        stasis_replay_vm_new(source, index, /* perturb= */ 0, cancellable, error);
    if (vm == NULL || !listen_for(vm, gdb, error) ||
        !stasis_replay_vm_follow(vm, options->timeout_us, error))
        return FALSE;
    ready(stasis_replay_vm_get(vm), user_data);
    while (!stasis_replay_vm_look(vm, ret)) {
        if (g_cancellable_is_cancelled(cancellable))
            return stasis_set_cancelled(error);
        g_usleep(LOOK_US);
    }
    return TRUE;
}

StasisReplay *stasis_replay_debug(const char *path, const StasisReplayOptions *given,
                                  const char *gdb, void (*ready)(StasisVm *vm, gpointer user_data),
                                  gpointer user_data, GCancellable *cancellable, GError **error)
{
    StasisReplayOptions own = STASIS_REPLAY_OPTIONS_INIT;
    const StasisReplayOptions *options = stasis_own_options(&own, given, sizeof own);
    guint index = 0;
    StasisOutcome outcome;
    g_autoptr(StasisReplaySource) source =
        stasis_replay_source_open(path, options->scratch, cancellable, error);
    if (source == NULL || (source->bundle == NULL &&
                           !stasis_replay_source_find(source, options->from, &index, error)))
        return NULL;
    g_autoptr(StasisReplay) replay = stasis_replay_new(source);
    StasisReplayRuns *runs = stasis_replay_add_image(replay, source, index);
    gboolean ok = source->bundle != NULL ? debug_recorded(source, options, gdb, ready, user_data,
                                                          &outcome, cancellable, error)
                                         : debug_image(source, options, index, gdb, ready,
                                                       user_data, &outcome, cancellable, error);
    if (!ok)
        return NULL;
    stasis_replay_count(replay, runs, &outcome);
    return g_steal_pointer(&replay);
}

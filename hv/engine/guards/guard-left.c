/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A VM that has failed, and that its guard leaves as it is. A policy's guard is begun anew and
 * finds it so: that is the same failure, of which there is a bundle, or at which it has given up.
 * Which QEMU that is (PID and start time), and of which kind the failure was, is in a file of the
 * VM's directory in memory, which goes with the VM as the failure does.
 */
#include <fcntl.h>
#include <stasis/error.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"
#include "engine/guards/guard-internal.h"

#define LEFT_FILE "left"
#define MAX_BYTES 128u

static int open_dir(const StasisGuard *guard)
{
    return open(guard->memory->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* Not the detail: of one hang each look may name another CPU. */
static char *text_of(const StasisRecord *record, const StasisFailure *failure)
{
    return g_strdup_printf("%d %" G_GUINT64_FORMAT " %s\n", (int)record->pid, record->start_time,
                           failure->kind);
}

void stasis_guard_left_note(StasisGuard *guard, const StasisRecord *record,
                            const StasisFailure *failure)
{
    stasis_autofd int dir_fd = guard->options->by_policy ? open_dir(guard) : -1;
    g_autofree char *text = text_of(record, failure);
    if (dir_fd >= 0)
        stasis_write_file_at(dir_fd, LEFT_FILE, text, strlen(text), /* durable= */ FALSE, NULL);
}

void stasis_guard_left_forget(StasisGuard *guard)
{
    stasis_autofd int dir_fd = guard->options->by_policy ? open_dir(guard) : -1;
    if (dir_fd >= 0)
        unlinkat(dir_fd, LEFT_FILE, 0);
}

gboolean stasis_guard_left_check(const StasisGuard *guard, const StasisFailure *failure,
                                 GError **error)
{
    if (!guard->options->by_policy || failure->since_us > guard->armed_us)
        return TRUE;
    gsize len = 0;
    stasis_autofd int dir_fd = open_dir(guard);
    StasisSession *session = stasis_ring_get_session(guard->ring);
    g_autofree char *left =
        dir_fd >= 0 ? stasis_read_file_at(dir_fd, LEFT_FILE, MAX_BYTES, &len, NULL) : NULL;
    g_autofree char *now = text_of(session->record, failure);
    if (g_strcmp0(left, now) != 0)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "VM %s is still as the guard left it after a failure (%s%s%s), and is not guarded: "
                "take it back, reset it or start it anew",
                guard->name, failure->kind, failure->detail != NULL ? ": " : "",
                failure->detail != NULL ? failure->detail : "");
    return FALSE;
}

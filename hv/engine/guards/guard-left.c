/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A VM that has failed, and that its guard leaves as it is. A policy's guard is begun anew and
 * finds it so: that is the same failure, of which there is a bundle, or at which it has given up.
 * Which QEMU that is (PID and start time), and of which kinds its failures were (one that hangs may
 * also be one whose agent is lost), is in a file of the VM's directory in memory, which goes with
 * the VM as the failure does.
 */
#include <fcntl.h>
#include <stasis/error.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"
#include "engine/guards/guard-internal.h"

#define LEFT_FILE "left"
#define MAX_BYTES 512u

static int open_dir(const StasisGuard *guard)
{
    return open(guard->memory->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* What is in the file begins so if it is of this QEMU. */
static char *prefix_of(const StasisRecord *record)
{
    return g_strdup_printf("%d %" G_GUINT64_FORMAT, (int)record->pid, record->start_time);
}

/* A word for each kind of failure that was left of this QEMU. Not the detail: of one hang each look
 * may name another CPU. */
static char **read_kinds(int dir_fd, const StasisRecord *record)
{
    gsize len = 0;
    g_autofree char *text = stasis_read_file_at(dir_fd, LEFT_FILE, MAX_BYTES, &len, NULL);
    g_autofree char *prefix = prefix_of(record);
    gsize n = strlen(prefix);
    if (text == NULL || strncmp(text, prefix, n) != 0 || text[n] != ' ')
        return g_new0(char *, 1);
    return g_strsplit(g_strstrip(text + n), " ", -1);
}

void stasis_guard_left_note(StasisGuard *guard, const StasisRecord *record,
                            const StasisFailure *failure)
{
    stasis_autofd int dir_fd = guard->options->by_policy ? open_dir(guard) : -1;
    if (dir_fd < 0)
        return;
    g_auto(GStrv) kinds = read_kinds(dir_fd, record);
    if (g_strv_contains((const char *const *)kinds, failure->kind))
        return;
    g_autofree char *prefix = prefix_of(record), *others = g_strjoinv(" ", kinds);
    g_autofree char *text =
        g_strdup_printf("%s %s%s%s\n", prefix, others, *others != '\0' ? " " : "", failure->kind);
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
    stasis_autofd int dir_fd = open_dir(guard);
    const StasisRecord *record = stasis_ring_get_session(guard->ring)->record;
    g_auto(GStrv) kinds = dir_fd >= 0 ? read_kinds(dir_fd, record) : NULL;
    if (kinds == NULL || !g_strv_contains((const char *const *)kinds, failure->kind))
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "VM %s is still as the guard left it after a failure (%s%s%s), and is not guarded: "
                "take it back, reset it or start it anew",
                guard->name, failure->kind, failure->detail != NULL ? ": " : "",
                failure->detail != NULL ? failure->detail : "");
    return FALSE;
}

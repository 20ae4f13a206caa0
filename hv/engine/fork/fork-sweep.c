/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A nursery clears away after a maker that is killed. When both are killed at once, with their
 * control group, say, this does: records of forks say who made them, and names of directories do,
 *
 *     .fork-PID.STARTTIME-XXXXXX
 */
#include "engine/fork/fork-sweep.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/io.h"
#include "base/tree.h"
#include "store/scratch.h"
#include "vmm/registry.h"

#define PREFIX ".fork-"

char *stasis_fork_dir_new(const char *parent, GError **error)
{
    g_autofree char *name = g_strdup_printf(PREFIX "%d.%" G_GUINT64_FORMAT "-XXXXXX", (int)getpid(),
                                            stasis_process_start_time(getpid()));
    g_autofree char *dir = g_build_filename(parent, name, NULL);
    if (g_mkdtemp(dir) != NULL)
        return g_steal_pointer(&dir);
    stasis_set_errno(error, errno, "fork: make a directory in %s", parent);
    return NULL;
}

static void sweep_record(const char *name)
{
    g_autoptr(StasisRecord) record = stasis_record_load(name, NULL);
    if (record == NULL || !stasis_record_is_orphan(record))
        return;
    if (stasis_record_is_alive(record))
        kill(record->pid, SIGKILL);
    stasis_record_remove(name, NULL);
}

static void sweep_dir(const char *parent, const char *name)
{
    int pid;
    guint64 start_time;
    if (sscanf(name, PREFIX "%d.%" G_GUINT64_FORMAT "-", &pid, &start_time) != 2 || pid <= 0 ||
        stasis_process_start_time(pid) == start_time)
        return;
    g_autofree char *path = g_build_filename(parent, name, NULL);
    stasis_remove_tree(path);
}

/* VMs first: they may have files in the directories open. */
static void sweep_in(const char *parent, gboolean records)
{
    g_autoptr(GDir) dir = parent != NULL ? g_dir_open(parent, 0, NULL) : NULL;
    g_autoptr(GPtrArray) dirs = g_ptr_array_new_with_free_func(g_free);
    const char *name;
    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        if (g_str_has_prefix(name, PREFIX))
            g_ptr_array_add(dirs, g_strdup(name));
        else if (records && strstr(name, PREFIX) != NULL)
            sweep_record(name);
    }
    for (guint i = 0; i < dirs->len; i++)
        sweep_dir(parent, g_ptr_array_index(dirs, i));
}

void stasis_forks_sweep(const char *scratch)
{
    g_autofree char *runtime_dir = stasis_runtime_dir(NULL);
    sweep_in(runtime_dir, TRUE);
    g_auto(GStrv) memory = stasis_scratch_find(STASIS_FORKS_DIR);
    for (guint i = 0; memory[i] != NULL; i++)
        sweep_in(memory[i], FALSE);
    if (scratch != NULL)
        sweep_in(scratch, FALSE);
}

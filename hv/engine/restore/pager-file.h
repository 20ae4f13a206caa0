/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The files by which a pager and everyone else know of each other, in the VM's directory:
 * pager.json (what is to be done; there until it is done), pager.lock (held by the supervisor),
 * pager.progress (bytes done). */
#pragma once

#include "engine/restore/pager.h"

G_BEGIN_DECLS

typedef struct {
    pid_t pid;
    guint64 start_time;
    char *store_path, *image;
    GArray *blocks; /* of StasisPagerBlock */
    gboolean with_memory;
} StasisPagerTask;

void stasis_pager_task_free(StasisPagerTask *task);
StasisPagerTask *stasis_pager_task_load(const char *vm_name, GError **error);
gboolean stasis_pager_task_save(const StasisPagerTask *task, const char *vm_name, GError **error);
gboolean stasis_pager_task_remove(const char *vm_name, GError **error);

/* Hold pager.lock: a descriptor, or -1 when a pager has it. */
int stasis_pager_lock(const char *vm_name);

void stasis_pager_set_progress(const char *vm_name, guint64 done_bytes, guint64 total_bytes);
gboolean stasis_pager_get_progress(const char *vm_name, guint64 *ret_done, guint64 *ret_total);

/* Fill RAM as @task says until it is complete or the VM is gone. */
gboolean stasis_pager_work(const char *vm_name, const StasisPagerTask *task, int ready_fd,
                           GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisPagerTask, stasis_pager_task_free)

G_END_DECLS

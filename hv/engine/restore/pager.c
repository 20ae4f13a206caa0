/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Starting, supervising and waiting for a pager. */
#include "engine/restore/pager.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/io.h"
#include "engine/restore/pager-file.h"
#include "vmm/libexec.h"

#define READY_TIMEOUT_MS 30000
/* A VM that starts later has lost more than it can win. */
#define SWEEP_WAIT_MS 100
#define MAX_RESTARTS 1000
#define WAIT_STEP_US 10000

/* ---- finding and starting the program ---- */

static char *find_program(GError **error)
{
    char *program = stasis_libexec_find("stasis-pager", "STASIS_PAGER");
    if (program == NULL)
        g_set_error_literal(
            error, STASIS_ERROR, STASIS_ERROR_FAILED,
            "stasis-pager is not installed where the library is; restore with --eager");
    return program;
}

/* In the child between fork and exec: its own session, so that nobody's terminal ends it. */
static void detach(gpointer unused)
{
    setsid();
}

static gboolean wait_ready(int fd, GError **error)
{
    char byte;
    struct pollfd ready = { .fd = fd, .events = POLLIN };
    if (poll(&ready, 1, READY_TIMEOUT_MS) > 0 && read(fd, &byte, 1) == 1)
        return TRUE;
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                        "the pager did not start serving; see pager.log in the VM's directory");
    return FALSE;
}

/* *@ret_fd (if wanted): the end of the pipe on which it says more. */
static gboolean spawn(const char *vm_name, int *ret_fd, GError **error)
{
    g_autofree char *program = find_program(error);
    g_autofree char *dir = program != NULL ? stasis_vm_dir(vm_name, error) : NULL;
    if (dir == NULL)
        return FALSE;
    g_autofree char *log_path = g_build_filename(dir, "pager.log", NULL);
    stasis_autofd int log = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    int ends[2];
    if (log < 0 || pipe2(ends, O_CLOEXEC) < 0)
        return stasis_set_errno(error, errno, "start the pager");
    stasis_autofd int ready_fd = ends[0];
    stasis_autofd int child_fd = ends[1];
    char *argv[] = { program, (char *)vm_name, (char *)"3", NULL };
    int target = 3;
    gboolean ok = g_spawn_async_with_pipes_and_fds(
        "/", (const char *const *)argv, NULL, G_SPAWN_STDIN_FROM_DEV_NULL, detach, NULL, -1, log,
        log, &child_fd, &target, 1, NULL, NULL, NULL, NULL, error);
    stasis_clear_fd(&child_fd);
    ok = ok && wait_ready(ready_fd, error);
    if (ok && ret_fd != NULL)
        *ret_fd = stasis_steal_fd(&ready_fd);
    return ok;
}

void stasis_pager_wait_swept(int *swept_fd)
{
    struct pollfd swept = { .fd = *swept_fd, .events = POLLIN };
    if (*swept_fd >= 0)
        poll(&swept, 1, SWEEP_WAIT_MS);
    stasis_clear_fd(swept_fd);
}

gboolean stasis_pager_start(const StasisRecord *record, const char *store_path, const char *image,
                            GArray *blocks, gboolean with_memory, int *ret_swept_fd, GError **error)
{
    g_autofree char *absolute = g_canonicalize_filename(store_path, NULL);
    StasisPagerTask task = { .pid = record->pid,
                             .start_time = record->start_time,
                             .store_path = absolute,
                             .image = (char *)image,
                             .blocks = blocks,
                             .with_memory = with_memory };
    return stasis_pager_task_save(&task, record->name, error) &&
           spawn(record->name, ret_swept_fd, error);
}

static gboolean is_working(const char *vm_name)
{
    stasis_autofd int lock = stasis_pager_lock(vm_name);
    return lock < 0;
}

gboolean stasis_pager_ensure(const StasisRecord *record, GError **error)
{
    return !stasis_pager_is_loading(record->name) || is_working(record->name) ||
           spawn(record->name, NULL, error);
}

gboolean stasis_pager_wait(const StasisRecord *record, StasisProgressFunc progress,
                           gpointer user_data, GCancellable *cancellable, GError **error)
{
    while (stasis_pager_is_loading(record->name)) {
        StasisProgress now = { .phase = "load" };
        if (cancellable != NULL && g_cancellable_is_cancelled(cancellable))
            return stasis_set_cancelled(error);
        /* With QEMU the pager ends, which then has nothing to tell: asked in this order. */
        gboolean working = is_working(record->name);
        if (!stasis_record_is_alive(record)) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND, "VM %s: its QEMU has ended",
                        record->name);
            return FALSE;
        }
        if (!working && stasis_pager_is_loading(record->name)) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                        "VM %s: its RAM is not complete and its pager has ended; see pager.log in "
                        "its directory",
                        record->name);
            return FALSE;
        }
        if (progress != NULL &&
            stasis_pager_get_progress(record->name, &now.done_bytes, &now.total_bytes))
            progress(&now, user_data);
        g_usleep(WAIT_STEP_US);
    }
    return TRUE;
}

/* ---- the process itself ---- */

static int work(const char *vm_name, int ready_fd)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisPagerTask) task = stasis_pager_task_load(vm_name, &error);
    if (task != NULL && stasis_pager_work(vm_name, task, ready_fd, &error))
        return 0;
    g_autofree char *line = g_strdup_printf("stasis-pager %s: %s\n", vm_name, error->message);
    stasis_write_all(STDERR_FILENO, line, strlen(line));
    return 1;
}

/* A worker that fails by itself is not started again: it would fail the same way. The VM's vCPUs
 * wait, and the reason is in the log. One that was killed is. */
int stasis_pager_main(const char *vm_name, int ready_fd)
{
    stasis_autofd int lock = stasis_pager_lock(vm_name);
    if (lock < 0)
        return 0;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    for (int i = 0; i < MAX_RESTARTS; i++) {
        int status = 0;
        pid_t pid = fork();
        if (pid == 0)
            _exit(work(vm_name, ready_fd));
        if (pid < 0)
            return 1;
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
        if (WIFEXITED(status))
            return WEXITSTATUS(status);
    }
    return 1;
}

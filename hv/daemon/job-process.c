/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The process of a job. It is in a session of its own, so that nothing that is sent to the daemon's
 * terminal or group reaches it, and holds nothing of the daemon's but the writing end of a FIFO for
 * its stderr, on which it never waits (the command drops progress that nobody reads; without a
 * daemon a write is EPIPE, which it does not mind).
 */
#include <errno.h>
#include <signal.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <glib-unix.h>
#include <stasis/store.h>

#include "base/fd.h"
#include "base/io.h"
#include "base/json.h"
#include "daemon/job.h"
#include "daemon/peer.h"
#include "vmm/domain.h"
#include "vmm/registry.h"

#define MAX_SAID 4096u
#define MAX_LINE 65536u

typedef struct {
    StasisdJob *job;
    int dir_fd;
    StasisdJobLineFunc line;
    StasisdJobEndFunc end;
    gpointer user_data;
    GString *rest; /* of a line that is not whole yet */
    int fd;        /* to close with it, or -1 */
} Watch;

static void watch_free(gpointer data)
{
    Watch *watch = data;
    stasis_close_fdp(&watch->fd);
    g_string_free(watch->rest, TRUE);
    g_free(watch);
}

/* ---- stderr ---- */

static void take_line(Watch *watch, const char *text)
{
    StasisdJob *job = watch->job;
    g_autoptr(JsonObject) object = *text == '{' ? stasis_json_parse_object(text, -1, NULL) : NULL;
    JsonObject *progress;
    if (object == NULL) {
        g_string_append_printf(job->said, "%s\n", text);
        if (job->said->len > MAX_SAID)
            g_string_erase(job->said, 0, (gssize)(job->said->len - MAX_SAID));
    } else if (stasis_json_object(object, "progress", &progress, NULL)) {
        g_free(job->phase);
        job->phase = g_strdup(stasis_json_string_or(progress, "phase", ""));
        job->done_bytes = stasis_json_uint_or(progress, "done_bytes", 0);
        job->total_bytes = stasis_json_uint_or(progress, "total_bytes", 0);
    } else if (watch->line != NULL) {
        watch->line(job, object, watch->user_data);
    }
}

static void take_lines(Watch *watch)
{
    char *end;
    while ((end = memchr(watch->rest->str, '\n', watch->rest->len)) != NULL) {
        *end = '\0';
        g_autofree char *text = g_utf8_make_valid(watch->rest->str, -1);
        g_string_erase(watch->rest, 0, end + 1 - watch->rest->str);
        take_line(watch, text);
    }
    if (watch->rest->len > MAX_LINE)
        g_string_truncate(watch->rest, 0);
}

/* FALSE at its end. */
static gboolean read_some(Watch *watch, int fd)
{
    char buf[4096];
    gssize n;
    while ((n = read(fd, buf, sizeof(buf))) > 0) {
        g_string_append_len(watch->rest, buf, n);
        take_lines(watch);
    }
    return n < 0 && (errno == EAGAIN || errno == EINTR);
}

static gboolean on_stderr(int fd, GIOCondition condition, gpointer data)
{
    Watch *watch = data;
    if (read_some(watch, fd))
        return G_SOURCE_CONTINUE;
    watch->job->err_source = 0;
    return G_SOURCE_REMOVE;
}

/* ---- its end ---- */

static gboolean on_end(int fd, GIOCondition condition, gpointer data)
{
    Watch *watch = data;
    StasisdJob *job = watch->job;
    int status = -1;
    /* One that was adopted is not our child. */
    if (waitpid(job->pid, &status, WNOHANG) != job->pid)
        status = -1;
    job->pid_source = 0;
    /* Whom it has left behind (a pager, say) may hold its stderr open. */
    g_clear_handle_id(&job->err_source, g_source_remove);
    stasis_clear_fd(&job->pidfd);
    stasisd_job_settle(job, watch->dir_fd, status);
    watch->end(job, watch->user_data);
    return G_SOURCE_REMOVE;
}

static Watch *watch_new(StasisdJob *job, int dir_fd, StasisdJobLineFunc line, StasisdJobEndFunc end,
                        gpointer user_data)
{
    Watch *watch = g_new0(Watch, 1);
    *watch = (Watch){ job, dir_fd, line, end, user_data, g_string_new(NULL), -1 };
    return watch;
}

static void watch_end(StasisdJob *job, int dir_fd, StasisdJobLineFunc line, StasisdJobEndFunc end,
                      gpointer user_data)
{
    /* After what it has said last. */
    job->pid_source = g_unix_fd_add_full(G_PRIORITY_DEFAULT_IDLE, job->pidfd, G_IO_IN, on_end,
                                         watch_new(job, dir_fd, line, end, user_data), watch_free);
}

/* ---- starting ---- */

/* In the child, after fork() and before exec: only what may be done there. */
static void become(gpointer data)
{
    int out = GPOINTER_TO_INT(data);
    char buf[1024];
    setsid();
    stasis_restore_file_limit();
    int in = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    gssize n = in >= 0 ? read(in, buf, sizeof(buf)) : -1;
    if (n <= 0 || pwrite(out, buf, (size_t)n, 0) != n)
        _exit(127);
}

static int create(int dir_fd, guint id, const char *suffix, GError **error)
{
    g_autofree char *name = g_strdup_printf("%u.%s", id, suffix);
    int fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        stasis_set_errno(error, errno, "create jobs/%s", name);
    return fd;
}

/* What it tells, from now on; at its end it is at most what is left in there. */
static int open_told(const StasisdJob *job, int dir_fd)
{
    g_autofree char *name = g_strdup_printf("%u.err", job->id);
    return openat(dir_fd, name, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
}

static gboolean make_told(const StasisdJob *job, int dir_fd, int *ret_read, int *ret_write,
                          GError **error)
{
    g_autofree char *name = g_strdup_printf("%u.err", job->id);
    unlinkat(dir_fd, name, 0);
    stasis_autofd int read_fd = mkfifoat(dir_fd, name, 0600) == 0 ? open_told(job, dir_fd) : -1;
    stasis_autofd int write_fd = read_fd >= 0 ? openat(dir_fd, name, O_WRONLY | O_CLOEXEC) : -1;
    if (write_fd < 0)
        return stasis_set_errno(error, errno, "make jobs/%s", name);
    *ret_read = stasis_steal_fd(&read_fd);
    *ret_write = stasis_steal_fd(&write_fd);
    return TRUE;
}

static void hear(StasisdJob *job, int fd, int dir_fd, StasisdJobLineFunc line,
                 StasisdJobEndFunc end, gpointer user_data)
{
    Watch *watch = watch_new(job, dir_fd, line, end, user_data);
    watch->fd = fd;
    job->err_source = g_unix_fd_add_full(G_PRIORITY_DEFAULT, fd, G_IO_IN | G_IO_HUP, on_stderr,
                                         watch, watch_free);
}

/* Which libvirtd a name is looked for at is said by whoever wants something, and polkit is told:
 * not by our environment, nor, where he is no master, by what stasis knows a name to be of. */
static char **environment_of(const StasisdJob *job)
{
    char **env = g_get_environ();
    env = g_environ_unsetenv(env, "STASIS_CONNECT");
    env = g_environ_unsetenv(env, "LIBVIRT_DEFAULT_URI");
    if (job->connect == NULL && !stasisd_uid_is_master(job->owner))
        env = g_environ_setenv(env, STASIS_NO_DOMAINS_VARIABLE, "1", TRUE);
    return env;
}

static gboolean spawn(StasisdJob *job, const char *program, int out_fd, int pid_fd, int err_fd,
                      GError **error)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_ptr_array_add(argv, (gpointer)program);
    for (char **word = job->argv; *word != NULL; word++)
        g_ptr_array_add(argv, *word);
    g_ptr_array_add(argv, NULL);
    g_auto(GStrv) env = environment_of(job);
    return g_spawn_async_with_pipes_and_fds(
        "/", (const char *const *)argv->pdata, (const char *const *)env, G_SPAWN_DO_NOT_REAP_CHILD,
        become, GINT_TO_POINTER(pid_fd), /* stdin_fd= */ -1, out_fd, err_fd, NULL, NULL, 0,
        &job->pid, NULL, NULL, NULL, error);
}

gboolean stasisd_job_start(StasisdJob *job, const char *program, int dir_fd, const char *boot_id,
                           StasisdJobLineFunc line, StasisdJobEndFunc end, gpointer user_data,
                           GError **error)
{
    stasis_autofd int err_read = -1, err_write = -1;
    stasis_autofd int own_out = create(dir_fd, job->id, "out", error);
    stasis_autofd int pid_fd = own_out >= 0 ? create(dir_fd, job->id, "pid", error) : -1;
    job->started_us = g_get_real_time();
    g_free(job->boot_id);
    job->boot_id = g_strdup(boot_id);
    job->state = STASISD_RUNNING;
    if (pid_fd < 0 || !stasisd_job_save(job, dir_fd, error) ||
        !make_told(job, dir_fd, &err_read, &err_write, error))
        return FALSE;
    if (!spawn(job, program, job->out_fd >= 0 ? job->out_fd : own_out, pid_fd, err_write, error))
        return FALSE;
    stasis_clear_fd(&job->out_fd);
    job->pidfd = (int)syscall(SYS_pidfd_open, job->pid, 0);
    if (job->pidfd < 0) {
        stasis_set_errno(error, errno, "pidfd_open of %d", (int)job->pid);
        /* Nobody would know of it; it has hardly begun, and we wait for it. */
        kill(job->pid, SIGKILL);
        waitpid(job->pid, NULL, 0);
        job->pid = 0;
        return FALSE;
    }
    hear(job, stasis_steal_fd(&err_read), dir_fd, line, end, user_data);
    watch_end(job, dir_fd, line, end, user_data);
    return TRUE;
}

/* ---- one that was there before us ---- */

/* What it wrote of itself: field 1 of the line is its PID, field 22 when it was started. */
static gboolean read_identity(const StasisdJob *job, int dir_fd, pid_t *ret_pid, guint64 *ret_start)
{
    gsize len = 0;
    g_autofree char *name = g_strdup_printf("%u.pid", job->id);
    g_autofree char *text = stasis_read_file_at(dir_fd, name, 4096, &len, NULL);
    char *behind = text != NULL ? strrchr(text, ')') : NULL;
    if (behind == NULL)
        return FALSE;
    g_auto(GStrv) fields = g_strsplit(behind + 2, " ", -1); /* from field 3 on */
    guint64 pid = g_ascii_strtoull(text, NULL, 10);
    if (g_strv_length(fields) < 20 || pid == 0 || pid > G_MAXINT32)
        return FALSE;
    *ret_pid = (pid_t)pid;
    *ret_start = g_ascii_strtoull(fields[19], NULL, 10);
    return TRUE;
}

void stasisd_job_adopt(StasisdJob *job, int dir_fd, const char *boot_id, StasisdJobLineFunc line,
                       StasisdJobEndFunc end, gpointer user_data)
{
    guint64 start = 0;
    pid_t pid = 0;
    if (g_strcmp0(job->boot_id, boot_id) == 0 && read_identity(job, dir_fd, &pid, &start)) {
        job->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        /* Looked at once the descriptor holds whoever has that PID. */
        if (job->pidfd >= 0 && stasis_process_start_time(pid) != start)
            stasis_clear_fd(&job->pidfd);
    }
    if (job->pidfd >= 0) {
        int told_fd = open_told(job, dir_fd);
        job->pid = pid;
        if (told_fd >= 0)
            hear(job, told_fd, dir_fd, line, end, user_data);
        watch_end(job, dir_fd, line, end, user_data);
        return;
    }
    stasisd_job_settle(job, dir_fd, -1);
    end(job, user_data);
}

void stasisd_job_abort(StasisdJob *job)
{
    job->aborting = TRUE;
    if (job->pidfd >= 0)
        syscall(SYS_pidfd_send_signal, job->pidfd, SIGINT, NULL, 0);
}

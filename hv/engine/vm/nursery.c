/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Messages of a fixed size, below what a pipe takes as one, come through a pipe whose other end
 * closes with our death. Until a message has been read a VM can be lost in two ways only: it was
 * announced and is ended, or we had not announced it yet, which is the moment between fork and
 * exec of QEMU, and its start-up then ends it: QEMU waits for a monitor that nobody has.
 */
#include "engine/vm/nursery.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"
#include "base/tree.h"
#include "engine/vm/vm-start.h"
#include "vmm/registry.h"

typedef struct {
    gint32 pid;
    gint32 released;
    guint64 start_time;
    char name[72]; /* of at most 64 characters */
    char dir[512]; /* or "": a directory, and no VM */
} Message;

struct _StasisNursery {
    pid_t pid;
    int fd;
};

static void forget(GArray *young, gint32 pid)
{
    for (guint i = young->len; pid != 0 && i-- > 0;)
        if (g_array_index(young, Message, i).pid == pid)
            g_array_remove_index_fast(young, i);
}

/* The process itself. It was forked from one without threads of ours, so it may use GLib. */
static void G_GNUC_NORETURN watch(int fd)
{
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGPIPE };
    g_autoptr(GArray) young = g_array_new(FALSE, FALSE, sizeof(Message));
    Message message;
    setsid();
    for (gsize i = 0; i < G_N_ELEMENTS(signals); i++)
        signal(signals[i], SIG_IGN);
    /* No descriptor of ours may live on in it, a pipe to our caller least of all. */
    int moved = dup2(fd, 0);
    syscall(SYS_close_range, 1u, ~0u, 0u);
    while (stasis_read_all(moved, &message, sizeof(message)) == 0) {
        forget(young, message.pid);
        if (!message.released)
            g_array_append_val(young, message);
    }
    for (guint i = 0; i < young->len; i++) {
        const Message *vm = &g_array_index(young, Message, i);
        if (vm->dir[0] != '\0')
            continue;
        stasis_process_end(vm->pid, vm->start_time, NULL);
        stasis_record_remove(vm->name, NULL);
    }
    /* What VMs used, once they are gone. */
    for (guint i = 0; i < young->len; i++)
        if (g_array_index(young, Message, i).dir[0] != '\0')
            stasis_remove_tree(g_array_index(young, Message, i).dir);
    _exit(0);
}

StasisNursery *stasis_nursery_new(GError **error)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) {
        stasis_set_errno(error, errno, "nursery: pipe");
        return NULL;
    }
    pid_t pid = fork();
    if (pid == 0)
        watch(ends[0]);
    close(ends[0]);
    if (pid < 0) {
        stasis_set_errno(error, errno, "nursery: fork");
        close(ends[1]);
        return NULL;
    }
    StasisNursery *nursery = g_new0(StasisNursery, 1);
    nursery->pid = pid;
    nursery->fd = ends[1];
    return nursery;
}

static gboolean tell(StasisNursery *nursery, const Message *message, GError **error)
{
    int r = stasis_write_all(nursery->fd, message, sizeof(*message));
    return r == 0 || stasis_set_errno(error, -r, "nursery");
}

gboolean stasis_nursery_add(StasisNursery *nursery, const char *name, pid_t pid, guint64 start_time,
                            GError **error)
{
    Message message = { .pid = pid, .start_time = start_time };
    g_strlcpy(message.name, name, sizeof(message.name));
    return tell(nursery, &message, error);
}

gboolean stasis_nursery_add_dir(StasisNursery *nursery, const char *path, GError **error)
{
    Message message = { 0 };
    if (g_strlcpy(message.dir, path, sizeof(message.dir)) >= sizeof(message.dir))
        return stasis_set_errno(error, ENAMETOOLONG, "%s", path);
    return tell(nursery, &message, error);
}

void stasis_nursery_release(StasisNursery *nursery, pid_t pid)
{
    Message message = { .pid = pid, .released = 1 };
    tell(nursery, &message, NULL);
}

void stasis_nursery_free(StasisNursery *nursery)
{
    if (nursery == NULL)
        return;
    close(nursery->fd);
    while (waitpid(nursery->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    g_free(nursery);
}

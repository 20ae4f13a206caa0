/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * POSIX message queues that processes have open, taken along. CRIU does not know them, but leaves
 * an open file alone that it is told of as external, and takes a descriptor in its place at
 * restore; so what the queues are, and their messages, go into a file beside its own.
 *
 * Messages can be read only by taking them out: that is for a fork of the VM, which is thrown away.
 * All who might wait in a queue are frozen, so nobody gets what is taken, and nobody fills the
 * room.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"
#include "queues.h"
#include "scan/mqueue-fs.h"

#define MAX_PROCESSES 4096u

typedef struct {
    dev_t dev;
    int fd; /* may send and receive, and does not wait */
    StasisMqueue queue;
} Found;

typedef struct {
    Found found[MQUEUE_MAX];
    unsigned n, n_pids;
    int pids[MAX_PROCESSES]; /* that are dumped */
    int file;
    uint64_t room;
    MqueueOptions *options;
    Answer *answer;
} Taking;

static Found *find(Taking *t, const struct stat *st)
{
    for (unsigned i = 0; i < t->n; i++)
        if (t->found[i].dev == st->st_dev && t->found[i].queue.keys[0].inode == st->st_ino)
            return &t->found[i];
    return NULL;
}

/* ---- which ---- */

static bool read_mount(int pid, const char *fd, uint32_t *ret)
{
    char path[64], line[128];
    snprintf(path, sizeof path, "/proc/%d/fdinfo/%.16s", pid, fd);
    FILE *file = fopen(path, "re");
    bool found = false;
    while (file != NULL && !found && fgets(line, sizeof line, file) != NULL)
        found = sscanf(line, "mnt_id: %u", ret) == 1;
    if (file != NULL)
        fclose(file);
    return found;
}

static bool add_key(Taking *t, Found *found, uint32_t mount, uint64_t inode)
{
    StasisMqueue *q = &found->queue;
    for (uint32_t i = 0; i < q->n_keys; i++)
        if (q->keys[i].mount == mount)
            return true;
    if (q->n_keys == STASIS_MQUEUE_MAX_KEYS || t->options->n == MQUEUE_MAX_KEYS) {
        answer_error(t->answer, STASIS_AGENT_FAILED, 0, "queue %s is open by too many mounts",
                     q->name);
        return false;
    }
    q->keys[q->n_keys++] = (StasisMqueueKey){ mount, inode };
    snprintf(t->options->text[t->options->n++], sizeof *t->options->text,
             "--external=file[%x:%llx]", mount, (unsigned long long)inode);
    return true;
}

/* Name, attributes; what it holds is asked for later. */
static bool describe(Found *found, int dir_fd, const char *link, const struct stat *st)
{
    char target[4096];
    struct mq_attr attr;
    StasisMqueue *q = &found->queue;
    ssize_t n = readlinkat(dir_fd, link, target, sizeof target - 1);
    found->fd = n < 0 ? -1 : openat(dir_fd, link, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (found->fd < 0 || mq_getattr(found->fd, &attr) < 0)
        return false;
    target[n] = '\0';
    const char *name = strrchr(target, '/');
    if (st->st_nlink > 0 && name != NULL)
        snprintf(q->name, sizeof q->name, "%s", name);
    q->mode = st->st_mode & 07777;
    q->uid = st->st_uid;
    q->gid = st->st_gid;
    q->max_messages = (uint64_t)attr.mq_maxmsg;
    q->max_size = (uint64_t)attr.mq_msgsize;
    q->n_messages = (uint32_t)attr.mq_curmsgs;
    return true;
}

/* An open descriptor of a process that is dumped. False, answered, when it has gone wrong. */
static bool visit(Taking *t, int pid, int dir_fd, const char *link)
{
    struct stat st;
    uint32_t mount;
    if (!stasis_mqueue_is_one(dir_fd, link, &st))
        return true;
    Found *found = find(t, &st);
    if (found == NULL && t->n == MQUEUE_MAX) {
        answer_error(t->answer, STASIS_AGENT_FAILED, 0,
                     "more than %u POSIX message queues are open", MQUEUE_MAX);
        return false;
    }
    if (found == NULL) {
        found = &t->found[t->n++];
        *found = (Found){ .dev = st.st_dev, .fd = -1 };
        if (!describe(found, dir_fd, link, &st)) {
            answer_error(t->answer, STASIS_AGENT_FAILED, errno,
                         "look at the POSIX message queue that pid %d has open as fd %s", pid,
                         link);
            return false;
        }
    }
    if (read_mount(pid, link, &mount))
        return add_key(t, found, mount, st.st_ino);
    answer_error(t->answer, STASIS_AGENT_FAILED, 0, "pid %d fd %s has no mount", pid, link);
    return false;
}

static bool visit_all(Taking *t, int pid)
{
    char path[64];
    bool ok = true;
    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *dir = opendir(path);
    for (struct dirent *entry; ok && dir != NULL && (entry = readdir(dir)) != NULL;)
        ok = entry->d_name[0] == '.' || visit(t, pid, dirfd(dir), entry->d_name);
    if (dir != NULL)
        closedir(dir);
    return ok;
}

/* ---- who else has them ---- */

static bool is_taken(const Taking *t, int pid)
{
    for (unsigned i = 0; i < t->n_pids; i++)
        if (t->pids[i] == pid)
            return true;
    return false;
}

static void mark_shared_by(Taking *t, int pid)
{
    char path[64];
    struct stat st;
    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        Found *found = stasis_mqueue_is_one(dirfd(dir), entry->d_name, &st) ? find(t, &st) : NULL;
        if (found != NULL)
            found->queue.shared = true;
    }
    if (dir != NULL)
        closedir(dir);
}

/* By the user's own word: to have them in common was cut. */
static void mark_shared(Taking *t)
{
    DIR *proc = opendir("/proc");
    for (struct dirent *entry; proc != NULL && (entry = readdir(proc)) != NULL;) {
        int pid = atoi(entry->d_name);
        if (pid > 0 && pid != getpid() && !is_taken(t, pid))
            mark_shared_by(t, pid);
    }
    if (proc != NULL)
        closedir(proc);
}

/* ---- what is in them ---- */

static bool put(Taking *t, const void *bytes, size_t n)
{
    if (n > t->room) {
        errno = EFBIG;
        return false;
    }
    t->room -= n;
    return write_all(t->file, bytes, n);
}

static bool take_messages(Taking *t, const Found *found)
{
    uint8_t head[STASIS_MQUEUE_MESSAGE_BYTES];
    char *bytes = malloc(found->queue.max_size);
    bool ok = bytes != NULL;
    for (uint32_t i = 0; ok && i < found->queue.n_messages; i++) {
        unsigned priority;
        ssize_t n = mq_receive(found->fd, bytes, found->queue.max_size, &priority);
        if (n >= 0)
            stasis_mqueue_format_message(priority, (uint32_t)n, head);
        ok = n >= 0 && put(t, head, sizeof head) && put(t, bytes, (size_t)n);
    }
    int saved = errno;
    free(bytes);
    errno = saved;
    return ok;
}

static bool take_queue(Taking *t, const Found *found)
{
    uint8_t head[STASIS_MQUEUE_BYTES + STASIS_MQUEUE_MAX_KEYS * STASIS_MQUEUE_KEY_BYTES];
    size_t n = stasis_mqueue_format(&found->queue, head);
    errno = EINVAL;
    if (n > 0 && put(t, head, n) && take_messages(t, found))
        return true;
    answer_error(t->answer, STASIS_AGENT_FAILED, errno, "take the messages of POSIX queue %s",
                 found->queue.name[0] != '\0' ? found->queue.name : "(without a name)");
    return false;
}

static bool write_file(Taking *t, const char *path, bool own_namespace)
{
    uint8_t head[STASIS_MQUEUE_HEAD_BYTES];
    t->file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    stasis_mqueue_format_head(own_namespace, head);
    bool ok = t->file >= 0 && put(t, head, sizeof head);
    if (!ok)
        answer_error(t->answer, STASIS_AGENT_FAILED, errno, "write %s", path);
    for (unsigned i = 0; ok && i < t->n; i++)
        ok = take_queue(t, &t->found[i]);
    if (t->file >= 0)
        close(t->file);
    return ok;
}

/* ---- all of it ---- */

/* As CRIU sees it: whether the root lives in another one than itself. */
static bool has_own_namespace(pid_t root)
{
    char path[64];
    struct stat own, its;
    snprintf(path, sizeof path, "/proc/%d/ns/ipc", (int)root);
    return stat("/proc/self/ns/ipc", &own) == 0 && stat(path, &its) == 0 &&
           own.st_ino != its.st_ino;
}

bool mqueue_take(const DumpTree *tree, const char *path, uint64_t limit, MqueueOptions *ret_options,
                 Answer *answer)
{
    static Taking t;
    char procs_path[1200];
    bool ok = true;
    int pid;
    t = (Taking){ .room = limit, .options = ret_options, .answer = answer };
    ret_options->n = 0;
    snprintf(procs_path, sizeof procs_path, "%s/cgroup.procs", tree->group);
    FILE *procs = fopen(procs_path, "re");
    while (procs != NULL && t.n_pids < MAX_PROCESSES && fscanf(procs, "%d", &pid) == 1)
        t.pids[t.n_pids++] = pid;
    if (procs != NULL)
        fclose(procs);
    for (unsigned i = 0; ok && i < t.n_pids; i++)
        ok = visit_all(&t, t.pids[i]);
    if (ok && t.n > 0) {
        mark_shared(&t);
        ok = write_file(&t, path, has_own_namespace(tree->root));
    }
    for (unsigned i = 0; i < t.n; i++)
        if (t.found[i].fd >= 0)
            close(t.found[i].fd);
    return ok;
}

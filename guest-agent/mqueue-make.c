/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * POSIX message queues made anew for CRIU to hand to the processes that it restores:
 *
 *     criu restore … --inherit-fd 'fd[N]:file[MOUNT:INODE]' --join-ns ipc:/proc/PID/ns/ipc
 *
 * N is a descriptor of a queue; CRIU opens it anew for each open file description, with the flags
 * that that had. Queues have to be in the IPC namespace in which the processes will look for their
 * names. Where they had one of their own, CRIU makes it only after it has taken the descriptors;
 * but it joins one that is named to it first, and then fills that with what it knows (semaphores
 * …). So we make the namespace, and are in it.
 */
#include "queues.h"

#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    void *bytes;
    size_t size;
} Whole;

/* False when it can't be read; without bytes when there is no such file. */
static bool map_file(const char *path, Whole *ret)
{
    struct stat st;
    *ret = (Whole){ 0 };
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT;
    if (fstat(fd, &st) == 0 && st.st_size > 0) {
        ret->size = (size_t)st.st_size;
        ret->bytes = mmap(NULL, ret->size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (ret->bytes == MAP_FAILED)
            ret->bytes = NULL;
    }
    close(fd);
    return ret->bytes != NULL;
}

static void unmap(const Whole *whole)
{
    if (whole->bytes != NULL)
        munmap(whole->bytes, whole->size);
}

static bool fail(MqueueMade *made, const char *name, const char *what)
{
    int saved = errno;
    snprintf(made->error, sizeof made->error, "POSIX message queue %s%s%s%s",
             name[0] != '\0' ? name : "without a name", what, saved != 0 ? ": " : "",
             saved != 0 ? strerror(saved) : "");
    return false;
}

static bool is_broken(MqueueMade *made)
{
    snprintf(made->error, sizeof made->error,
             "the image's POSIX message queues: no file of ours, or a part of one");
    return false;
}

/* What is done with a queue, whose messages @reader has next; false, with the error, to stop. */
typedef bool (*QueueFunction)(const StasisMqueue *queue, StasisMqueueReader *reader, bool replace,
                              MqueueMade *made);

/* @each for every queue in @path, if there is such a file, after @begin (or NULL). */
static bool each_queue(const char *path, bool replace,
                       bool (*begin)(const StasisMqueueReader *, MqueueMade *), QueueFunction each,
                       MqueueMade *ret)
{
    StasisMqueueReader reader;
    StasisMqueue queue;
    Whole whole;
    *ret = (MqueueMade){ .fds = { -1 } };
    if (!map_file(path, &whole))
        return is_broken(ret);
    if (whole.bytes == NULL)
        return true;
    stasis_mqueue_begin(&reader, whole.bytes, whole.size);
    bool good = begin == NULL || begin(&reader, ret);
    for (unsigned n = 0; good && stasis_mqueue_next(&reader, &queue); n++) {
        errno = 0;
        good = n < MQUEUE_MAX ? each(&queue, &reader, replace, ret)
                              : fail(ret, queue.name, " is one too many");
    }
    unmap(&whole);
    return good && (!reader.broken || is_broken(ret));
}

/* ---- looking ---- */

static bool is_there(const char *name)
{
    int fd = name[0] != '\0' ? mq_open(name, O_RDONLY | O_NONBLOCK) : -1;
    if (fd >= 0)
        close(fd);
    errno = 0;
    return fd >= 0;
}

/* A namespace of their own is empty. */
static bool look_at_one(const StasisMqueue *queue, StasisMqueueReader *reader, bool replace,
                        MqueueMade *made)
{
    return replace || reader->own_namespace || queue->shared || !is_there(queue->name) ||
           fail(made, queue->name, " of the image is there already; remove it, or give --replace");
}

bool mqueue_look(const char *path, bool replace, MqueueMade *ret)
{
    return each_queue(path, replace, NULL, look_at_one, ret);
}

/* ---- making ---- */

/* Messages in an order that makes the same queue. */
static bool send_all(int fd, StasisMqueueReader *reader)
{
    const uint8_t *bytes;
    uint32_t priority, length;
    while (stasis_mqueue_next_message(reader, &priority, &bytes, &length))
        if (mq_send(fd, (const char *)bytes, length, priority) < 0)
            return false;
    return true;
}

/* Who has it and is not in the image goes on with it, and so do they. */
static int open_shared(const StasisMqueue *queue, MqueueMade *made)
{
    struct mq_attr attr;
    int fd = mq_open(queue->name, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || (mq_getattr(fd, &attr) == 0 && (uint64_t)attr.mq_maxmsg == queue->max_messages &&
                   (uint64_t)attr.mq_msgsize == queue->max_size))
        return fd;
    close(fd);
    errno = 0;
    fail(made, queue->name, " is there, but has room for other messages; remove it");
    return -1;
}

static int create(const StasisMqueue *queue, StasisMqueueReader *reader, bool replace,
                  MqueueMade *made)
{
    char name[sizeof queue->name];
    struct mq_attr attr = { .mq_maxmsg = (long)queue->max_messages,
                            .mq_msgsize = (long)queue->max_size };
    bool nameless = queue->name[0] == '\0';
    if (nameless)
        snprintf(name, sizeof name, "/stasis-%d", (int)getpid());
    else
        memcpy(name, queue->name, sizeof name);
    if (replace || nameless)
        mq_unlink(name);
    int fd = mq_open(name, O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK | O_CLOEXEC, 0600, &attr);
    if (fd < 0) {
        fail(made, queue->name, " can't be made (with root's limits)");
        return -1;
    }
    if (nameless)
        mq_unlink(name);
    else
        memcpy(made->names[made->n_names++], name, sizeof name);
    if (fchown(fd, queue->uid, queue->gid) == 0 && fchmod(fd, queue->mode) == 0 &&
        send_all(fd, reader))
        return fd;
    fail(made, queue->name, " can't be filled");
    close(fd);
    return -1;
}

/* A descriptor for each key: CRIU closes each that it was given. */
static bool hand_over(int fd, const StasisMqueue *queue, MqueueMade *made)
{
    for (uint32_t i = 0; i < queue->n_keys; i++) {
        int copy = made->n_fds < MQUEUE_MAX_KEYS ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;
        if (copy < 0)
            return fail(made, queue->name, " is open in too many ways");
        made->fds[made->n_fds++] = copy;
        made->fds[made->n_fds] = -1;
        snprintf(made->options.text[made->options.n++], sizeof *made->options.text,
                 "--inherit-fd=fd[%d]:file[%x:%llx]", copy, queue->keys[i].mount,
                 (unsigned long long)queue->keys[i].inode);
    }
    return true;
}

static bool make_one(const StasisMqueue *queue, StasisMqueueReader *reader, bool replace,
                     MqueueMade *made)
{
    int fd = queue->shared && queue->name[0] != '\0' ? open_shared(queue, made) : -1;
    if (fd < 0 && made->error[0] == '\0')
        fd = create(queue, reader, replace, made);
    if (fd < 0)
        return false;
    bool handed = hand_over(fd, queue, made);
    close(fd);
    return handed;
}

/* What a queue takes is counted against a limit of its user's, here root's. */
static void lift_limits(void)
{
    const struct rlimit none = { RLIM_INFINITY, RLIM_INFINITY };
    struct rlimit files;
    setrlimit(RLIMIT_MSGQUEUE, &none);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

static bool enter_namespace(MqueueMade *made)
{
    if (unshare(CLONE_NEWIPC) < 0)
        return fail(made, "", ": no IPC namespace");
    snprintf(made->join, sizeof made->join, "--join-ns=ipc:/proc/%d/ns/ipc", (int)getpid());
    return true;
}

static bool begin_making(const StasisMqueueReader *reader, MqueueMade *made)
{
    lift_limits();
    return !reader->own_namespace || enter_namespace(made);
}

bool mqueue_make(const char *path, bool replace, MqueueMade *ret)
{
    bool good = each_queue(path, replace, begin_making, make_one, ret);
    if (!good)
        mqueue_undo(ret);
    return good;
}

void mqueue_append(const MqueueMade *made, char **argv, unsigned n)
{
    if (made->join[0] != '\0')
        argv[n++] = (char *)made->join;
    for (unsigned i = 0; i < made->options.n; i++)
        argv[n++] = (char *)made->options.text[i];
    argv[n] = NULL;
}

void mqueue_undo(const MqueueMade *made)
{
    for (unsigned i = 0; i < made->n_names; i++)
        mq_unlink(made->names[i]);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A task's resources in two processes, namespaces, and what no checkpoint can take. */
#include "kinds.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <linux/vm_sockets.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void act_clone(Relation *r, int role)
{
    static const struct {
        const char *name;
        int flags;
    } of[] = { { "memory", CLONE_VM },
               { "files", CLONE_FILES },
               { "fs", CLONE_FS },
               { "sighand", CLONE_VM | CLONE_SIGHAND },
               { "sem-undo", CLONE_SYSVSEM } };
    for (size_t i = 0; role == 0 && i < sizeof of / sizeof *of; i++)
        if (strcmp(of[i].name, r->kind->name) == 0)
            make_leaf(r->who[r->n - 1], of[i].flags);
}
static void act_pidns(Relation *r, int role)
{
    if (role == 0)
        make_namespace(r->who[r->n - 2], r->who[r->n - 1]);
}

/* ---- refused ---- */

static void act_ptrace(Relation *r, int role)
{
    if (role == 0)
        CHECK(ptrace(PTRACE_SEIZE, pid_of(r->who[1]), 0, 0));
}
static void act_pidfd(Relation *r, int role)
{
    if (role == 0)
        own_fd((int)CHECK(syscall(SYS_pidfd_open, pid_of(r->who[1]), 0)));
}
static void act_uring(Relation *r, int role)
{
    struct io_uring_params p = { 0 };
    own_fd((int)CHECK(syscall(SYS_io_uring_setup, 4, &p)));
}
static void act_uffd(Relation *r, int role)
{
    own_fd((int)CHECK(syscall(SYS_userfaultfd, 0)));
}
static void act_perf(Relation *r, int role)
{
    struct perf_event_attr a = { .type = PERF_TYPE_SOFTWARE,
                                 .size = sizeof a,
                                 .config = PERF_COUNT_SW_TASK_CLOCK };
    own_fd((int)CHECK(syscall(SYS_perf_event_open, &a, 0, -1, -1, 0)));
}
static void act_device(Relation *r, int role)
{
    own_fd((int)CHECK(open("/dev/kmsg", O_RDONLY | O_NONBLOCK)));
}
static void act_vsock(Relation *r, int role)
{
    own_fd((int)CHECK(socket(AF_VSOCK, SOCK_STREAM, 0)));
}
static void *parted(void *data)
{
    if (unshare(CLONE_FILES) == 0)
        *(volatile int *)data = 1;
    for (;;)
        pause();
    return NULL;
}
static void act_thread(Relation *r, int role)
{
    static volatile int done;
    pthread_t t;
    if (pthread_create(&t, NULL, parted, (void *)&done) != 0)
        die("pthread_create");
    while (!done)
        usleep(500);
}

const Kind task_kinds[] = {
    R("memory", "memory", 1, 1, 0, .n_leaves = 1, .act = { [2] = act_clone }),
    R("files", "files", 1, 1, 0, .n_leaves = 1, .act = { [2] = act_clone }),
    R("fs", "fs", 1, 1, 0, .n_leaves = 1, .act = { [2] = act_clone }),
    R("sighand", "sighand", 1, 1, 0, .n_leaves = 1, .act = { [2] = act_clone }),
    R("sem-undo", "sem-undo", 1, 1, 0, .n_leaves = 1, .act = { [2] = act_clone }),
    R("pid-namespace", "namespace", 1, 1, 0, .n_leaves = 2, .act = { [2] = act_pidns }),
    R("thread", "thread", 1, 1, KIND_OPAQUE, .act = { act_thread }),
    R("device", "device", 1, 1, KIND_OPAQUE, .act = { act_device }),
    R("ptrace", "ptrace", 2, 2, KIND_DIRECTED | KIND_OPAQUE | KIND_TARGET,
      .act = { [1] = act_ptrace }),
    R("pidfd", "pidfd", 2, 2, KIND_DECOY | KIND_OPAQUE | KIND_BORROWS, .act = { [1] = act_pidfd }),
    R("io-uring", "io-uring", 1, 1, KIND_OPAQUE, .act = { act_uring }),
    R("userfaultfd", "userfaultfd", 1, 1, KIND_OPAQUE, .act = { act_uffd }),
    R("perf", "perf", 1, 1, KIND_OPAQUE, .act = { act_perf }),
    R("vsock", "socket-kind", 1, 1, KIND_OPAQUE, .act = { act_vsock }),
    { 0 },
};

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a process of the world does: it drops what is not for it, takes its steps, and stays. */
#include "world.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool kept[256];
static long final_number = SYS_pause;
static void (*final_call)(Relation *r);
static Relation *final_relation;

void keep_fd(Relation *r, int fd, unsigned mask)
{
    r->fd[r->n_fd] = fd;
    r->keep[r->n_fd++] = mask;
}

void own_fd(int fd)
{
    if (fd < 0 || fd >= 256)
        die("own_fd");
    kept[fd] = true;
}

void block_in(long number, void (*call)(Relation *r), Relation *r)
{
    final_number = number;
    final_call = call;
    final_relation = r;
}

void drop_what_is_not_mine(int me)
{
    for (int i = 0; i < world.n_relations; i++) {
        Relation *r = &world.relations[i];
        int role = me < 0 ? -1 : role_of(r, me);
        for (int k = 0; k < r->n_fd; k++)
            if (role >= 0 && (r->keep[k] & 1u << role) != 0)
                kept[r->fd[k]] = true;
        if (r->map != NULL && (role < 0 || (r->map_keep & 1u << role) == 0)) {
            munmap(r->map, r->map_bytes);
            r->map = NULL;
        }
    }
    for (int fd = 3; fd < 256; fd++)
        if (!kept[fd])
            close(fd);
}

static void leaf_drops(void)
{
    syscall(SYS_close_range, 0, ~0u, 0);
    for (int i = 0; i < world.n_relations; i++)
        if (world.relations[i].map != NULL)
            munmap(world.relations[i].map, world.relations[i].map_bytes);
}

typedef struct {
    int index, flags;
} Leaf;

static int leaf_main(void *data)
{
    /* The memory may be the parent's: system calls only. */
    const Leaf leaf = *(Leaf *)data;
    setsid();
    if ((leaf.flags & CLONE_FILES) == 0 && (leaf.flags & CLONE_VM) == 0)
        leaf_drops();
    else if ((leaf.flags & CLONE_FILES) == 0)
        syscall(SYS_close_range, 0, ~0u, 0);
    else
        for (int i = 0; i < world.n_relations; i++)
            if (world.relations[i].map != NULL)
                munmap(world.relations[i].map, world.relations[i].map_bytes);
    touch("final", leaf.index, SYS_pause);
    for (;;)
        pause();
    return 0;
}

void make_leaf(int index, int flags)
{
    static Leaf leaf; /* outlives this call: the memory may be common */
    leaf = (Leaf){ index, flags };
    char *stack = mmap(NULL, 256 << 10, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED || clone(leaf_main, stack + (256 << 10), flags | SIGCHLD, &leaf) < 0)
        die("clone");
    await("final", index, NULL, NULL);
}

void make_namespace(int init_leaf, int other_leaf)
{
    if (unshare(CLONE_NEWPID) < 0)
        die("unshare pid");
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0) {
        setsid();
        leaf_drops();
        bool other = fork() == 0;
        if (other)
            setsid();
        touch("final", other ? other_leaf : init_leaf, SYS_pause);
        for (;;)
            pause();
    }
    await("final", init_leaf, NULL, NULL);
    await("final", other_leaf, NULL, NULL);
}

static void *stay(void *data)
{
    for (;;)
        pause();
    return data;
}

static void live(int me) __attribute__((noreturn));
static void live(int me)
{
    const Actor *a = &world.actors[me];
    if (setns(ipc_fds[a->ipc == 1], CLONE_NEWIPC) < 0 || setns(net_fds[a->net], CLONE_NEWNET) < 0)
        die("setns");
    drop_what_is_not_mine(me);
    for (int step = 0; step < N_STEPS; step++) {
        char name[16];
        for (int i = 0; i < world.n_relations; i++) {
            Relation *r = &world.relations[i];
            int role = role_of(r, me);
            if (role >= 0 && r->kind->act[step] != NULL)
                r->kind->act[step](r, role);
        }
        snprintf(name, sizeof name, "step%d.", step);
        touch(name, me, 0);
        snprintf(name, sizeof name, "go%d.", step);
        await(name, 0, NULL, NULL);
    }
    if (a->leaderless) {
        pthread_t t;
        if (pthread_create(&t, NULL, stay, NULL) != 0)
            die("pthread_create");
        touch("final", me, -1);
        syscall(SYS_exit, 0);
    }
    touch("final", me, final_number);
    if (final_call != NULL)
        final_call(final_relation);
    for (;;)
        pause();
}

void spawn_children(int parent)
{
    for (int i = 0; i < world.n_plain; i++) {
        if (world.actors[i].parent != parent)
            continue;
        pid_t pid = fork();
        if (pid < 0)
            die("fork");
        if (pid > 0)
            continue;
        world.me = i;
        dup2(0, 1); /* /dev/null */
        dup2(0, 2);
        prctl(PR_SET_NAME, "actor");
        if (world.actors[i].leader == i)
            setsid();
        else if (world.actors[i].group == i)
            setpgid(0, 0);
        spawn_children(i);
        live(i);
    }
}

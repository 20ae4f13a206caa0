/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ipc-world BOUNDARY SEED [--only KIND] [--without RELATION]
 *
 * Makes the world of number SEED in namespaces of its own, asks BOUNDARY (the program
 * stasis-boundary) for the closure of each process in it, and compares with the truth. Exit status:
 * 0 all equal; 1 not, and what differs is printed; 2 the world could not be made; 3 this kernel
 * lacks what KIND needs.
 * --only: no relations but of this kind. --without: handed on to BOUNDARY. --kinds: list them.
 *
 * ipc-world --hold SEED [--only KIND]
 *
 * Makes it in the PID namespace of who asks, prints the truth, a line "SET PID VERDICT PID…" for
 * each process and then "READY", and keeps it until it is killed (10 minutes at most).
 */
#include "world.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

World world = { .me = -1 };

static uint64_t random_state;
static bool kept[256];
static int ipc_fds[2];
static long final_number = SYS_pause;
static void (*final_call)(Relation *r);
static Relation *final_relation;

unsigned draw(unsigned n)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (unsigned)((random_state * 2685821657736338717u) >> 33) % n;
}

void die(const char *what)
{
    int error = errno;
    fprintf(stderr, "# ipc-world: process %d: %s: %s\n", world.me, what, strerror(error));
    int fd = open(DIR_W "/dead", O_WRONLY | O_CREAT | O_APPEND, 0600);
    dprintf(fd, "process %d: %s: %s\n", world.me, what, strerror(error));
    _exit(error == ENOSYS || error == EAFNOSUPPORT || error == ENOENT ? 3 : 2);
}

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

/* ---- waiting for each other ---- */

static void touch(const char *prefix, int index, long number)
{
    char path[64], text[64], pid[16] = "";
    ssize_t n = readlink("/proc/self", pid, sizeof pid - 1); /* as the world's init sees it */
    pid[n < 0 ? 0 : n] = '\0';
    snprintf(path, sizeof path, DIR_W "/%s%d.new", prefix, index);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    int len = snprintf(text, sizeof text, "%s %ld\n", pid, number);
    if (fd < 0 || write(fd, text, (size_t)len) != len)
        _exit(2);
    close(fd);
    char done[64];
    snprintf(done, sizeof done, DIR_W "/%s%d", prefix, index);
    rename(path, done);
}

static void give_up(void)
{
    char text[512] = "";
    int fd = open(DIR_W "/dead", O_RDONLY);
    if (fd < 0 || read(fd, text, sizeof text - 1) < 0)
        exit(2);
    printf("# %s", text);
    fflush(stdout);
    /* What this kernel does not have. */
    exit(strstr(text, "not implemented") != NULL || strstr(text, "not supported") != NULL ? 3 : 2);
}

static void await(const char *prefix, int index, pid_t *ret_pid, long *ret_number)
{
    char path[64], text[64] = "";
    snprintf(path, sizeof path, DIR_W "/%s%d", prefix, index);
    int fd;
    while ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0) {
        if (world.me < 0 && access(DIR_W "/dead", F_OK) == 0)
            give_up();
        usleep(300);
    }
    if (read(fd, text, sizeof text - 1) < 0)
        die("read");
    close(fd);
    int pid = 0;
    long number = 0;
    sscanf(text, "%d %ld", &pid, &number);
    if (ret_pid != NULL)
        *ret_pid = pid;
    if (ret_number != NULL)
        *ret_number = number;
}

pid_t pid_of(int actor)
{
    pid_t pid;
    await("step0.", actor, &pid, NULL);
    return pid;
}

/* ---- processes ---- */

static int role_of(const Relation *r, int actor)
{
    for (int i = 0; i < r->n; i++)
        if (r->who[i] == actor)
            return i;
    return -1;
}

static void drop_what_is_not_mine(int me)
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
    if (setns(ipc_fds[a->ipc == 1], CLONE_NEWIPC) < 0)
        die("setns ipc");
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

static void spawn_children(int parent)
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

/* ---- the plan ---- */

static const Kind *find_kind(const char *name)
{
    for (int i = 0; i < n_kinds; i++)
        if (strcmp(kinds[i].name, name) == 0)
            return &kinds[i];
    return NULL;
}

static bool needs_first[MAX_ACTORS], has_tty[MAX_ACTORS], makes_leaves[MAX_ACTORS];
static bool parted[MAX_ACTORS], traced[MAX_ACTORS];

static bool fits(const Kind *k, int actor, int role)
{
    const Actor *a = &world.actors[actor];
    if ((k->flags & KIND_BLOCKS) && a->busy)
        return false;
    if ((k->flags & KIND_IPC) && a->ipc == 1)
        return false;
    /* One undo list is all that the kernel shows; those of threads and of clones are lists, too. */
    bool undo = strcmp(k->name, "thread") == 0 || strcmp(k->name, "sem-undo") == 0;
    if (((k->flags & KIND_ODD_IPC) || undo) && a->ipc == 0)
        return false;
    if ((k->flags & KIND_TTY) && role > 0 && (a->leader != actor || has_tty[actor]))
        return false;
    if ((k->flags & KIND_TARGET) && role == 1 && traced[actor])
        return false;
    if (k->n_leaves > 0 && (makes_leaves[actor] || parted[actor]))
        return false;
    /* A tracee's clone would be traced, too. */
    if (strcmp(k->name, "thread") == 0 && (parted[actor] || makes_leaves[actor]))
        return false;
    return true;
}

static void take(const Kind *k, int actor, int role)
{
    Actor *a = &world.actors[actor];
    a->busy = a->busy || (k->flags & KIND_BLOCKS);
    bool undo = strcmp(k->name, "thread") == 0 || strcmp(k->name, "sem-undo") == 0;
    if (k->flags & KIND_IPC)
        a->ipc = 0;
    if ((k->flags & KIND_ODD_IPC) || undo)
        a->ipc = 1;
    has_tty[actor] = has_tty[actor] || ((k->flags & KIND_TTY) && role > 0);
    traced[actor] = traced[actor] || ((k->flags & KIND_TARGET) && role == 1);
    makes_leaves[actor] = makes_leaves[actor] || k->n_leaves > 0;
    parted[actor] = parted[actor] || strcmp(k->name, "thread") == 0;
    needs_first[actor] = needs_first[actor] || k->n_leaves > 0 || undo ||
                         (k->flags & (KIND_BORROWS | KIND_BLOCKS | KIND_IPC | KIND_TARGET)) != 0;
}

static void plan_relation(const Kind *k)
{
    if (world.n_relations == MAX_RELATIONS || world.n_actors + k->n_leaves > MAX_ACTORS)
        return;
    Relation *r = &world.relations[world.n_relations];
    *r = (Relation){ .kind = k, .index = world.n_relations, .variant = draw(64) };
    int want = k->min + (int)draw((unsigned)(k->max - k->min + 1));
    for (int tries = 0; r->n < want && tries < 100; tries++) {
        int actor = (int)draw((unsigned)world.n_plain);
        if (role_of(r, actor) < 0 && fits(k, actor, r->n))
            r->who[r->n++] = actor;
    }
    if (r->n < k->min)
        return;
    for (int i = 0; i < r->n; i++)
        take(k, r->who[i], i);
    for (int i = 0; i < k->n_leaves; i++) {
        int leaf = world.n_actors++;
        world.actors[leaf] = (Actor){
            .parent = i == 0 ? r->who[0] : leaf - 1, .leader = leaf, .group = leaf, .leaf = true
        };
        r->who[r->n++] = leaf;
    }
    world.n_relations++;
}

static void plan(const char *only)
{
    bool tree = only == NULL || strcmp(only, "parent") == 0 || strcmp(only, "session") == 0 ||
                strcmp(only, "pgrp") == 0;
    unsigned same_session = only == NULL ? 30 : strcmp(only, "parent") == 0 ? 0 : 100;
    unsigned same_group = only == NULL ? 50 : strcmp(only, "pgrp") == 0 ? 100 : 0;
    world.n_plain = world.n_actors = 4 + (int)draw(only == NULL ? 11 : 4);
    for (int i = 0; i < world.n_plain; i++) {
        Actor *a = &world.actors[i];
        *a = (Actor){ .parent = -1, .leader = i, .group = i, .ipc = -1 };
        if (i == 0 || !tree || draw(100) >= (only == NULL ? 40u : 70u))
            continue;
        a->parent = (int)draw((unsigned)i);
        if (draw(100) < same_session) {
            a->leader = world.actors[a->parent].leader;
            if (draw(100) < same_group)
                a->group = world.actors[a->parent].group;
        }
    }
    int wanted = only == NULL ? 4 + (int)draw((unsigned)world.n_plain * 2) : tree ? 0 : 2;
    for (int i = 0; i < wanted; i++) {
        const Kind *k = only != NULL ? find_kind(only) : &kinds[draw((unsigned)n_kinds)];
        /* What is refused makes a whole set so: seldom. */
        if (only == NULL && (k->flags & KIND_OPAQUE) && draw(3) != 0)
            continue;
        plan_relation(k);
    }
    for (int i = 0; only != NULL && i < 6; i++) {
        const Kind *k = &kinds[draw((unsigned)n_kinds)];
        if ((k->flags & KIND_DECOY) && !(k->flags & KIND_OPAQUE))
            plan_relation(k);
    }
    for (int i = 0; i < world.n_plain; i++)
        world.actors[i].leaderless = !needs_first[i] && draw(8) == 0;
}

/* ---- the truth ---- */

static const char *const cuttable[] = { "session",   "pgrp",     "ctty",   "pty",  "pipe",
                                        "fifo",      "unix",     "socket", "tcp",  "udp",
                                        "sysv-sem",  "sysv-msg", "mqueue", "file", "mapped-file",
                                        "proc-file", "lock" };
#define N_CUTTABLE ((unsigned)(sizeof cuttable / sizeof *cuttable))

static bool draws[MAX_ACTORS][MAX_ACTORS];
static bool opaque[MAX_ACTORS];

static void pull(int a, int b, const char *relation, const char *cut)
{
    if (a >= 0 && b >= 0 && (cut == NULL || strcmp(cut, relation) != 0))
        draws[a][b] = true;
}

static void both(int a, int b, const char *relation, const char *cut)
{
    pull(a, b, relation, cut);
    pull(b, a, relation, cut);
}

static void work_out(const char *cut)
{
    memset(draws, 0, sizeof draws);
    memset(opaque, 0, sizeof opaque);
    for (int i = 0; i < world.n_actors; i++) {
        pull(world.actors[i].parent, i, "parent", cut);
        for (int k = 0; k < i; k++) {
            if (world.actors[i].leader == world.actors[k].leader)
                both(i, k, "session", cut);
            if (world.actors[i].group == world.actors[k].group)
                both(i, k, "pgrp", cut);
        }
    }
    for (int i = 0; i < world.n_relations; i++) {
        const Relation *r = &world.relations[i];
        const Kind *k = r->kind;
        opaque[r->who[0]] =
            opaque[r->who[0]] || ((k->flags & KIND_OPAQUE) && !(k->flags & KIND_TARGET));
        if (k->flags & KIND_TARGET)
            opaque[r->who[1]] = true;
        if (k->flags & KIND_DECOY)
            continue;
        if (k->n_leaves == 2) {
            pull(r->who[2], r->who[1], "namespace", cut);
            continue;
        }
        for (int x = 1; x < r->n; x++) {
            pull(r->who[0], r->who[x], k->scanner, cut);
            if (!(k->flags & KIND_DIRECTED))
                pull(r->who[x], r->who[0], k->scanner, cut);
        }
        /* Its second end is open in several. */
        for (int x = 2; strcmp(k->name, "unix-pair") == 0 && x < r->n; x++)
            both(r->who[1], r->who[x], "socket", cut);
    }
}

static void close_over(int root, bool set[MAX_ACTORS])
{
    memset(set, 0, MAX_ACTORS * sizeof *set);
    set[root] = true;
    for (bool more = true; more;) {
        more = false;
        for (int a = 0; a < world.n_actors; a++)
            for (int b = 0; set[a] && b < world.n_actors; b++)
                if (draws[a][b] && !set[b])
                    set[b] = more = true;
    }
}

/* ---- asking ---- */

static int ask(const char *boundary, pid_t pid, const char *cut, const char *without, char *text,
               size_t size)
{
    int p[2];
    char number[16];
    const char *argv[13] = { boundary, "--json", "--any-dumper", "--pid", number };
    int n = 5;
    snprintf(number, sizeof number, "%d", pid);
    if (cut != NULL) {
        argv[n++] = "--cut";
        argv[n++] = cut;
    }
    if (without != NULL) {
        argv[n++] = "--without";
        argv[n++] = without;
    }
    if (pipe2(p, O_CLOEXEC) < 0)
        die("pipe");
    pid_t child = fork();
    if (child == 0) {
        dup2(p[1], 1);
        dup2(p[1], 2);
        execv(boundary, (char **)argv);
        _exit(127);
    }
    close(p[1]);
    size_t len = 0;
    for (ssize_t r; (r = read(p[0], text + len, size - len - 1)) > 0;)
        len += (size_t)r;
    text[len] = '\0';
    close(p[0]);
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static int actor_of(pid_t pid)
{
    for (int i = 0; i < world.n_actors; i++)
        if (world.actors[i].pid == pid)
            return i;
    return -1;
}

static void explain(int actor)
{
    printf("#     process %d (pid %d):", actor, world.actors[actor].pid);
    for (int i = 0; i < world.n_relations; i++) {
        int role = role_of(&world.relations[i], actor);
        if (role >= 0)
            printf(" %s.%d:%d", world.relations[i].kind->name, i, role);
    }
    printf(" parent:%d session:%d%s\n", world.actors[actor].parent, world.actors[actor].leader,
           world.actors[actor].leaderless ? " first thread ended" : "");
}

/* With @told, a relation that root is known to have: its edges must be among those told. */
static bool compare(const char *boundary, int root, const char *cut, const char *without,
                    const char *told)
{
    static char text[4 << 20];
    bool truth[MAX_ACTORS], found[MAX_ACTORS] = { false }, refused = false, good = true;
    int status = ask(boundary, world.actors[root].pid, cut, without, text, sizeof text);
    char *members = strstr(text, "\"members\":["), *end = strstr(text, "],\"neighbours\"");
    work_out(cut);
    close_over(root, truth);
    for (char *at = members;
         at != NULL && end != NULL && (at = strstr(at, "{\"pid\":")) != NULL && at < end; at += 7) {
        int actor = actor_of(atoi(at + 7));
        if (actor >= 0)
            found[actor] = true;
        else
            good = false;
    }
    char edge[64];
    snprintf(edge, sizeof edge, "\"relation\":\"%s\"", told == NULL ? "" : told);
    if (told != NULL && strstr(text, edge) == NULL) {
        printf("# no edge of relation %s\n", told);
        good = false;
    }
    for (int i = 0; i < world.n_actors; i++) {
        refused = refused || (truth[i] && opaque[i]);
        good = good && truth[i] == found[i];
    }
    if (good && status == (refused ? 4 : 0))
        return true;
    printf("# process %d (pid %d)%s%s: exit status %d, %s\n", root, world.actors[root].pid,
           cut != NULL ? " --cut " : "", cut != NULL ? cut : "", status,
           refused ? "should be refused" : "should be good");
    for (int i = 0; i < world.n_actors; i++)
        if (truth[i] != found[i]) {
            printf("#   %s\n", truth[i] ? "missing:" : "drawn in though it does not belong:");
            explain(i);
        } else if (truth[i]) {
            printf("#   right:\n");
            explain(i);
        }
    char *what = strstr(text, "\"refusals\"");
    if (what != NULL)
        printf("#   %.600s\n", what);
    else
        printf("#   %.600s\n", text);
    return false;
}

/* ---- the world ---- */

static void set_up(void)
{
    struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("proc", "/proc", "proc", 0, NULL) < 0 ||
        mount("tmpfs", "/mnt", "tmpfs", 0, NULL) < 0 || mkdir(DIR_W, 0700) < 0 ||
        mkdir(DIR_W "/pts", 0700) < 0 ||
        mount("devpts", DIR_W "/pts", "devpts", 0, "ptmxmode=0666") < 0 ||
        mount("devpts", "/dev/pts", "devpts", 0, "ptmxmode=0666") < 0 ||
        mount("tmpfs", "/dev/shm", "tmpfs", 0, NULL) < 0 ||
        (mkdir("/run", 0755) < 0 && errno != EEXIST) ||
        mount("tmpfs", "/run", "tmpfs", 0, NULL) < 0 || s < 0 || ioctl(s, SIOCSIFFLAGS, &lo) < 0)
        die("set up");
    close(s);
    int home = open("/proc/self/ns/ipc", O_RDONLY);
    for (int i = 0; i < 2; i++)
        if (home < 0 || unshare(CLONE_NEWIPC) < 0 ||
            (ipc_fds[i] = open("/proc/self/ns/ipc", O_RDONLY)) < 0)
            die("unshare ipc");
    if (setns(home, CLONE_NEWIPC) < 0)
        die("setns");
    close(home);
}

static void settle(void)
{
    for (int step = 0; step < N_STEPS; step++) {
        char name[16];
        snprintf(name, sizeof name, "step%d.", step);
        for (int i = 0; i < world.n_plain; i++)
            await(name, i, NULL, NULL);
        snprintf(name, sizeof name, "go%d.", step);
        touch(name, 0, 0);
    }
    for (int i = 0; i < world.n_actors; i++) {
        long number, now = -1;
        await("final", i, &world.actors[i].pid, &number);
        /* Until it really is in its last system call. */
        for (int tries = 0; number >= 0 && now != number && tries < 20000; tries++) {
            char path[64], text[256] = "";
            snprintf(path, sizeof path, "/proc/%d/syscall", world.actors[i].pid);
            int fd = open(path, O_RDONLY);
            if (read(fd, text, sizeof text - 1) > 0 && text[0] != 'r')
                now = atol(text);
            close(fd);
            if (now != number)
                usleep(300);
        }
        for (int tries = 0; number < 0 && tries < 20000; tries++) {
            char path[64], text[512] = "";
            snprintf(path, sizeof path, "/proc/%d/stat", world.actors[i].pid);
            int fd = open(path, O_RDONLY);
            ssize_t n = read(fd, text, sizeof text - 1);
            close(fd);
            if (n > 0 && strstr(text, ") Z ") != NULL)
                break;
            usleep(300);
        }
    }
}

static void make_world(const char *only)
{
    set_up();
    plan(only);
    for (int i = 0; i < world.n_relations; i++)
        if (world.relations[i].kind->prepare != NULL)
            world.relations[i].kind->prepare(&world.relations[i]);
    spawn_children(-1);
    drop_what_is_not_mine(-1);
    settle();
}

/* What BOUNDARY is told not to mind (--any-dumper), and the agent minds. */
static bool criu_refuses(const bool set[MAX_ACTORS])
{
    static const char *const kinds_refused[] = { "memory", "fs", "sighand", "bpf-map" };
    int ipc = -1, space[MAX_ACTORS] = { 0 }, first = -1;
    for (int i = 0; i < world.n_relations; i++) {
        const Relation *r = &world.relations[i];
        for (size_t k = 0; k < sizeof kinds_refused / sizeof *kinds_refused; k++)
            if (set[r->who[0]] && strcmp(r->kind->name, kinds_refused[k]) == 0)
                return true;
        if (r->kind->n_leaves == 2) /* a PID namespace */
            space[r->who[1]] = space[r->who[2]] = i + 1;
    }
    for (int i = 0; i < world.n_actors; i++) {
        int plain = i;
        while (world.actors[plain].leaf)
            plain = world.actors[plain].parent;
        bool other = world.actors[plain].ipc == 1;
        if (set[i] && (world.actors[i].leaderless || (first >= 0 && space[i] != space[first]) ||
                       (ipc >= 0 && ipc != other)))
            return true;
        if (set[i]) {
            ipc = other;
            first = i;
        }
    }
    return false;
}

static void __attribute__((noreturn)) hold(const char *only)
{
    bool truth[MAX_ACTORS];
    make_world(only);
    work_out(NULL);
    for (int i = 0; i < world.n_actors; i++) {
        close_over(i, truth);
        bool refused = criu_refuses(truth);
        for (int k = 0; k < world.n_actors; k++)
            refused = refused || (truth[k] && opaque[k]);
        printf("SET %d %s", world.actors[i].pid, refused ? "refused" : "ok");
        for (int k = 0; k < world.n_actors; k++)
            if (truth[k])
                printf(" %d", world.actors[k].pid);
        puts("");
    }
    puts("READY");
    fflush(stdout);
    alarm(600);
    for (;;)
        pause();
}

static int run(const char *boundary, const char *only, const char *without)
{
    make_world(only);
    int wrong = 0;
    for (int i = 0; i < world.n_actors && wrong < 2; i++) {
        const char *told = NULL;
        for (int k = 0; only != NULL && k < world.n_relations; k++)
            if (role_of(&world.relations[k], i) >= 0 &&
                strcmp(world.relations[k].kind->name, only) == 0)
                told = world.relations[k].kind->scanner;
        if (only == NULL || strcmp(only, "pgrp") != 0)
            wrong += !compare(boundary, i, NULL, without, told);
        if (only != NULL && strcmp(only, "pgrp") == 0)
            wrong += !compare(boundary, i, "session", without, NULL);
        else if (draw(3) == 0)
            wrong += !compare(boundary, i, cuttable[draw(N_CUTTABLE)], without, NULL);
    }
    printf("# %d processes, %d relations\n", world.n_actors, world.n_relations);
    return wrong > 0;
}

int main(int argc, char **argv)
{
    const char *only = NULL, *without = NULL;
    if (argc == 2 && strcmp(argv[1], "--kinds") == 0) {
        for (int i = 0; i < n_kinds; i++)
            printf("%s %s %d\n", kinds[i].name, kinds[i].scanner == NULL ? "-" : kinds[i].scanner,
                   kinds[i].flags);
        return 0;
    }
    for (int i = 3; i + 1 < argc; i += 2)
        if (strcmp(argv[i], "--only") == 0)
            only = argv[i + 1];
        else if (strcmp(argv[i], "--without") == 0)
            without = argv[i + 1];
    if (argc < 3) {
        fprintf(stderr, "usage: ipc-world BOUNDARY SEED [--only KIND] [--without RELATION]\n");
        return 2;
    }
    bool holds = strcmp(argv[1], "--hold") == 0;
    random_state = strtoull(argv[2], NULL, 10) * 0x9e3779b97f4a7c15u + 1;
    for (int i = 0; i < 8; i++)
        draw(2);
    if (unshare((holds ? 0 : CLONE_NEWPID) | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC) < 0) {
        perror("# ipc-world: unshare");
        return 2;
    }
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(400); /* a hang limit; init of a namespace has no default action for SIGALRM … */
        signal(SIGALRM, (void (*)(int))_exit);
        setsid();
        int null = open("/dev/null", O_RDWR);
        dup2(null, 0);
        close(null);
        if (holds)
            hold(only);
        int status = run(argv[1], only, without);
        fflush(stdout);
        _exit(status);
    }
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) < 0)
        return 2;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 2;
}

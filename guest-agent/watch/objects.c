/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Objects by which processes speak to each other, as they come and go: message queues, semaphores
 * and shared memory, SysV's (sysvipc(7)) and POSIX (mq_overview(7), sem_overview(7),
 * shm_overview(7)). A process of its own looks ten times a second and compares, since it enters the
 * IPC namespaces of those who are watched, and since a file system that hangs may hold it up.
 *
 * What is in a namespace that is not the system's is of those who are in it. In the system's only
 * what has a name is looked at, and is of who has it open or mapped soon after it was made.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "watch/watch.h"

#define LOOK_NS 100000000
#define MAX_OBJECTS 1024u
#define MAX_NAMESPACES 64u
#define MAX_LOOKS 10u /* until what nobody of ours uses is others' */

typedef enum { OBJECT_UNKNOWN, OBJECT_OURS, OBJECT_OTHERS } Whose;

typedef struct {
    uint64_t ns; /* IPC namespace, 0: a file */
    WatchKind kind;
    char name[sizeof((WatchObject *)NULL)->name];
    Whose whose;
    unsigned looks;
    bool seen, was_there; /* … when it was looked for the first time */
    pid_t pid;
} Object;

static struct {
    WatchShared *shared;
    unsigned kinds;
    int fd;
    bool first; /* nothing that is found now is new */
    uint64_t own_ns, ns;
    uint64_t done_ns[MAX_NAMESPACES];
    unsigned n_done;
    bool files_seen; /* the directory could be read */
    Object objects[MAX_OBJECTS];
    unsigned n;
} look;

static bool wants(WatchKind kind)
{
    return (look.kinds & 1u << kind) != 0;
}

static pid_t pid_at(unsigned i)
{
    return i < look.shared->n ? look.shared->pids[i] : 0;
}

static void tell(const Object *o, bool created)
{
    WatchObject change = { .kind = (uint8_t)o->kind, .created = created, .pid = o->pid };
    memcpy(change.name, o->name, sizeof change.name);
    if (!write_all(look.fd, &change, sizeof change))
        _exit(0); /* the loop has gone */
}

/* ---- who uses a file ---- */

static bool is_same_file(int dir, const char *name, const struct stat *file)
{
    struct statx sx;
    return statx(dir, name, AT_STATX_DONT_SYNC, STATX_INO, &sx) == 0 &&
           sx.stx_ino == file->st_ino &&
           makedev(sx.stx_dev_major, sx.stx_dev_minor) == file->st_dev;
}

static bool has_open(pid_t pid, const struct stat *file)
{
    char path[32], link[64];
    bool found = false;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *dir = opendir(path);
    for (struct dirent *e; dir != NULL && !found && (e = readdir(dir)) != NULL;) {
        ssize_t n = readlinkat(dirfd(dir), e->d_name, link, sizeof link - 1);
        link[n > 0 ? n : 0] = '\0';
        /* So that no other file system has to be asked: a queue's is "/name" as a rule. */
        if (strncmp(link, "/dev/shm/", 9) == 0 || strncmp(link, "/dev/mqueue/", 12) == 0 ||
            (link[0] == '/' && strchr(link + 1, '/') == NULL))
            found = is_same_file(dirfd(dir), e->d_name, file);
    }
    if (dir != NULL)
        closedir(dir);
    return found;
}

static bool has_mapped(pid_t pid, const struct stat *file)
{
    char path[32], line[512];
    bool found = false;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *maps = fopen(path, "re");
    while (maps != NULL && !found && fgets(line, sizeof line, maps) != NULL) {
        unsigned major, minor;
        unsigned long long ino;
        found = strstr(line, "/dev/shm/") != NULL &&
                sscanf(line, "%*s %*s %*s %x:%x %llu", &major, &minor, &ino) == 3 &&
                ino == file->st_ino && makedev(major, minor) == file->st_dev;
    }
    if (maps != NULL)
        fclose(maps);
    return found;
}

/* One who is watched; 0: nobody. */
static pid_t find_user(const struct stat *file, bool mapped)
{
    for (unsigned i = 0; pid_at(i) > 0; i++)
        if (has_open(pid_at(i), file) || (mapped && has_mapped(pid_at(i), file)))
            return pid_at(i);
    return 0;
}

/* ---- what is there ---- */

static Object *note(WatchKind kind, uint64_t ns, const char *format, const char *name, int id)
{
    char text[sizeof((Object *)NULL)->name] = "";
    if (name != NULL)
        snprintf(text, sizeof text, "%s:/%.90s", format, name);
    else
        snprintf(text, sizeof text, "%s:%d", format, id);
    for (unsigned i = 0; i < look.n; i++) {
        Object *o = &look.objects[i];
        if (o->ns == ns && o->kind == kind && strcmp(o->name, text) == 0) {
            o->seen = true;
            return o;
        }
    }
    if (look.n == MAX_OBJECTS)
        return NULL;
    Object *o = &look.objects[look.n++];
    *o = (Object){ .ns = ns, .kind = kind, .seen = true, .was_there = look.first };
    memcpy(o->name, text, sizeof text);
    return o;
}

static void is_ours(Object *o, pid_t pid)
{
    if (o == NULL || o->whose == OBJECT_OURS)
        return;
    o->whose = OBJECT_OURS;
    o->pid = pid;
    if (!o->was_there)
        tell(o, true);
}

/* With a name: whose it is has to be found out. */
static void note_file(WatchKind kind, uint64_t ns, const char *format, int dir, const char *entry,
                      const char *name)
{
    struct stat st;
    Object *o = note(kind, ns, format, name, 0);
    if (o == NULL || o->whose != OBJECT_UNKNOWN || fstatat(dir, entry, &st, 0) < 0)
        return;
    pid_t pid = find_user(&st, kind != WATCH_MQUEUE);
    if (pid > 0)
        is_ours(o, pid);
    else if (ns != 0 && ns != look.own_ns)
        is_ours(o, 0);
    else if (++o->looks == MAX_LOOKS)
        o->whose = OBJECT_OTHERS;
}

/* The queues of the present IPC namespace, wherever they are mounted, or not. */
static int open_queues(void)
{
    int fs = (int)syscall(SYS_fsopen, "mqueue", 1 /* FSOPEN_CLOEXEC */);
    int mount = -1;
    if (fs >= 0 && syscall(SYS_fsconfig, fs, 6 /* FSCONFIG_CMD_CREATE */, NULL, NULL, 0) == 0)
        mount = (int)syscall(SYS_fsmount, fs, 1 /* FSMOUNT_CLOEXEC */, 0);
    if (fs >= 0)
        close(fs);
    int dir = mount >= 0 ? openat(mount, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (mount >= 0)
        close(mount);
    return dir;
}

static void look_at_queues(void)
{
    int fd = open_queues();
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;)
        if (e->d_name[0] != '.')
            note_file(WATCH_MQUEUE, look.ns, "mqueue", dirfd(dir), e->d_name, e->d_name);
    if (dir != NULL)
        closedir(dir);
    else if (fd >= 0)
        close(fd);
}

/* Semaphores are "sem.NAME" there. */
static void look_at_files(void)
{
    char path[64];
    DIR *dir = NULL;
    for (unsigned i = 0; dir == NULL && pid_at(i) > 0; i++) {
        snprintf(path, sizeof path, "/proc/%d/root/dev/shm", (int)pid_at(i));
        dir = opendir(path);
    }
    look.files_seen = dir != NULL;
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        bool sem = strncmp(e->d_name, "sem.", 4) == 0;
        if (e->d_name[0] == '.' || !wants(sem ? WATCH_SEM : WATCH_SHM))
            continue;
        note_file(sem ? WATCH_SEM : WATCH_SHM, 0, sem ? "posix-sem" : "posix-shm", dirfd(dir),
                  e->d_name, e->d_name + (sem ? 4 : 0));
    }
    if (dir != NULL)
        closedir(dir);
}

typedef union {
    int val;
    struct semid_ds *set;
    struct seminfo *info;
} SemArgument;

static void look_at_sysv(void)
{
    struct msginfo msg;
    struct msqid_ds queue;
    struct seminfo sem;
    struct semid_ds set;
    struct shm_info shm;
    struct shmid_ds segment;
    int last = wants(WATCH_MQUEUE) ? msgctl(0, MSG_INFO, (struct msqid_ds *)(void *)&msg) : -1;
    for (int i = 0, id; i <= last; i++)
        if ((id = msgctl(i, MSG_STAT, &queue)) >= 0)
            is_ours(note(WATCH_MQUEUE, look.ns, "sysv-msg", NULL, id), queue.msg_lspid);
    last = wants(WATCH_SEM) ? semctl(0, 0, SEM_INFO, (SemArgument){ .info = &sem }) : -1;
    for (int i = 0, id; i <= last; i++)
        if ((id = semctl(i, 0, SEM_STAT, (SemArgument){ .set = &set })) >= 0)
            is_ours(note(WATCH_SEM, look.ns, "sysv-sem", NULL, id), 0);
    last = wants(WATCH_SHM) ? shmctl(0, SHM_INFO, (struct shmid_ds *)(void *)&shm) : -1;
    for (int i = 0, id; i <= last; i++)
        /* One that is removed stays as long as somebody has it attached. */
        if ((id = shmctl(i, SHM_STAT, &segment)) >= 0 && (segment.shm_perm.mode & SHM_DEST) == 0)
            is_ours(note(WATCH_SHM, look.ns, "sysv-shm", NULL, id), segment.shm_cpid);
}

/* ---- namespaces ---- */

static int open_ns(const char *who, uint64_t *ret_number)
{
    char path[64];
    struct stat st;
    snprintf(path, sizeof path, "/proc/%s/ns/ipc", who);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    *ret_number = fd >= 0 && fstat(fd, &st) == 0 ? st.st_ino : 0;
    return fd;
}

static bool is_done(uint64_t ns)
{
    for (unsigned i = 0; i < look.n_done; i++)
        if (look.done_ns[i] == ns)
            return true;
    if (look.n_done == MAX_NAMESPACES)
        return true;
    look.done_ns[look.n_done++] = ns;
    return false;
}

static void look_at_namespaces(void)
{
    char who[16];
    uint64_t ns;
    int home = open_ns("thread-self", &look.own_ns);
    look.n_done = 0;
    for (unsigned i = 0; home >= 0 && pid_at(i) > 0; i++) {
        snprintf(who, sizeof who, "%d", (int)pid_at(i));
        int there = open_ns(who, &ns);
        if (there >= 0 && ns != 0 && !is_done(ns) &&
            (ns == look.own_ns || setns(there, CLONE_NEWIPC) == 0)) {
            look.ns = ns;
            if (ns != look.own_ns)
                look_at_sysv();
            if (wants(WATCH_MQUEUE))
                look_at_queues();
            if (ns != look.own_ns && setns(home, CLONE_NEWIPC) < 0)
                _exit(1); /* not on in a foreign one */
        }
        if (there >= 0)
            close(there);
    }
    if (home >= 0)
        close(home);
}

/* ---- look, and compare ---- */

static bool was_looked_at(const Object *o)
{
    if (o->ns == 0)
        return look.files_seen;
    for (unsigned i = 0; i < look.n_done; i++)
        if (look.done_ns[i] == o->ns)
            return true;
    return false;
}

static void look_once(void)
{
    if (pid_at(0) <= 0)
        return; /* not told of anybody yet */
    for (unsigned i = 0; i < look.n; i++)
        look.objects[i].seen = false;
    look_at_namespaces();
    if (wants(WATCH_SEM) || wants(WATCH_SHM))
        look_at_files();
    for (unsigned i = look.n; i-- > 0;) {
        Object *o = &look.objects[i];
        if (o->seen)
            continue;
        /* With the last process of a namespace goes all that was in it: that is no removal. */
        if (o->whose == OBJECT_OURS && was_looked_at(o))
            tell(o, false);
        if (was_looked_at(o) || o->ns != 0)
            *o = look.objects[--look.n];
    }
    if (look.first &&
        !write_all(look.fd, &(WatchObject){ .kind = WATCH_N_KINDS }, sizeof(WatchObject)))
        _exit(0);
    look.first = false;
}

static void *look_for_ever(void *data)
{
    (void)data;
    for (;;) {
        look_once();
        nanosleep(&(struct timespec){ .tv_nsec = LOOK_NS }, NULL);
    }
    return NULL;
}

/* A thread of it looks: to who asks which processes are in a namespace (scan/), the process itself
 * always is at home. */
static void __attribute__((noreturn)) be_watcher(pid_t parent)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_NAME, "stasis-watch");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    int fd = dup2(look.fd, 0); /* the agent's own are closed: the port, above all */
    syscall(SYS_close_range, 1u, ~0u, 0u);
    look.fd = fd;
    signal(SIGPIPE, SIG_IGN);
    pthread_t thread;
    if (pthread_create(&thread, NULL, look_for_ever, NULL) != 0)
        _exit(1);
    for (;;)
        pause();
}

int watch_objects_start(WatchObjects *objects, unsigned kinds)
{
    int ends[2];
    pid_t parent = getpid();
    *objects = (WatchObjects){ .fd = -1 };
    WatchShared *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return errno;
    int r = pipe2(ends, O_CLOEXEC) < 0 ? errno : 0;
    if (r == 0) {
        memset(&look, 0, sizeof look);
        look.shared = shared;
        look.kinds = kinds;
        look.fd = ends[1];
        look.first = true;
        objects->pid = fork();
        r = objects->pid < 0 ? errno : 0;
        if (objects->pid == 0)
            be_watcher(parent);
        close(ends[1]);
        objects->fd = ends[0];
    }
    if (r != 0) {
        munmap(shared, sizeof *shared);
        if (objects->fd >= 0)
            close(objects->fd);
        *objects = (WatchObjects){ .fd = -1 };
        return r;
    }
    fcntl(objects->fd, F_SETFL, O_NONBLOCK);
    objects->shared = shared;
    return 0;
}

void watch_objects_stop(WatchObjects *objects)
{
    if (objects->shared == NULL)
        return;
    worker_let_die(objects->pid); /* it looks at file systems, which may not answer */
    close(objects->fd);
    munmap(objects->shared, sizeof *objects->shared);
    *objects = (WatchObjects){ .fd = -1 };
}

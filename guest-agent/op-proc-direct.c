/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * In the VM itself: CRIU dumps a tree that goes on to run. CRIU puts code of its own into the
 * processes and takes it out again; one that is ended in between may leave them broken. So it runs
 * in a process that is nobody's worker, comes to its end whatever becomes of host and agent, and
 * then removes the image when nobody needs it any more. A time limit is one for who waits, only.
 *
 * No control group freezes the tree: moving processes into one would take them out of those that
 * their service manager looks at. CRIU stops them by ptrace, and sees that none gets away.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"
#include "criu-image.h"

#define MAX_PROCESSES 4096u
#define TOO_LATE (-2)

/* ---- which processes ---- */

typedef struct {
    pid_t pid;
    uint64_t start;
} Member;

typedef struct {
    int proc; /* a descriptor of /proc */
    unsigned n;
    bool too_many;
    Member members[MAX_PROCESSES];
} Tree;

static void add(void *data, pid_t pid)
{
    Tree *tree = data;
    static Process process;
    if (!process_read(tree->proc, pid, &process))
        return;
    if (tree->n == MAX_PROCESSES)
        tree->too_many = true;
    else
        tree->members[tree->n++] = (Member){ pid, process.start };
}

static void read_tree(Tree *tree, int proc, pid_t root)
{
    tree->proc = proc;
    tree->n = 0;
    tree->too_many = false;
    add(tree, root);
    for (unsigned i = 0; i < tree->n && !tree->too_many; i++)
        process_each_child(tree->members[i].pid, add, tree);
}

static bool has(const Tree *tree, Member member)
{
    for (unsigned i = 0; i < tree->n; i++)
        if (tree->members[i].pid == member.pid && tree->members[i].start == member.start)
            return true;
    return false;
}

static bool is_same(const Tree *a, const Tree *b)
{
    for (unsigned i = 0; i < a->n; i++)
        if (!has(b, a->members[i]))
            return false;
    return a->n == b->n && a->n > 0;
}

static bool send_tree(const Tree *tree, int proc, Answer *answer)
{
    static Process process;
    for (unsigned i = 0; i < tree->n; i++)
        if (!process_read(proc, tree->members[i].pid, &process) ||
            process.start != tree->members[i].start || !dump_put_process(&process, answer))
            return false;
    return true;
}

/* ---- what CRIU wrote ---- */

/* Entries of pstree.img, one for each process. */
static unsigned count_entries(const char *dir)
{
    CriuFile file;
    CriuBytes entry;
    unsigned n = 0;
    criu_file_open(dir, "pstree.img", &file);
    CriuBytes entries = criu_image_entries(file.bytes, file.size);
    while (criu_image_next(&entries, &entry))
        n++;
    criu_file_close(&file);
    return n;
}

/* How long the processes stood, in ns: stats-dump has a message "dump" (field 1), in it the time
 * until all stood (1) and from then on (2), both in µs (CRIU's images/stats.proto). 0 when it does
 * not say. */
static uint64_t frozen_ns(const char *dir)
{
    CriuFile file;
    CriuBytes stats;
    CriuField dump, time;
    uint64_t us = 0;
    criu_file_open(dir, "stats-dump", &file);
    CriuBytes entries = criu_image_entries(file.bytes, file.size);
    if (criu_image_next(&entries, &stats) && criu_field_next(&stats, &dump) && dump.number == 1)
        while (criu_field_next(&dump.bytes, &time))
            us += time.number == 1 || time.number == 2 ? time.value : 0;
    criu_file_close(&file);
    return us * 1000;
}

/* Is a file open by a name that it has no more, while it has another? CRIU gives it one for its
 * restore, and takes that away when the processes run on (delete_link_remaps() in its files-reg.c).
 * Entries of remap-fpath.img (images/remap-file-path.proto): remap_type (3), 0 for such a file, as
 * if left out. */
static bool has_lost_name(const char *dir)
{
    CriuFile file;
    CriuBytes entry;
    CriuField field;
    bool found = !criu_file_open(dir, "remap-fpath.img", &file);
    CriuBytes entries = criu_image_entries(file.bytes, file.size);
    while (!found && criu_image_next(&entries, &entry)) {
        uint64_t type = 0;
        while (criu_field_next(&entry, &field))
            type = field.number == 3 ? field.value : type;
        found = type == 0;
    }
    criu_file_close(&file);
    return found;
}

/* ---- the process that runs it ---- */

static void __attribute__((noreturn))
be_runner(int socket_fd, const DumpTree *tree, const char *dir)
{
    setpgid(0, 0); /* out of the group that ends with the worker */
    prctl(PR_SET_NAME, "stasis-dumper");
    dup2(socket_fd, 3);
    close_range(4, ~0u, 0);
    int status = dump_run_criu(tree, dir, INT64_MAX);
    send(3, &status, sizeof status, MSG_NOSIGNAL);
    /* Until the worker has sent the files, or is no more. */
    struct pollfd fds = { .fd = 3, .events = POLLIN };
    while (poll(&fds, 1, -1) < 0 && errno == EINTR)
        ;
    criu_remove_dir(dir);
    _exit(0);
}

/* By @end_ms; false: it is not there yet. */
static bool wait_for_status(int fd, int64_t end_ms, int *ret)
{
    struct pollfd fds = { .fd = fd, .events = POLLIN };
    int64_t now;
    while ((now = now_ms()) < end_ms && poll(&fds, 1, (int)(end_ms - now)) <= 0)
        ;
    if (fds.revents == 0)
        return false;
    while (recv(fd, ret, sizeof *ret, 0) < 0 && errno == EINTR)
        ;
    return true;
}

/* CRIU's exit status, −1, or TOO_LATE. *ret_fd: closing it has the image removed, as soon as CRIU
 * has done; −1: it is. */
static int run(const DumpTree *tree, const char *dir, int64_t end_ms, int *ret_fd)
{
    int ends[2], status = -1;
    *ret_fd = -1;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0) {
        pid_t pid = fork();
        if (pid == 0) {
            close(ends[0]);
            be_runner(ends[1], tree, dir);
        }
        if (pid > 0)
            setpgid(pid, pid); /* both do it: neither waits for the other */
        close(ends[1]);
        if (pid > 0) {
            *ret_fd = ends[0];
            return wait_for_status(ends[0], end_ms, &status) ? status : TOO_LATE;
        }
        close(ends[0]);
    }
    criu_remove_dir(dir);
    return -1;
}

static void dump(const DumpTree *tree, int proc, const Tree *before, uint64_t limit, int64_t end_ms,
                 const char *dir, Answer *answer)
{
    static Tree after;
    int keeper, status = run(tree, dir, end_ms, &keeper);
    read_tree(&after, proc, tree->root);
    if (status == TOO_LATE) {
        answer_error(answer, STASIS_AGENT_TIMEOUT, 0,
                     "proc-dump-direct: CRIU takes too long; it comes to its end all the same, and "
                     "what it writes is removed");
    } else if (status != 0) {
        criu_complain("dump", dir, answer);
    } else if (!is_same(before, &after) || count_entries(dir) != after.n) {
        answer_error(answer, STASIS_AGENT_STATE, 0,
                     "proc-dump-direct: processes came or ended while CRIU looked at them; try "
                     "again");
    } else if (has_lost_name(dir)) {
        answer_error(answer, STASIS_AGENT_UNSUPPORTED, 0,
                     "proc-dump-direct: a file or a named semaphore that is open has another name "
                     "now, which CRIU can only keep in a fork; leave out --direct");
    } else if (!send_tree(&after, proc, answer)) {
        answer_error(answer, STASIS_AGENT_STATE, 0, "proc-dump-direct: a process ended; try again");
    } else {
        uint64_t stood_ns = frozen_ns(dir); /* files go when they are sent */
        if (dump_send_files(tree, limit, dir, false, answer))
            stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_FROZEN_FOR, stood_ns);
    }
    if (keeper >= 0)
        close(keeper);
}

static bool find_halves(const Tree *tree, const char *dir, Halves *ret, Answer *answer)
{
    static pid_t pids[MAX_PROCESSES];
    char path[96];
    for (unsigned i = 0; i < tree->n; i++)
        pids[i] = tree->members[i].pid;
    snprintf(path, sizeof path, "%s/" STASIS_HALVES_FILE, dir);
    return halves_find(pids, tree->n, path, ret, answer);
}

void op_proc_dump_direct(const Request *request, Answer *answer)
{
    static Tree before;
    static Halves halves;
    int64_t end_ms = now_ms() + request_timeout(request, DUMP_LIMIT_MS);
    DumpTree tree = { .root = (pid_t)request_number(request, STASIS_AGENT_TAG_PID, 0) };
    char dir[64];
    int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool found = tree.root > 1 && dump_look_at_root(&tree, proc);
    if (found)
        read_tree(&before, proc, tree.root);
    if (!found || before.too_many) {
        answer_error(answer, STASIS_AGENT_STATE, 0,
                     found ? "proc-dump-direct: more than %u processes"
                           : "proc-dump-direct: no process %u",
                     found ? MAX_PROCESSES : (unsigned)tree.root);
        return;
    }
    if (!dump_make_dir(dir, sizeof dir, UINT64_MAX)) {
        answer_error(answer, STASIS_AGENT_FAILED, errno, "make %s", dir);
        return;
    }
    if (!find_halves(&before, dir, &halves, answer)) {
        criu_remove_dir(dir);
        return;
    }
    tree.halves = &halves;
    dump(&tree, proc, &before, request_number(request, STASIS_AGENT_TAG_LIMIT, UINT64_MAX), end_ms,
         dir, answer);
    answer_end(answer);
}

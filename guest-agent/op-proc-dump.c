/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * In a fork of the VM: CRIU dumps the trees that are frozen, and its image goes to the host
 * (dump-send.c). Nothing is cleaned up for the guest's sake: the fork is thrown away.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "agent.h"
#include "criu-image.h"

#define MAX_ROOTS 4096u
#define MAX_PROCESSES 4097u /* those that can be frozen, and who adopts them */

/* ---- where ---- */

static uint64_t available_memory(void)
{
    FILE *file = fopen("/proc/meminfo", "re");
    unsigned long long kib = 0;
    char line[256];
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
            break;
    if (file != NULL)
        fclose(file);
    return (uint64_t)kib * 1024;
}

/* Bytes that can be put there, at most; a file system in memory may promise more than there is. */
static uint64_t room_at(const char *path)
{
    struct statfs fs;
    if (statfs(path, &fs) < 0 || access(path, W_OK) < 0)
        return 0;
    if ((unsigned long)fs.f_type == RAMFS_MAGIC)
        return available_memory();
    uint64_t room = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
    if ((unsigned long)fs.f_type != TMPFS_MAGIC)
        return room;
    uint64_t memory = available_memory();
    return room < memory ? room : memory;
}

bool dump_make_dir(char *dir, size_t size, uint64_t enough)
{
    static const char *const places[] = { "/run", "/var/tmp", "/tmp" };
    const char *best = places[0];
    uint64_t most = 0;
    for (unsigned i = 0; i < sizeof places / sizeof *places && most < enough; i++) {
        uint64_t room = room_at(places[i]);
        if (room > most) {
            most = room;
            best = places[i];
        }
    }
    snprintf(dir, size, "%s/stasis-dump-XXXXXX", best);
    return mkdtemp(dir) != NULL;
}

/* ---- which processes ---- */

typedef struct {
    pid_t roots[MAX_ROOTS];
    unsigned n_roots;
    char group[1100];
    DumpTree tree; /* its root: the only one of them, or their parent for CRIU's sake */
} Trees;

static bool is_root(const Trees *trees, pid_t pid)
{
    for (unsigned i = 0; i < trees->n_roots; i++)
        if (trees->roots[i] == pid)
            return true;
    return false;
}

static bool read_roots(const Request *request, Trees *trees)
{
    StasisField field;
    for (uint32_t at = 0; stasis_field_next(request->fields, request->length, &at, &field);) {
        uint64_t pid = field.tag == STASIS_AGENT_TAG_PID ? stasis_field_to_number(&field) : 0;
        if (field.tag != STASIS_AGENT_TAG_PID || trees->n_roots == MAX_ROOTS)
            continue;
        if (pid <= 1 || pid > INT32_MAX)
            return false;
        trees->roots[trees->n_roots++] = (pid_t)pid;
    }
    return trees->n_roots > 0;
}

/* Whether @pid is the first of a PID namespace below ours (proc(5), /proc/PID/status, NSpid). */
static bool is_init(pid_t pid)
{
    char path[64], line[256];
    int outer, inner;
    bool init = false;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "re");
    while (file != NULL && !init && fgets(line, sizeof line, file) != NULL)
        init = sscanf(line, "NSpid: %d %d", &outer, &inner) == 2 && inner == 1;
    if (file != NULL)
        fclose(file);
    return init;
}

bool dump_look_at_root(DumpTree *tree, int proc)
{
    static Process process;
    if (!process_read(proc, tree->root, &process))
        return false;
    tree->session = is_init(tree->root);
    tree->shell_job = process.sid != tree->root && !tree->session;
    return true;
}

bool dump_put_process(const Process *process, Answer *answer)
{
    StasisFieldWriter *fields = &answer->fields;
    stasis_field_put_number(fields, STASIS_AGENT_TAG_PID, (uint64_t)process->pid);
    stasis_field_put_number(fields, STASIS_AGENT_TAG_PPID, (uint64_t)process->ppid);
    stasis_field_put_number(fields, STASIS_AGENT_TAG_START, process->start);
    stasis_field_put_text(fields, STASIS_AGENT_TAG_COMM, process->comm);
    return answer_part(answer);
}

/* Tell of each frozen process. */
static bool send_processes(Trees *trees, Answer *answer)
{
    static Process process;
    char path[1200];
    int pid, proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    snprintf(path, sizeof path, "%s/cgroup.procs", trees->group);
    FILE *procs = fopen(path, "re");
    bool ok = procs != NULL && dump_look_at_root(&trees->tree, proc);
    while (ok && fscanf(procs, "%d", &pid) == 1) {
        if (!process_read(proc, pid, &process))
            continue;
        if (trees->n_roots > 1 && is_root(trees, process.pid))
            process.ppid = trees->tree.root;
        ok = dump_put_process(&process, answer);
    }
    if (procs != NULL)
        fclose(procs);
    if (proc >= 0)
        close(proc);
    return ok;
}

/* ---- CRIU ---- */

/* CRIU has the shell run iptables, to keep an established connection still while its queues are
 * read. Here all is still: the fork has no network, and both ends are frozen or cut. So a guest
 * without iptables is as good, and what CRIU calls does nothing. */
static bool make_shell(const char *dir, char *programs, size_t size)
{
    char path[128];
    snprintf(programs, size, "%s-programs", dir);
    snprintf(path, sizeof path, "%s/sh", programs);
    return mkdir(programs, 0700) == 0 && stub_write(path, STUB_TRUE);
}

int dump_run_criu(const DumpTree *tree, const char *dir, int64_t end_ms)
{
    char root[16];
    snprintf(root, sizeof root, "%d", (int)tree->root);
    /* Control groups are not part of it: where it is restored, it is in that of the agent. */
    char *argv[24 + MQUEUE_MAX_KEYS + 2 * MAX_HALVES] = {
        "criu",
        "dump",
        "--tree",
        root,
        "--images-dir",
        (char *)dir,
        "--manage-cgroups=ignore",
        "--file-locks",
        "--link-remap",
        "--ghost-limit",
        "1G",
        "--skip-in-flight",
        "--ext-unix-sk"
    }; /* the log's, say: what is outside was cut by name */
    unsigned n = 13;
    /* Left stopped in a fork, since CRIU then leaves alone the names that it gave to files for its
     * restore (--link-remap), which go along if they are on tmpfs. */
    argv[n++] = tree->group != NULL ? "--leave-stopped" : "--leave-running";
    if (tree->group != NULL) {
        argv[n++] = "--freeze-cgroup";
        argv[n++] = (char *)tree->group;
        argv[n++] = "--tcp-established";
    }
    if (tree->shell_job)
        argv[n++] = "--shell-job";
    for (unsigned i = 0; tree->queues != NULL && i < tree->queues->n; i++)
        argv[n++] = (char *)tree->queues->text[i];
    halves_append(tree->halves, "--external", argv, n);
    int status = criu_run(argv, tree->programs, NULL, dir, end_ms);
    return status == 0 && !criu_timers_mend_in(dir) ? -1 : status;
}

/* Connections of the frozen that lead out of the group. */
static bool find_halves(const DumpTree *tree, const char *dir, Halves *ret, Answer *answer)
{
    static pid_t pids[MAX_PROCESSES];
    unsigned n = 0;
    int pid;
    char path[1200];
    snprintf(path, sizeof path, "%s/cgroup.procs", tree->group);
    FILE *procs = fopen(path, "re");
    while (procs != NULL && n < MAX_PROCESSES && fscanf(procs, "%d", &pid) == 1)
        pids[n++] = pid;
    if (procs != NULL)
        fclose(procs);
    snprintf(path, sizeof path, "%s/" STASIS_HALVES_FILE, dir);
    return halves_find(pids, n, path, ret, answer);
}

/* Into @dir, with what goes along; false, answered, when that went wrong. */
static bool dump(DumpTree *tree, const char *dir, uint64_t limit, int64_t end_ms, Answer *answer)
{
    static MqueueOptions queues;
    static Halves halves;
    static CriuLines lines;
    char programs[96], archive[96], file[96];
    snprintf(archive, sizeof archive, "%s/" TMPFS_ARCHIVE, dir);
    snprintf(file, sizeof file, "%s/" STASIS_MQUEUE_FILE, dir);
    if (!make_shell(dir, programs, sizeof programs)) {
        answer_error(answer, STASIS_AGENT_FAILED, errno, "make a program in %s", programs);
        return false;
    }
    if (!find_halves(tree, dir, &halves, answer) ||
        !mqueue_take(tree, file, limit, &queues, answer))
        return false;
    tree->programs = programs;
    tree->queues = &queues;
    tree->halves = &halves;
    lines_open(tree->group, &lines);
    if (dump_run_criu(tree, dir, end_ms) == 0 && criu_lines_mend_in(&lines, dir))
        return tmpfs_take(tree->group, archive, limit, answer);
    criu_complain("dump", dir, answer);
    return false;
}

void op_proc_dump(const Request *request, Answer *answer)
{
    static Trees trees;
    int64_t end_ms = now_ms() + request_timeout(request, DUMP_LIMIT_MS);
    uint64_t limit = request_number(request, STASIS_AGENT_TAG_LIMIT, UINT64_MAX);
    DumpTree *tree = &trees.tree;
    char dir[64];
    if (!read_roots(request, &trees) || !frozen_group(trees.group, sizeof trees.group) ||
        access(trees.group, F_OK) < 0) {
        answer_error(answer, STASIS_AGENT_STATE, 0, "proc-dump: nothing is frozen");
        return;
    }
    if (!dump_make_dir(dir, sizeof dir, UINT64_MAX)) {
        answer_error(answer, STASIS_AGENT_FAILED, errno, "make %s", dir);
        return;
    }
    tree->group = trees.group;
    tree->root = trees.n_roots == 1 ? trees.roots[0]
                                    : adopt(trees.group, trees.roots, trees.n_roots, answer);
    if (tree->root < 0)
        return;
    if (!send_processes(&trees, answer))
        answer_error(answer, STASIS_AGENT_FAILED, 0, "proc-dump: no process %d", (int)tree->root);
    else if (dump(tree, dir, limit, end_ms, answer) &&
             dump_send_files(tree, limit, dir,
                             request_number(request, STASIS_AGENT_TAG_IN_MEMORY, 0) != 0, answer))
        answer_end(answer);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A process image comes in, in pieces that the loop writes to files at once, is checked as a whole
 * in a worker, and restored by CRIU. One at a time: it lies in AGENT_DIR/restore until then, or
 * until the conversation ends in which it comes in. Where there is no room for it in memory that is
 * a link to a directory elsewhere.
 *
 * Once it has been asked for it is done, whatever becomes of the host, and from the end of those
 * that are replaced on of the agent, too: CRIU ended over it leaves half a tree, or nobody.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <nettle/sha2.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"

#define DIR_PATH AGENT_DIR "/restore"
#define ARCHIVE DIR_PATH "/" TMPFS_ARCHIVE
#define QUEUES DIR_PATH "/" STASIS_MQUEUE_FILE
#define HALVES DIR_PATH "/" STASIS_HALVES_FILE
#define PID_FILE DIR_PATH "/root.pid"
/* Locked by who restores, who may outlive the agent that it belongs to. */
#define LOCK_FILE AGENT_DIR "/restore.lock"
#define LIMIT_MS 600000
#define END_WAIT_MS 10000
#define MAX_FILES 16384u
#define MAX_PROCESSES 4096u
#define MAX_ENDED (2 * MAX_PROCESSES)

static char present[65]; /* token of what lies there */

/* ---- coming in ---- */

/* Has another process the lock? If not it is ours, until *ret_fd (−1 where there can be no such
 * file) is closed. */
static bool is_locked(int *ret_fd)
{
    mkdir(AGENT_DIR, 0700);
    *ret_fd = open(LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    return *ret_fd >= 0 && flock(*ret_fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

static bool complain_restoring(Answer *answer)
{
    answer_error(answer, STASIS_AGENT_STATE, 0,
                 "processes are being restored; try again when that has come to its end");
    return true;
}

/* For an earlier host, or by an earlier agent, maybe. True, answered. */
static bool is_restoring(Answer *answer)
{
    int fd = -1;
    bool is = worker_is_busy_with(STASIS_AGENT_OP_PROC_RESTORE) || is_locked(&fd);
    if (fd >= 0)
        close(fd);
    return is && complain_restoring(answer);
}

/* For an image of @size bytes; 0: an earlier host does not say. */
static bool make_dir(uint64_t size)
{
    char dir[64];
    criu_remove_dir(DIR_PATH);
    mkdir(AGENT_DIR, 0700);
    if (!dump_make_dir(dir, sizeof dir, size + size / 8)) /* CRIU's log, and a little more */
        return false;
    if (rename(dir, DIR_PATH) == 0 || symlink(dir, DIR_PATH) == 0)
        return true;
    int saved = errno;
    rmdir(dir);
    errno = saved;
    return false;
}

/* Make room for the image of @token; false, answered. */
static bool use_token(const Request *request, Answer *answer)
{
    char token[sizeof present];
    if (!request_text(request, STASIS_AGENT_TAG_TOKEN, token, sizeof token) || token[0] == '\0') {
        answer_error(answer, STASIS_AGENT_INVALID, 0, "proc-put: no token");
        return false;
    }
    if (is_restoring(answer))
        return false;
    if (strcmp(token, present) == 0)
        return true;
    if (!make_dir(request_number(request, STASIS_AGENT_TAG_SIZE, 0))) {
        answer_error(answer, STASIS_AGENT_FAILED, errno, "make " DIR_PATH);
        return false;
    }
    memcpy(present, token, sizeof present);
    return true;
}

void op_proc_put(const Request *request, Answer *answer)
{
    char name[80], path[256];
    struct stat st;
    StasisField field;
    uint64_t offset = request_number(request, STASIS_AGENT_TAG_OFFSET, 0);
    if (!request_text(request, STASIS_AGENT_TAG_PATH, name, sizeof name) ||
        !criu_file_name_is_valid(name) ||
        !stasis_field_find(request->fields, request->length, STASIS_AGENT_TAG_INPUT, &field)) {
        answer_error(answer, STASIS_AGENT_INVALID, 0, "proc-put: no name of a file, or no input");
        return;
    }
    if (!use_token(request, answer))
        return;
    snprintf(path, sizeof path, DIR_PATH "/%s", name);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool fits = fd >= 0 && fstat(fd, &st) == 0 && (uint64_t)st.st_size == offset;
    if (fd >= 0 && !fits)
        answer_error(answer, STASIS_AGENT_INVALID, 0, "proc-put: %s does not end there", name);
    else if (fd < 0 || !write_all(fd, field.value, field.length))
        answer_error(answer, STASIS_AGENT_FAILED, errno, "write %s", path);
    else
        answer_end(answer);
    if (fd >= 0)
        close(fd);
}

/* ---- is it all there? ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void add_file(struct sha256_ctx *all, int dir_fd, const char *name)
{
    static uint8_t bytes[AGENT_PART_BYTES];
    uint8_t digest[SHA256_DIGEST_SIZE];
    char line[256];
    uint64_t size = 0;
    struct sha256_ctx sha;
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    sha256_init(&sha);
    for (ssize_t n; fd >= 0 && (n = read(fd, bytes, sizeof bytes)) > 0; size += (uint64_t)n)
        sha256_update(&sha, (size_t)n, (const uint8_t *)bytes);
    if (fd >= 0)
        close(fd);
    sha256_digest(&sha, sizeof digest, digest);
    int len = snprintf(line, sizeof line, "%s %llu ", name, (unsigned long long)size);
    for (unsigned i = 0; i < SHA256_DIGEST_SIZE; i++)
        len += snprintf(line + len, sizeof line - (size_t)len, "%02x", digest[i]);
    line[len++] = '\n';
    sha256_update(all, (size_t)len, (const uint8_t *)line);
}

static bool is_whole(const Request *request)
{
    static char *names[MAX_FILES];
    unsigned n = 0;
    uint8_t digest[SHA256_DIGEST_SIZE];
    StasisField field;
    struct sha256_ctx all;
    DIR *dir = opendir(DIR_PATH);
    for (struct dirent *entry; dir != NULL && n < MAX_FILES && (entry = readdir(dir)) != NULL;)
        if (criu_file_name_is_valid(entry->d_name))
            names[n++] = strdup(entry->d_name);
    qsort(names, n, sizeof *names, by_name);
    sha256_init(&all);
    for (unsigned i = 0; i < n; i++)
        add_file(&all, dirfd(dir), names[i]);
    sha256_digest(&all, sizeof digest, digest);
    if (dir != NULL)
        closedir(dir);
    return stasis_field_find(request->fields, request->length, STASIS_AGENT_TAG_DIGEST, &field) &&
           field.length == sizeof digest && memcmp(field.value, digest, sizeof digest) == 0;
}

/* ---- whoever has its PIDs ---- */

typedef struct {
    pid_t pid;
    uint64_t start;
    char comm[16];
} Wanted;

typedef struct {
    int proc; /* /proc */
    Wanted wanted[MAX_PROCESSES];
    unsigned n_pids, n_starts, n_names;
} Tree;

static bool read_tree(const Request *request, Tree *tree)
{
    StasisField field;
    for (uint32_t at = 0; stasis_field_next(request->fields, request->length, &at, &field);) {
        if (field.tag == STASIS_AGENT_TAG_PID && tree->n_pids < MAX_PROCESSES)
            tree->wanted[tree->n_pids++].pid = (pid_t)stasis_field_to_number(&field);
        if (field.tag == STASIS_AGENT_TAG_START && tree->n_starts < MAX_PROCESSES)
            tree->wanted[tree->n_starts++].start = stasis_field_to_number(&field);
        if (field.tag == STASIS_AGENT_TAG_COMM && tree->n_names < MAX_PROCESSES) {
            size_t n = field.length < 15 ? field.length : 15;
            memcpy(tree->wanted[tree->n_names++].comm, field.value, n);
        }
    }
    return tree->n_pids > 0 && tree->n_pids == tree->n_starts && tree->n_pids == tree->n_names;
}

static bool is_same(const Wanted *a, const Process *b)
{
    return lineage_first(a->pid, a->start) == lineage_first(b->pid, b->start) &&
           strcmp(a->comm, b->comm) == 0;
}

/* False, answered, when one is there that may not be ended. Nobody is ended then. */
static bool check_pids(const Tree *tree, bool replace, Answer *answer)
{
    static Process there;
    for (unsigned i = 0; i < tree->n_pids; i++) {
        const Wanted *wanted = &tree->wanted[i];
        if (wanted->pid <= 1 || wanted->pid == getpid() || wanted->pid == getppid()) {
            answer_error(answer, STASIS_AGENT_INVALID, 0, "pid %d can't be restored", wanted->pid);
            return false;
        }
        if (!process_read(tree->proc, wanted->pid, &there) || (replace && is_same(wanted, &there)))
            continue;
        bool same = is_same(wanted, &there);
        answer_error(answer, STASIS_AGENT_STATE, 0,
                     same ? "pid %d (%s) of the image still runs; end it, or give --replace"
                          : "pid %d of the image is another process's here (%s); end that one, or "
                            "restore in another VM",
                     wanted->pid, there.comm);
        return false;
    }
    return true;
}

/* A session's processes have other IDs where it is restored: whoever has theirs is none of them,
 * unless it is the same VM and they still run. */
static void keep_same(Tree *tree)
{
    static Process there;
    unsigned n = 0;
    for (unsigned i = 0; i < tree->n_pids; i++)
        if (process_read(tree->proc, tree->wanted[i].pid, &there) &&
            is_same(&tree->wanted[i], &there))
            tree->wanted[n++] = tree->wanted[i];
    tree->n_pids = n;
}

/* Who is to end. */
typedef struct {
    int proc;
    unsigned n;
    struct {
        pid_t pid;
        uint64_t start;
    } of[MAX_ENDED];
} Ending;

/* From now on it starts nobody. */
static void stop(void *data, pid_t pid)
{
    static Process there;
    Ending *all = data;
    if (pid == getpid() || pid == getppid() || all->n == MAX_ENDED)
        return;
    for (unsigned i = 0; i < all->n; i++)
        if (all->of[i].pid == pid)
            return;
    if (!process_read(all->proc, pid, &there))
        return;
    kill(pid, SIGSTOP);
    all->of[all->n].pid = pid;
    all->of[all->n++].start = there.start;
}

/* The image's own must have left their PIDs; of what they had started a corpse may stay. */
static bool is_there(const Tree *tree, const Ending *all, Process *ret)
{
    for (unsigned i = 0; i < tree->n_pids; i++)
        if (process_read(tree->proc, tree->wanted[i].pid, ret))
            return true;
    for (unsigned i = 0; i < all->n; i++)
        if (process_read(all->proc, all->of[i].pid, ret) && ret->start == all->of[i].start &&
            ret->state != 'Z')
            return true;
    return false;
}

/* Those of the image, and whom they have started since: these have their ports, and write to their
 * files. All at once, so that no parent acts on its child's end; then wait until they are gone. */
static bool end_all(const Tree *tree, Answer *answer)
{
    static Process there;
    static Ending all;
    int64_t end_ms = now_ms() + END_WAIT_MS;
    all = (Ending){ .proc = tree->proc };
    for (unsigned i = 0; i < tree->n_pids; i++)
        stop(&all, tree->wanted[i].pid);
    for (unsigned i = 0; i < all.n; i++)
        process_each_child(all.of[i].pid, stop, &all);
    for (unsigned i = 0; i < all.n; i++)
        kill(all.of[i].pid, SIGKILL);
    for (; is_there(tree, &all, &there); poll(NULL, 0, 10)) {
        if (now_ms() < end_ms)
            continue;
        answer_error(
            answer, STASIS_AGENT_STATE, 0,
            there.state == 'Z'
                ? "pid %d was killed and is still there: its parent %d does not wait for it"
                : "pid %d was killed and is still there, below pid %d",
            there.pid, there.ppid);
        return false;
    }
    return true;
}

/* ---- restoring ---- */

/* They may be restored again, from this image or another one of theirs. */
static void note_starts(const Tree *tree)
{
    static Process there;
    for (unsigned i = 0; i < tree->n_pids; i++) {
        const Wanted *wanted = &tree->wanted[i];
        if (process_read(tree->proc, wanted->pid, &there))
            lineage_note(wanted->pid, there.start, lineage_first(wanted->pid, wanted->start));
    }
}

/* The root's, as this namespace sees it. */
static pid_t read_pid(pid_t otherwise)
{
    char line[32];
    read_line(PID_FILE, line, sizeof line);
    return atoi(line) > 0 ? atoi(line) : otherwise;
}

static MqueueMade queues;

static bool look_at_queues(bool replace, Answer *answer)
{
    if (mqueue_look(QUEUES, replace, &queues))
        return true;
    answer_error(answer, STASIS_AGENT_STATE, 0, "%s", queues.error);
    return false;
}

static bool make_queues(bool replace, Answer *answer)
{
    if (mqueue_make(QUEUES, replace, &queues))
        return true;
    answer_error(answer, STASIS_AGENT_FAILED, 0, "%s", queues.error);
    return false;
}

static bool restore(const Request *request, pid_t root, int64_t end_ms, Answer *answer)
{
    bool shell_job = request_number(request, STASIS_AGENT_TAG_SHELL_JOB, 0) != 0;
    static Halves halves;
    static int inherited[MQUEUE_MAX_KEYS + MAX_HALVES + 1];
    char *argv[16 + MQUEUE_MAX_WORDS + 2 * MAX_HALVES] = {
        "criu",
        "restore",
        "--images-dir",
        DIR_PATH,
        "--restore-detached",
        "--pidfile",
        PID_FILE,
        "--manage-cgroups=ignore",
        "--file-locks",
        "--link-remap",
        "--ext-unix-sk",
        "--tcp-established",
    };
    unsigned n = 12;
    if (!halves_make(HALVES, &halves, answer)) {
        mqueue_undo(&queues);
        return false;
    }
    if (shell_job)
        argv[n++] = "--shell-job";
    n = halves_append(&halves, "--inherit-fd", argv, n);
    mqueue_append(&queues, argv, n);
    memcpy(inherited, halves.fds, halves.n * sizeof *inherited);
    memcpy(inherited + halves.n, queues.fds, (queues.n_fds + 1) * sizeof *inherited);
    int status = criu_run(argv, NULL, inherited, DIR_PATH, end_ms);
    halves_close(&halves);
    if (status != 0) {
        criu_complain("restore", DIR_PATH, answer);
        mqueue_undo(&queues);
        return false;
    }
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_PID, (uint64_t)read_pid(root));
    return true;
}

/* Its answer is for nobody then. */
static void outlive_agent(void)
{
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, 0);
}

static void restore_all(const Request *request, Tree *tree, int64_t end_ms, Answer *answer)
{
    bool replace = request_number(request, STASIS_AGENT_TAG_REPLACE, 0) != 0;
    pid_t root = tree->wanted[0].pid;
    char version[64];
    bool session = request_number(request, STASIS_AGENT_TAG_SESSION, 0) != 0;
    if (session)
        keep_same(tree);
    else if (!check_pids(tree, replace, answer))
        return;
    /* All that can be known before anybody is ended. */
    if (!tmpfs_put(ARCHIVE, replace, true, answer) || !look_at_queues(replace, answer) ||
        (replace && !criu_is_there(DIR_PATH, version, answer)))
        return;
    outlive_agent();
    if ((!replace || end_all(tree, answer)) && tmpfs_put(ARCHIVE, replace, false, answer) &&
        make_queues(replace, answer) && restore(request, root, end_ms, answer)) {
        if (!session)
            note_starts(tree);
        answer_end(answer);
    } else if (!replace) {
        tmpfs_undo(ARCHIVE); /* it may be tried again */
    }
}

/* The last answer ends us at the next request, so it is given when all is done. */
static struct {
    uint16_t status;
    uint8_t flags;
} kept;

static bool keep_back(const Answer *answer, uint16_t status, uint8_t flags)
{
    kept.status = status;
    kept.flags = flags;
    return true;
}

static void restore_and_answer(const Request *request, Tree *tree, int64_t end_ms, Answer *answer)
{
    bool (*send)(const Answer *, uint16_t, uint8_t) = answer->send;
    answer->send = keep_back;
    restore_all(request, tree, end_ms, answer);
    answer->send = send;
    send(answer, kept.status, kept.flags);
}

void proc_restore_forget(void)
{
    if (present[0] == '\0' || worker_is_busy_with(STASIS_AGENT_OP_PROC_RESTORE))
        return;
    criu_remove_dir(DIR_PATH);
    present[0] = '\0';
}

bool op_proc_restore_before(const Request *request, Answer *answer)
{
    return !is_restoring(answer);
}

void op_proc_restore(const Request *request, Answer *answer)
{
    static Tree tree;
    tree.proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    char token[sizeof present];
    int64_t end_ms = now_ms() + request_timeout(request, LIMIT_MS);
    int lock_fd; /* held until we end */
    if (is_locked(&lock_fd)) {
        complain_restoring(answer);
        return;
    }
    if (!request_text(request, STASIS_AGENT_TAG_TOKEN, token, sizeof token) ||
        strcmp(token, present) != 0 || !read_tree(request, &tree))
        answer_error(answer, STASIS_AGENT_INVALID, 0, "proc-restore: no such image was put here");
    else if (!is_whole(request))
        answer_error(answer, STASIS_AGENT_FAILED, 0,
                     "the image is not as it was sent: its digest differs");
    else
        restore_and_answer(request, &tree, end_ms, answer);
    criu_remove_dir(DIR_PATH);
}

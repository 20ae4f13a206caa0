/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * In a fork of the VM: CRIU dumps a tree that is frozen, and its image goes to the host, file by
 * file, each with its digest. Nothing is cleaned up for the guest's sake: the fork is thrown away.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <nettle/sha2.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "agent.h"

#define MAX_FILES 16384u

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

bool dump_make_dir(char *dir, size_t size)
{
    static const char *const places[] = { "/run", "/var/tmp", "/tmp" };
    const char *best = places[0];
    uint64_t most = 0;
    for (unsigned i = 0; i < sizeof places / sizeof *places; i++) {
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

bool dump_put_process(const Process *process, Answer *answer)
{
    StasisFieldWriter *fields = &answer->fields;
    stasis_field_put_number(fields, STASIS_AGENT_TAG_PID, (uint64_t)process->pid);
    stasis_field_put_number(fields, STASIS_AGENT_TAG_PPID, (uint64_t)process->ppid);
    stasis_field_put_number(fields, STASIS_AGENT_TAG_START, process->start);
    stasis_field_put_text(fields, STASIS_AGENT_TAG_COMM, process->comm);
    return answer_part(answer);
}

/* Tell of each frozen process; *ret_shell_job: the session of @root has its leader elsewhere. */
static bool send_processes(const char *group, pid_t root, bool *ret_shell_job, Answer *answer)
{
    static Process process;
    char path[1200];
    int pid, proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    snprintf(path, sizeof path, "%s/cgroup.procs", group);
    FILE *procs = fopen(path, "re");
    bool ok = procs != NULL && process_read(proc, root, &process);
    *ret_shell_job = ok && process.sid != root;
    while (ok && fscanf(procs, "%d", &pid) == 1) {
        if (!process_read(proc, pid, &process))
            continue;
        ok = dump_put_process(&process, answer);
    }
    if (procs != NULL)
        fclose(procs);
    if (proc >= 0)
        close(proc);
    return ok;
}

/* ---- the files ---- */

typedef struct {
    uint64_t limit, n_files, bytes;
} Sending;

/* False when it has gone wrong, answered. */
static bool send_file(Sending *sending, int dir_fd, const char *name, Answer *answer)
{
    static uint8_t bytes[AGENT_PART_BYTES];
    uint8_t digest[SHA256_DIGEST_SIZE];
    struct stat st;
    struct sha256_ctx sha;
    ssize_t n = 0;
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    bool ok = fd >= 0 && fstat(fd, &st) == 0;
    if (ok && sending->limit - sending->bytes < (uint64_t)st.st_size) {
        answer_error(answer, STASIS_AGENT_FAILED, EFBIG, "the image");
        close(fd);
        return false;
    }
    sha256_init(&sha);
    if (ok) {
        stasis_field_put_text(&answer->fields, STASIS_AGENT_TAG_PATH, name);
        stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_SIZE, (uint64_t)st.st_size);
        ok = answer_part(answer);
    }
    while (ok && (n = read(fd, bytes, sizeof bytes)) > 0) {
        sha256_update(&sha, (size_t)n, (const uint8_t *)bytes);
        stasis_field_put(&answer->fields, STASIS_AGENT_TAG_OUTPUT, bytes, (uint32_t)n);
        ok = answer_part(answer);
    }
    if (!ok || n < 0)
        answer_error(answer, STASIS_AGENT_FAILED, errno, "read %s of the image", name);
    if (fd >= 0)
        close(fd);
    if (!ok || n < 0)
        return false;
    sha256_digest(&sha, sizeof digest, digest);
    stasis_field_put(&answer->fields, STASIS_AGENT_TAG_DIGEST, digest, sizeof digest);
    sending->n_files++;
    sending->bytes += (uint64_t)st.st_size;
    /* It is not needed any more, and may lie in memory. */
    unlinkat(dir_fd, name, 0);
    return answer_part(answer);
}

bool dump_send_files(uint64_t limit, const char *path, Answer *answer)
{
    Sending sending = { .limit = limit };
    DIR *dir = opendir(path);
    bool ok = dir != NULL;
    for (struct dirent *entry; ok && (entry = readdir(dir)) != NULL;)
        if (entry->d_type == DT_REG && criu_file_name_is_valid(entry->d_name) &&
            strcmp(entry->d_name, "stasis.log") != 0)
            ok = sending.n_files < MAX_FILES &&
                 send_file(&sending, dirfd(dir), entry->d_name, answer);
    if (dir != NULL)
        closedir(dir);
    if (!ok) {
        answer_error(answer, STASIS_AGENT_FAILED, 0, "the image could not be read");
        return false;
    }
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_N_FILES, sending.n_files);
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_SIZE, sending.bytes);
    return true;
}

/* ---- CRIU ---- */

int dump_run_criu(pid_t root, const char *group, const char *dir, bool shell_job, int64_t end_ms)
{
    char tree[16];
    snprintf(tree, sizeof tree, "%d", (int)root);
    /* Control groups are not part of it: where it is restored, it is in that of the agent. */
    char *argv[24] = { "criu",
                       "dump",
                       "--tree",
                       tree,
                       "--images-dir",
                       (char *)dir,
                       "--manage-cgroups=ignore",
                       "--leave-running",
                       "--file-locks",
                       "--link-remap",
                       "--ghost-limit",
                       "1G",
                       "--skip-in-flight",
                       "--ext-unix-sk" }; /* the log's, say: what is outside was cut by name */
    unsigned n = 14;
    if (group != NULL) {
        argv[n++] = "--freeze-cgroup";
        argv[n++] = (char *)group;
    }
    if (shell_job)
        argv[n++] = "--shell-job";
    return criu_run(argv, dir, end_ms);
}

void op_proc_dump(const Request *request, Answer *answer)
{
    int64_t end_ms = now_ms() + request_timeout(request, DUMP_LIMIT_MS);
    pid_t root = (pid_t)request_number(request, STASIS_AGENT_TAG_PID, 0);
    uint64_t limit = request_number(request, STASIS_AGENT_TAG_LIMIT, UINT64_MAX);
    char group[1100], dir[64];
    bool shell_job = false;
    if (root <= 1 || !frozen_group(group, sizeof group) || access(group, F_OK) < 0) {
        answer_error(answer, STASIS_AGENT_STATE, 0, "proc-dump: nothing is frozen");
        return;
    }
    if (!dump_make_dir(dir, sizeof dir)) {
        answer_error(answer, STASIS_AGENT_FAILED, errno, "make %s", dir);
        return;
    }
    if (!send_processes(group, root, &shell_job, answer)) {
        answer_error(answer, STASIS_AGENT_FAILED, 0, "proc-dump: no process %d", (int)root);
        return;
    }
    if (dump_run_criu(root, group, dir, shell_job, end_ms) != 0) {
        criu_complain("dump", dir, answer);
        return;
    }
    if (!dump_send_files(limit, dir, answer))
        return;
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_SHELL_JOB, shell_job);
    answer_end(answer);
}

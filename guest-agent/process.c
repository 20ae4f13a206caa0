/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What /proc tells of one process, for people: proc(5), and passwd(5) for its user's name. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"

#define PF_KTHREAD 0x00200000u /* linux/sched.h */

/* Text of a file below @dir, NUL-terminated; its length, -1 when it can't be read. */
static ssize_t read_at(int dir, const char *name, char *buffer, size_t size)
{
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    size_t used = 0;
    ssize_t n = -1;
    while (fd >= 0 && used < size - 1 &&
           ((n = read(fd, buffer + used, size - 1 - used)) > 0 || (n < 0 && errno == EINTR)))
        used += n > 0 ? (size_t)n : 0;
    if (fd >= 0)
        close(fd);
    buffer[used] = '\0';
    return fd < 0 || n < 0 ? -1 : (ssize_t)used;
}

/* The name may hold anything, also ") S 1": what counts is the last parenthesis. */
static bool parse_stat(char *text, Process *p)
{
    char *open = strchr(text, '('), *end = strrchr(text, ')');
    unsigned flags;
    unsigned long long start;
    long rss;
    if (open == NULL || end == NULL || end < open ||
        sscanf(end + 1,
               " %c %d %*d %d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %u %*d %llu %*u "
               "%ld",
               &p->state, &p->ppid, &p->sid, &flags, &p->n_threads, &start, &rss) != 7 ||
        (flags & PF_KTHREAD) != 0)
        return false;
    *end = '\0';
    snprintf(p->comm, sizeof p->comm, "%s", open + 1);
    p->start = start;
    p->rss_bytes = rss > 0 ? (uint64_t)rss * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
    return true;
}

/* The user's name, or its number. The last answer is remembered: neighbours are often of one. */
static void name_user(unsigned uid, char *name, size_t size)
{
    static unsigned known_uid = ~0u;
    static char known[33];
    if (uid != known_uid) {
        FILE *file = fopen("/etc/passwd", "re");
        snprintf(known, sizeof known, "%u", uid);
        for (struct passwd *entry; file != NULL && (entry = fgetpwent(file)) != NULL;)
            if (entry->pw_uid == uid) {
                snprintf(known, sizeof known, "%.32s", entry->pw_name);
                break;
            }
        if (file != NULL)
            fclose(file);
        known_uid = uid;
    }
    snprintf(name, size, "%s", known);
}

/* "0::/a/b", or "1:name=systemd:/a/b" where all others are of v1. */
static void parse_cgroup(char *text, Process *p)
{
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        const char *path = strncmp(line, "0::", 3) == 0 ? line + 3 : strstr(line, ":name=systemd:");
        if (path == NULL)
            continue;
        path = strchr(path, '/');
        snprintf(p->cgroup, sizeof p->cgroup, "%s", path != NULL ? path : "");
        if (path != NULL && path[1] != '\0')
            break;
    }
    static const char *const kinds[] = { ".service", ".scope", ".socket", ".mount", ".swap" };
    /* The last part that is a unit: a service may have made groups of its own below. */
    for (const char *at = p->cgroup; *at == '/';) {
        size_t len = strcspn(at + 1, "/");
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
            size_t n = strlen(kinds[i]);
            if (len > n && len < sizeof p->unit && strncmp(at + 1 + len - n, kinds[i], n) == 0)
                snprintf(p->unit, sizeof p->unit, "%.*s", (int)len, at + 1);
        }
        at += 1 + len;
    }
}

bool process_read(int proc, pid_t pid, Process *ret)
{
    char name[16], text[4096];
    snprintf(name, sizeof name, "%d", pid);
    *ret = (Process){ .pid = pid };
    int dir = openat(proc, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return false;
    bool good = read_at(dir, "stat", text, sizeof text) > 0 && parse_stat(text, ret);
    if (good && read_at(dir, "status", text, sizeof text) > 0) {
        const char *line = strstr(text, "\nUid:");
        unsigned uid;
        if (line != NULL && sscanf(line, "\nUid: %*u %u", &uid) == 1)
            name_user(uid, ret->user, sizeof ret->user);
    }
    if (good && read_at(dir, "cgroup", text, sizeof text) > 0)
        parse_cgroup(text, ret);
    ssize_t n = good ? read_at(dir, "cmdline", ret->command, sizeof ret->command) : 0;
    while (n > 0 && ret->command[n - 1] == '\0')
        n--;
    for (ssize_t i = 0; i < n; i++)
        if (ret->command[i] == '\0')
            ret->command[i] = ' ';
    close(dir);
    return good;
}

void process_put(StasisFieldWriter *record, const Process *p)
{
    const char state[2] = { p->state, '\0' };
    stasis_field_put_number(record, STASIS_AGENT_TAG_PID, (uint64_t)p->pid);
    stasis_field_put_number(record, STASIS_AGENT_TAG_PPID, (uint64_t)p->ppid);
    stasis_field_put_number(record, STASIS_AGENT_TAG_SID, (uint64_t)p->sid);
    stasis_field_put_number(record, STASIS_AGENT_TAG_START, p->start);
    stasis_field_put_text(record, STASIS_AGENT_TAG_STATE, state);
    stasis_field_put_number(record, STASIS_AGENT_TAG_THREADS, p->n_threads);
    stasis_field_put_number(record, STASIS_AGENT_TAG_RSS, p->rss_bytes);
    stasis_field_put_text(record, STASIS_AGENT_TAG_USER, p->user);
    stasis_field_put_text(record, STASIS_AGENT_TAG_UNIT, p->unit);
    stasis_field_put_text(record, STASIS_AGENT_TAG_CGROUP, p->cgroup);
    stasis_field_put_text(record, STASIS_AGENT_TAG_COMM, p->comm);
    stasis_field_put_text(record, STASIS_AGENT_TAG_COMMAND, p->command);
}

void process_each_child(pid_t pid, void (*each)(void *data, pid_t child), void *data)
{
    char path[64], file[400];
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        int child;
        snprintf(file, sizeof file, "%s/%s/children", path, entry->d_name);
        FILE *children = entry->d_name[0] != '.' ? fopen(file, "re") : NULL;
        while (children != NULL && fscanf(children, "%d", &child) == 1)
            each(data, child);
        if (children != NULL)
            fclose(children);
    }
    if (dir != NULL)
        closedir(dir);
}

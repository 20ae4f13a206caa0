/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * In a fork of the VM: freezing the processes that are to be dumped, before they have run a step
 * further than in the VM. So all of it but the waiting is done in the loop, which runs before them.
 * The group is told to freeze while it is empty; whoever is moved into it freezes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "coop.h"

#define GROUP "stasis-fork"
#define LIMIT_MS 10000
#define MAX_PROCESSES 4096u

/* A guest may have none mounted; this one is a fork, and nobody will notice. */
static bool mount_cgroup2(char *path, size_t size)
{
    snprintf(path, size, AGENT_DIR "/cgroup");
    mkdir(AGENT_DIR, 0700);
    mkdir(path, 0700);
    return mount("cgroup2", path, "cgroup2", 0, NULL) == 0;
}

bool frozen_group(char *path, size_t size)
{
    char root[1024];
    if (!cgroup_find_root(root, sizeof root) && !mount_cgroup2(root, sizeof root))
        return false;
    snprintf(path, size, "%s/" GROUP, root);
    return true;
}

static bool write_in(const char *group, const char *file, const char *text)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", group, file);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool written = fd >= 0 && write_all(fd, text, strlen(text));
    int saved = errno;
    if (fd >= 0)
        close(fd);
    errno = saved;
    return written;
}

typedef struct {
    const char *group;
    pid_t pids[MAX_PROCESSES];
    unsigned n;
    int error_number; /* of the first that could not be moved */
} Set;

static void add(void *data, pid_t pid)
{
    Set *set = data;
    for (unsigned i = 0; i < set->n; i++)
        if (set->pids[i] == pid)
            return;
    char text[16];
    snprintf(text, sizeof text, "%d", (int)pid);
    if (set->n == MAX_PROCESSES)
        set->error_number = E2BIG;
    else if (write_in(set->group, "cgroup.procs", text))
        set->pids[set->n++] = pid;
    else if (errno != ESRCH && set->error_number == 0) /* else it has ended */
        set->error_number = errno;
}

/* A parent is frozen, or about to be, when its children are looked for; one that it makes in its
 * last moment is in the group as it is. */
bool op_proc_freeze_before(const Request *request, Answer *answer)
{
    static Set set;
    char group[1100];
    StasisField field;
    if (!frozen_group(group, sizeof group)) {
        answer_error(answer, STASIS_AGENT_UNSUPPORTED, errno, "no cgroup2 in the guest's kernel");
        return false;
    }
    if ((mkdir(group, 0755) < 0 && errno != EEXIST) || !write_in(group, "cgroup.freeze", "1")) {
        answer_error(answer, STASIS_AGENT_FAILED, errno, "make control group %.200s", group);
        return false;
    }
    coop_stop();
    set.group = group;
    set.n = 0;
    set.error_number = 0;
    for (uint32_t at = 0; stasis_field_next(request->fields, request->length, &at, &field);)
        if (field.tag == STASIS_AGENT_TAG_PID && field.length == 8)
            add(&set, (pid_t)stasis_field_to_number(&field));
    for (unsigned i = 0; i < set.n; i++)
        process_each_child(set.pids[i], add, &set);
    if (set.error_number == 0 && set.n > 0)
        return true;
    answer_error(answer, STASIS_AGENT_FAILED, set.error_number != 0 ? set.error_number : ESRCH,
                 "move the processes into control group %.200s", group);
    return false;
}

void op_proc_freeze(const Request *request, Answer *answer)
{
    char group[1100], path[1200];
    uint64_t n = 0;
    int pid;
    if (!frozen_group(group, sizeof group))
        return;
    snprintf(path, sizeof path, "%s/cgroup.events", group);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool frozen = fd >= 0 && cgroup_wait_frozen(fd, now_ms() + request_timeout(request, LIMIT_MS));
    if (fd >= 0)
        close(fd);
    if (!frozen) {
        answer_error(answer, STASIS_AGENT_TIMEOUT, 0, "not all of the processes froze");
        return;
    }
    snprintf(path, sizeof path, "%s/cgroup.procs", group);
    FILE *procs = fopen(path, "re");
    while (procs != NULL && fscanf(procs, "%d", &pid) == 1)
        n++;
    if (procs != NULL)
        fclose(procs);
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_N_FROZEN, n);
    answer_end(answer);
}

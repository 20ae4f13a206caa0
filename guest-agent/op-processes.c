/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The list of processes. Not one moment: each is read by itself, as ps(1) does. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"

static int compare_pids(const void *a, const void *b)
{
    pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;
    return x < y ? -1 : x > y;
}

/* All process IDs, rising, in @pids; how many. */
static size_t list_pids(DIR *proc, pid_t *pids, size_t max)
{
    size_t n = 0;
    for (struct dirent *entry; n < max && (entry = readdir(proc)) != NULL;)
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9')
            pids[n++] = atoi(entry->d_name);
    qsort(pids, n, sizeof *pids, compare_pids);
    return n;
}

void op_processes(const Request *request, Answer *answer)
{
    /* Kernel threads among them, which are not told. */
    static pid_t pids[4 * STASIS_AGENT_MAX_PROCESSES];
    static uint8_t room[PROCESS_RECORD_BYTES];
    static Process process;
    DIR *proc = opendir("/proc");
    if (proc == NULL) {
        answer_error(answer, STASIS_AGENT_FAILED, errno, "processes: /proc");
        return;
    }
    size_t n = list_pids(proc, pids, sizeof pids / sizeof *pids), told = 0;
    for (size_t i = 0; i < n && told < STASIS_AGENT_MAX_PROCESSES; i++) {
        StasisFieldWriter record = { .payload = room, .room = sizeof room };
        if (pids[i] == getpid() || !process_read(dirfd(proc), pids[i], &process))
            continue;
        told++;
        process_put(&record, &process);
        if (!answer_record(answer, STASIS_AGENT_TAG_PROCESS, &record))
            break;
    }
    closedir(proc);
    answer_end(answer);
}

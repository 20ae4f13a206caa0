/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is restored is the image's own to whoever restores it again, and to the kernel a process
 * that has just started: its ID and name are the same, its start is not. So the agent writes down
 * which start stands for which, a line "PID START FIRST" for each process that it has restored;
 * FIRST is the start that the process had before it was restored for the first time. That lies in
 * AGENT_DIR, so it is true for this boot of this VM, as IDs and starts are.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"

#define PATH AGENT_DIR "/restored"
#define MAX_LINES 65536u

typedef struct {
    pid_t pid;
    uint64_t start, first;
} Line;

static struct {
    Line lines[MAX_LINES]; /* the newest last */
    unsigned n;
    bool loaded;
} known;

static void load(void)
{
    FILE *file = known.loaded ? NULL : fopen(PATH, "re");
    Line line;
    known.loaded = true;
    while (file != NULL &&
           fscanf(file, "%d %" SCNu64 " %" SCNu64, &line.pid, &line.start, &line.first) == 3) {
        if (known.n == MAX_LINES) { /* the older half, of images that nobody may have any more */
            known.n /= 2;
            memmove(known.lines, known.lines + known.n, known.n * sizeof *known.lines);
        }
        known.lines[known.n++] = line;
    }
    if (file != NULL)
        fclose(file);
}

uint64_t lineage_first(pid_t pid, uint64_t start)
{
    load();
    for (unsigned i = known.n; i-- > 0;)
        if (known.lines[i].pid == pid && known.lines[i].start == start)
            return known.lines[i].first;
    return start;
}

void lineage_note(pid_t pid, uint64_t start, uint64_t first)
{
    char text[80];
    int n = snprintf(text, sizeof text, "%d %" PRIu64 " %" PRIu64 "\n", pid, start, first);
    int fd = open(PATH, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    /* What is lost here has to be ended by hand before it can be replaced. */
    if (fd >= 0 && !write_all(fd, text, (size_t)n))
        say("write %s", PATH);
    if (fd >= 0)
        close(fd);
}

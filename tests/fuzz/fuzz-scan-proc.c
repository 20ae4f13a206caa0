/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Texts of /proc, in which names are what programs in the guest want them to be: stat, maps, and
 * fdinfo of an epoll with locks. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "graph/boundary.h"
#include "scan/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int drop(void *data, const char *text, size_t len)
{
    return 0;
}

static char dir_name[] = "/tmp/fuzz-scan-XXXXXX";

static void clean_up(void)
{
    char path[64];
    snprintf(path, sizeof path, "%s/maps", dir_name);
    unlink(path);
    rmdir(dir_name);
}

/* A directory with a file "maps" in it. */
static int write_maps(const char *text)
{
    static int dir = -1;
    if (dir < 0) {
        if (mkdtemp(dir_name) == NULL || (dir = open(dir_name, O_RDONLY | O_DIRECTORY)) < 0)
            abort();
        atexit(clean_up);
    }
    int fd = openat(dir, "maps", O_WRONLY | O_TRUNC | O_CREAT, 0600);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        abort();
    close(fd);
    return dir;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    StasisBoundary b = { .scan.arena.limit_bytes = 1 << 20,
                         .scan.limits = { .max_bytes = 1 << 20, .deadline_ns = UINT64_MAX } };
    StasisScan *scan = &b.scan;
    char *text = malloc(size + 1);
    memcpy(text, data, size);
    text[size] = '\0';

    StasisProcess *p = STASIS_PUSH(scan, &scan->processes);
    unsigned flags;
    *p = (StasisProcess){ .pid = 1, .live = getpid(), .cgroup = "", .comm = "" };
    stasis_parse_stat(scan, text, p, &flags);
    p->pid = 1;
    p->n_fds = 1;
    *STASIS_PUSH(scan, &scan->fds) = (StasisFd){ .carrier = -1,
                                                 .kcmp_pid = getpid(),
                                                 .kind = STASIS_FD_ANON,
                                                 .info = text,
                                                 .link = "anon_inode:[eventpoll]" };
    int dir = write_maps(text);
    stasis_collect_maps(scan, 0, dir);
    for (size_t i = 0; stasis_scanners[i] != NULL; i++)
        stasis_scanners[i]->scan(stasis_scanners[i], scan);

    bool member = true;
    int32_t via = -1;
    b.is_member = &member;
    b.via = &via;
    *STASIS_PUSH(scan, &b.members) = 0;
    b.n_roots = 1;
    b.is_neighbour = calloc(2, 1);
    b.place = calloc(scan->edges.n + 1, sizeof *b.place);
    for (size_t i = 0; i < scan->edges.n; i++)
        b.place[i] = STASIS_EDGE_INSIDE;
    stasis_boundary_write_json(&b, drop, NULL);
    free(b.is_neighbour);
    free(b.place);
    stasis_scan_clear(scan);
    free(text);
    return 0;
}

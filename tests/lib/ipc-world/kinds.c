/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Every kind of relation, and every kind of decoy, by groups; and what several groups need. */
#include "kinds.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const Kind *const groups[] = { channel_kinds, unix_kinds, inet_kinds, memory_kinds,
                                      ipc_kinds,     file_kinds, task_kinds };
#define N_GROUPS (sizeof groups / sizeof *groups)

int count_kinds(void)
{
    int n = 0;
    while (kind_at(n) != NULL)
        n++;
    return n;
}

const Kind *kind_at(int i)
{
    for (size_t g = 0; g < N_GROUPS; g++)
        for (const Kind *k = groups[g]; k->name != NULL; k++)
            if (i-- == 0)
                return k;
    return NULL;
}

const Kind *find_kind(const char *name)
{
    for (int i = 0; kind_at(i) != NULL; i++)
        if (strcmp(kind_at(i)->name, name) == 0)
            return kind_at(i);
    return NULL;
}

/* ---- for several groups ---- */

long check(long result, const char *what)
{
    if (result < 0)
        die(what);
    return result;
}

int open_file(Relation *r, const char *dir, int flags)
{
    snprintf(r->path, sizeof r->path, "%s/f%d", dir, r->index);
    int fd = (int)CHECK(open(r->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    CHECK(ftruncate(fd, PAGE));
    close(fd);
    return (int)CHECK(open(r->path, flags | O_CLOEXEC));
}

void map(Relation *r, int fd, size_t bytes, int prot, int flags)
{
    r->map = mmap(NULL, bytes, prot, flags, fd, 0);
    if (r->map == MAP_FAILED)
        die("mmap");
    r->map_bytes = bytes;
    r->map_keep = ALL;
}

void prepare_file(Relation *r)
{
    close(open_file(r, r->variant & 1 ? "/dev/shm" : DIR_W, O_RDWR));
}

void act_open_file(Relation *r, int role)
{
    own_fd((int)CHECK(open(r->path, O_RDWR)));
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory in common: anonymous, by descriptor, by file, of ordinary and of huge pages. */
#include "kinds.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <linux/futex.h>
#include <linux/mman.h>
#include <semaphore.h>
#include <stdio.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HUGE ((size_t)2 << 20)

static void prepare_anon(Relation *r)
{
    map(r, -1, PAGE, r->variant & 1 ? PROT_READ : PROT_READ | PROT_WRITE,
        MAP_SHARED | MAP_ANONYMOUS);
}
/* None of it is touched: the machine need not have any. */
static void prepare_huge(Relation *r)
{
    map(r, -1, HUGE, PROT_READ | PROT_WRITE,
        MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB | MAP_NORESERVE);
}
static void prepare_huge_memfd(Relation *r)
{
    int fd = (int)CHECK(memfd_create("huge", MFD_HUGETLB | MAP_HUGE_2MB));
    CHECK(ftruncate(fd, HUGE));
    keep_fd(r, fd, 1u);
    map(r, fd, HUGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE);
    r->map_keep = ALL & ~1u;
}
/* Role 1 waits for a word in common memory, as locks of threads libraries do. */
static void prepare_futex(Relation *r)
{
    map(r, -1, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
}
static void futex_forever(Relation *r)
{
    syscall(SYS_futex, r->map, FUTEX_WAIT, 0, NULL, NULL, 0);
}
static void act_futex(Relation *r, int role)
{
    if (role == 1)
        block_in(SYS_futex, futex_forever, r);
}
/* sem_overview(7): a file in /dev/shm. */
static void act_sem_open(Relation *r, int role)
{
    char name[32];
    snprintf(name, sizeof name, "/world%d", r->index);
    r->map = sem_open(name, O_CREAT, 0600, 0);
    if (r->map == SEM_FAILED)
        die("sem_open");
    r->map_bytes = PAGE; /* it begins one */
}
static void sem_wait_for_ever(Relation *r)
{
    sem_wait(r->map);
}
static void act_sem_wait(Relation *r, int role)
{
    if (role == 1 && (r->variant & 1))
        block_in(SYS_futex, sem_wait_for_ever, r);
}
static void prepare_memfd(Relation *r)
{
    int fd = (int)CHECK(memfd_create("world", MFD_ALLOW_SEALING));
    CHECK(ftruncate(fd, PAGE));
    keep_fd(r, fd, r->variant & 1 ? ALL : 1u);
    if (r->variant & 1)
        return;
    map(r, fd, PAGE, PROT_READ, MAP_SHARED); /* role 0 has the descriptor, the others the mapping */
    r->map_keep = ALL & ~1u;
}
static void prepare_sealed(Relation *r)
{
    int fd = (int)CHECK(memfd_create("sealed", MFD_ALLOW_SEALING));
    CHECK(ftruncate(fd, PAGE));
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW));
    keep_fd(r, fd, ALL);
}
static void act_shm_make(Relation *r, int role)
{
    /* Found by key; each namespace counts its IDs from 0. */
    if (role == 0)
        r->id = (int)CHECK(shmget(1000 + r->index, PAGE, IPC_CREAT | 0600));
}
static void act_shm_attach(Relation *r, int role)
{
    r->id = (int)CHECK(shmget(1000 + r->index, PAGE, 0600));
    r->map = shmat(r->id, NULL, role > 0 && (r->variant & 1) ? SHM_RDONLY : 0);
    if (r->map == (void *)-1)
        die("shmat");
    r->map_bytes = PAGE;
    r->map_keep = ALL;
}
static void act_map_file(Relation *r, int role)
{
    int fd = (int)CHECK(open(r->path, O_RDWR));
    map(r, fd, PAGE, role == 0 ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED);
    close(fd);
}
static void act_map_read(Relation *r, int role)
{
    int fd = (int)CHECK(open(r->path, O_RDONLY));
    map(r, fd, PAGE, PROT_READ, MAP_SHARED);
    close(fd);
}
static void act_map_private(Relation *r, int role)
{
    int fd = (int)CHECK(open(r->path, O_RDWR));
    map(r, fd, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    close(fd);
}
static void act_open_ghost(Relation *r, int role)
{
    own_fd(
        (int)CHECK(open(r->path, role == 0 && !(r->kind->flags & KIND_DECOY) ? O_RDWR : O_RDONLY)));
}
static void act_unlink(Relation *r, int role)
{
    if (role == 0)
        CHECK(unlink(r->path));
}

const Kind memory_kinds[] = {
    R("anon-shm", "anon-shm", 2, 4, 0, .prepare = prepare_anon),
    R("memfd", "memfd", 2, 4, 0, .prepare = prepare_memfd),
    R("huge", "anon-shm", 2, 3, 0, .prepare = prepare_huge),
    R("huge-memfd", "memfd", 2, 3, 0, .prepare = prepare_huge_memfd),
    R("futex", "anon-shm", 2, 3, KIND_BLOCKS, .prepare = prepare_futex, .act = { act_futex }),
    R("posix-sem", "mapped-file", 2, 3, KIND_BLOCKS, .act = { act_sem_open, act_sem_wait }),
    R("sysv-shm", "sysv-shm", 2, 3, KIND_IPC, .act = { act_shm_make, act_shm_attach }),
    R("mapped-file", "mapped-file", 2, 4, 0, .prepare = prepare_file, .act = { act_map_file }),
    R("ghost", "ghost", 2, 3, 0, .prepare = prepare_file, .act = { act_open_ghost, act_unlink }),

    R("no-shm", NULL, 1, 1, KIND_DECOY | KIND_ODD_IPC, .act = { act_shm_make, act_shm_attach }),
    R("no-map-read", NULL, 2, 3, KIND_DECOY, .prepare = prepare_file, .act = { act_map_read }),
    R("no-map-private", NULL, 2, 3, KIND_DECOY, .prepare = prepare_file,
      .act = { act_map_private }),
    R("no-memfd", NULL, 2, 3, KIND_DECOY | KIND_BORROWS, .prepare = prepare_sealed),
    R("no-ghost", NULL, 2, 3, KIND_DECOY, .prepare = prepare_file,
      .act = { act_open_ghost, act_unlink }),
    { 0 },
};

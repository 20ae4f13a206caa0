/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory, and pipes. */
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "criu-cases.h"

static int memory_file(void)
{
    return memfd_create("case", 0);
}

static int memory_sealed(void)
{
    int fd = memfd_create("case", MFD_ALLOW_SEALING);
    return fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SEAL) == 0 ? fd : -1;
}

static int memory_huge(void)
{
    return memfd_create("case", MFD_HUGETLB);
}

static int memory_secret(void)
{
    int fd = (int)syscall(SYS_memfd_secret, 0);
    return fd >= 0 && ftruncate(fd, 4096) == 0 ? fd : -1;
}

static int map_huge(void)
{
    FILE *file = fopen("/proc/sys/vm/nr_hugepages", "we");
    if (file == NULL || fputs("2\n", file) < 0 || fclose(file) != 0)
        return -1;
    char *at = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB,
                    -1, 0);
    return at != MAP_FAILED ? (at[0] = 1) : -1;
}

static int map_locked(void)
{
    return mlockall(MCL_CURRENT | MCL_FUTURE);
}

static int sysv_memory(void)
{
    return shmat(shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600), NULL, 0) != (void *)-1 ? 0 : -1;
}

static int aio(void)
{
    aio_context_t context = 0;
    return (int)syscall(SYS_io_setup, 4, &context);
}

/* ---- pipes ---- */

static int pipe_with(int flags)
{
    int ends[2];
    return pipe2(ends, flags) == 0 && write(ends[1], "x", 1) == 1 ? ends[0] : -1;
}

static int pipe_full(void)
{
    return pipe_with(0);
}

static int pipe_packets(void)
{
    return pipe_with(O_DIRECT);
}

static int fifo(void)
{
    mkfifo("/tmp/case-fifo", 0600);
    return open("/tmp/case-fifo", O_RDWR);
}

const Case cases_memory[] = {
    CASE(memory_file), CASE(memory_sealed), CASE(memory_huge), CASE(memory_secret),
    CASE(map_huge),    CASE(map_locked),    CASE(sysv_memory), CASE(aio),
    CASE(pipe_full),   CASE(pipe_packets),  CASE(fifo),        { NULL },
};

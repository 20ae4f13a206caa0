/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Devices, open and mapped. */
#include <fcntl.h>
#include <pty.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <unistd.h>

#include "criu-cases.h"

static int device(const char *path, int flags)
{
    return open(path, flags | O_NONBLOCK | O_NOCTTY);
}

static int dev_zero(void)
{
    return device("/dev/zero", O_RDWR);
}

static int dev_urandom(void)
{
    return device("/dev/urandom", O_RDONLY);
}

static int dev_kmsg(void)
{
    return device("/dev/kmsg", O_WRONLY);
}

static int dev_kmsg_read(void)
{
    char line[8192];
    int fd = device("/dev/kmsg", O_RDONLY);
    return read(fd, line, sizeof line) > 0 ? fd : -1;
}

static int dev_mem(void)
{
    return device("/dev/mem", O_RDONLY);
}

static int dev_port(void)
{
    return device("/dev/port", O_RDONLY);
}

static int dev_serial(void)
{
    return device("/dev/ttyS0", O_RDWR);
}

static int dev_console(void)
{
    return device("/dev/console", O_RDWR);
}

static int dev_vt(void)
{
    return device("/dev/tty1", O_RDWR);
}

static int dev_disk(void)
{
    return device("/dev/vda", O_RDONLY);
}

static int dev_latency(void)
{
    return device("/dev/cpu_dma_latency", O_RDWR);
}

static int dev_fuse(void)
{
    return device("/dev/fuse", O_RDWR);
}

static int dev_tun(void)
{
    return device("/dev/net/tun", O_RDWR);
}

static int dev_autofs(void)
{
    return device("/dev/autofs", O_RDONLY);
}

static int dev_hpet(void)
{
    return device("/dev/hpet", O_RDONLY);
}

static int pty_pair(void)
{
    int master, slave;
    return openpty(&master, &slave, NULL, NULL, NULL) == 0 ? master : -1;
}

static int map_zero(void)
{
    int fd = dev_zero();
    bool good = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED;
    close(fd);
    return good ? 0 : -1;
}

static int map_mem(void)
{
    int fd = dev_mem();
    bool good = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0xf0000) != MAP_FAILED;
    close(fd);
    return good ? 0 : -1;
}

const Case cases_devices[] = {
    CASE(dev_zero), CASE(dev_urandom), CASE(dev_kmsg),    CASE(dev_kmsg_read),
    CASE(dev_mem),  CASE(dev_port),    CASE(dev_serial),  CASE(dev_console),
    CASE(dev_vt),   CASE(dev_disk),    CASE(dev_latency), CASE(dev_fuse),
    CASE(dev_tun),  CASE(dev_autofs),  CASE(dev_hpet),    CASE(pty_pair),
    CASE(map_zero), CASE(map_mem),     { NULL },
};

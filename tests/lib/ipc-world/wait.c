/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Processes of the world wait for each other by files: any other channel would be a relation. */
#include "world.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void die(const char *what)
{
    int error = errno;
    fprintf(stderr, "# ipc-world: process %d: %s: %s\n", world.me, what, strerror(error));
    int fd = open(DIR_W "/dead", O_WRONLY | O_CREAT | O_APPEND, 0600);
    dprintf(fd, "process %d: %s: %s\n", world.me, what, strerror(error));
    _exit(error == ENOSYS || error == EAFNOSUPPORT || error == ENOENT ? 3 : 2);
}

void touch(const char *prefix, int index, long number)
{
    char path[64], text[64], pid[16] = "";
    ssize_t n = readlink("/proc/self", pid, sizeof pid - 1); /* as the world's init sees it */
    pid[n < 0 ? 0 : n] = '\0';
    snprintf(path, sizeof path, DIR_W "/%s%d.new", prefix, index);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    int len = snprintf(text, sizeof text, "%s %ld\n", pid, number);
    if (fd < 0 || write(fd, text, (size_t)len) != len)
        _exit(2);
    close(fd);
    char done[64];
    snprintf(done, sizeof done, DIR_W "/%s%d", prefix, index);
    rename(path, done);
}

static void give_up(void)
{
    char text[512] = "";
    int fd = open(DIR_W "/dead", O_RDONLY);
    if (fd < 0 || read(fd, text, sizeof text - 1) < 0)
        exit(2);
    printf("# %s", text);
    fflush(stdout);
    /* What this kernel does not have. */
    exit(strstr(text, "not implemented") != NULL || strstr(text, "not supported") != NULL ? 3 : 2);
}

void await(const char *prefix, int index, pid_t *ret_pid, long *ret_number)
{
    char path[64], text[64] = "";
    snprintf(path, sizeof path, DIR_W "/%s%d", prefix, index);
    int fd;
    while ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0) {
        if (world.me < 0 && access(DIR_W "/dead", F_OK) == 0)
            give_up();
        usleep(300);
    }
    if (read(fd, text, sizeof text - 1) < 0)
        die("read");
    close(fd);
    int pid = 0;
    long number = 0;
    sscanf(text, "%d %ld", &pid, &number);
    if (ret_pid != NULL)
        *ret_pid = pid;
    if (ret_number != NULL)
        *ret_number = number;
}

pid_t pid_of(int actor)
{
    pid_t pid;
    await("step0.", actor, &pid, NULL);
    return pid;
}

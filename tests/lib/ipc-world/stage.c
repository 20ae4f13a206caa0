/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where a world is made: namespaces and mounts of its own; and until all are in their places. */
#include "world.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

int ipc_fds[2], net_fds[2];

static void bring_up_loopback(void)
{
    struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    if (s < 0 || ioctl(s, SIOCSIFFLAGS, &lo) < 0)
        die("bring up lo");
    close(s);
}

static void mount_own(void)
{
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("proc", "/proc", "proc", 0, NULL) < 0 ||
        mount("tmpfs", "/mnt", "tmpfs", 0, NULL) < 0 || mkdir(DIR_W, 0700) < 0 ||
        mkdir(DIR_W "/pts", 0700) < 0 ||
        mount("devpts", DIR_W "/pts", "devpts", 0, "ptmxmode=0666") < 0 ||
        mount("devpts", "/dev/pts", "devpts", 0, "ptmxmode=0666") < 0 ||
        mount("tmpfs", "/dev/shm", "tmpfs", 0, NULL) < 0 ||
        (mkdir("/run", 0755) < 0 && errno != EEXIST) ||
        mount("tmpfs", "/run", "tmpfs", 0, NULL) < 0)
        die("set up");
}

static int open_ns(const char *name)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/ns/%s", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        die(path);
    return fd;
}

/* Two IPC namespaces that the world's init is not in; its network namespace, and another one. */
static void make_namespaces(void)
{
    int home = open_ns("ipc");
    for (int i = 0; i < 2; i++) {
        if (unshare(CLONE_NEWIPC) < 0)
            die("unshare ipc");
        ipc_fds[i] = open_ns("ipc");
    }
    if (setns(home, CLONE_NEWIPC) < 0)
        die("setns ipc");
    close(home);
    bring_up_loopback();
    net_fds[0] = open_ns("net");
    if (unshare(CLONE_NEWNET) < 0)
        die("unshare net");
    bring_up_loopback();
    net_fds[1] = open_ns("net");
    if (setns(net_fds[0], CLONE_NEWNET) < 0)
        die("setns net");
}

static void settle(void)
{
    for (int step = 0; step < N_STEPS; step++) {
        char name[16];
        snprintf(name, sizeof name, "step%d.", step);
        for (int i = 0; i < world.n_plain; i++)
            await(name, i, NULL, NULL);
        snprintf(name, sizeof name, "go%d.", step);
        touch(name, 0, 0);
    }
    for (int i = 0; i < world.n_actors; i++) {
        long number, now = -1;
        await("final", i, &world.actors[i].pid, &number);
        /* Until it really is in its last system call. */
        for (int tries = 0; number >= 0 && now != number && tries < 20000; tries++) {
            char path[64], text[256] = "";
            snprintf(path, sizeof path, "/proc/%d/syscall", world.actors[i].pid);
            int fd = open(path, O_RDONLY);
            if (read(fd, text, sizeof text - 1) > 0 && text[0] != 'r')
                now = atol(text);
            close(fd);
            if (now != number)
                usleep(300);
        }
        for (int tries = 0; number < 0 && tries < 20000; tries++) {
            char path[64], text[512] = "";
            snprintf(path, sizeof path, "/proc/%d/stat", world.actors[i].pid);
            int fd = open(path, O_RDONLY);
            ssize_t n = read(fd, text, sizeof text - 1);
            close(fd);
            if (n > 0 && strstr(text, ") Z ") != NULL)
                break;
            usleep(300);
        }
    }
}

void make_world(const char *only)
{
    mount_own();
    make_namespaces();
    plan(only);
    for (int i = 0; i < world.n_relations; i++)
        if (world.relations[i].kind->prepare != NULL)
            world.relations[i].kind->prepare(&world.relations[i]);
    spawn_children(-1);
    drop_what_is_not_mine(-1);
    settle();
}

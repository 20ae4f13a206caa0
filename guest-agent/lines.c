/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A line that is being typed at a terminal: whoever reads gets it when it is finished, and CRIU,
 * which reads what waits in a pseudo-terminal, does not get it at all. In a fork of the VM, where
 * all who read there are frozen, the terminal is made one without lines (ICANON, termios(3)): then
 * what was typed can be read. In the image it has lines again (criu-lines.c).
 */
#include <dirent.h>
#include <fcntl.h>
#include <linux/major.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

#include "agent.h"
#include "criu-image.h"

/* Of its majors the kernel uses the first alone: its minors are enough. */
#define SLAVES UNIX98_PTY_SLAVE_MAJOR

static void open_line(const char *path, unsigned index, CriuLines *lines)
{
    struct termios settings;
    int fd = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) /* its other end has gone */
        return;
    if (tcgetattr(fd, &settings) == 0 && (settings.c_lflag & ICANON) != 0) {
        settings.c_lflag &= ~(tcflag_t)ICANON;
        if (tcsetattr(fd, TCSANOW, &settings) == 0)
            lines->index[lines->n++] = index;
    }
    close(fd);
}

static void open_lines_of(int pid, CriuLines *lines)
{
    char path[320];
    struct stat st;
    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *fds = opendir(path);
    for (struct dirent *entry; fds != NULL && (entry = readdir(fds)) != NULL;) {
        snprintf(path, sizeof path, "/proc/%d/fd/%s", pid, entry->d_name);
        if (lines->n < CRIU_MAX_LINES && stat(path, &st) == 0 && S_ISCHR(st.st_mode) &&
            major(st.st_rdev) == SLAVES)
            open_line(path, minor(st.st_rdev), lines);
    }
    if (fds != NULL)
        closedir(fds);
}

void lines_open(const char *group, CriuLines *ret)
{
    char path[1200];
    int pid;
    ret->n = 0;
    snprintf(path, sizeof path, "%s/cgroup.procs", group);
    FILE *procs = fopen(path, "re");
    while (procs != NULL && fscanf(procs, "%d", &pid) == 1)
        open_lines_of(pid, ret);
    if (procs != NULL)
        fclose(procs);
}

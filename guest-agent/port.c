/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finding the port. Where udev runs there is a link in /dev/virtio-ports; where it does not (an
 * initramfs, a small container image) sysfs has the port's name and its device node's.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"

#define CLASS_DIR "/sys/class/virtio-ports"

static bool find_port(char *path, size_t size)
{
    DIR *dir = opendir(CLASS_DIR);
    bool found = false;
    if (dir == NULL)
        return false;
    for (struct dirent *entry; !found && (entry = readdir(dir)) != NULL;) {
        char file[512], name[128];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(file, sizeof file, CLASS_DIR "/%s/name", entry->d_name);
        read_line(file, name, sizeof name);
        found = strcmp(name, STASIS_AGENT_PORT) == 0;
        if (found)
            snprintf(path, size, "/dev/%s", entry->d_name);
    }
    closedir(dir);
    return found;
}

int port_open(const char *path)
{
    char found[512];
    if (path == NULL && !find_port(found, sizeof found))
        return -1;
    int fd = open(path != NULL ? path : found, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return -1;
    /* The driver tells of a host that connects by SIGIO; poll(2) can't be asked for that. */
    fcntl(fd, F_SETOWN, getpid());
    fcntl(fd, F_SETFL, O_NONBLOCK | O_ASYNC);
    return fd;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finding the port. Where udev runs there is a link in /dev/virtio-ports; where it does not (an
 * initramfs, a small container image) sysfs has the port's name and its device node's. A serial
 * port may take its place: the host names it in the kernel's command line, since a machine that is
 * recorded (QEMU's record/replay) can have no virtio-serial port.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
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

/* The value of a word "NAME=value" in the kernel's command line; false when there is none. */
static bool find_word(const char *name, char *value, size_t size)
{
    char line[4096];
    size_t n = strlen(name);
    read_line("/proc/cmdline", line, sizeof line);
    for (char *rest = line, *one; (one = strtok_r(rest, " ", &rest)) != NULL;)
        if (strncmp(one, name, n) == 0 && one[n] == '=') {
            snprintf(value, size, "%s", one + n + 1);
            return true;
        }
    return false;
}

size_t port_first_words(uint8_t *buffer, size_t size)
{
    char hex[4096];
    size_t n = 0;
    if (!find_word("stasis.says", hex, sizeof hex))
        return 0;
    for (unsigned byte; n < size && sscanf(hex + 2 * n, "%2x", &byte) == 1; n++)
        buffer[n] = (uint8_t)byte;
    return n;
}

/* Bytes as they are, with nothing added or sent back. */
static void make_raw(int fd)
{
    struct termios terminal;
    if (tcgetattr(fd, &terminal) < 0)
        return;
    cfmakeraw(&terminal);
    cfsetspeed(&terminal, B115200);
    terminal.c_cflag |= CLOCAL | CREAD;
    /* Then a read without data fails with EAGAIN, and doesn't look like a host that has gone. */
    terminal.c_cc[VMIN] = 1;
    terminal.c_cc[VTIME] = 0;
    tcsetattr(fd, TCSANOW, &terminal);
}

int port_open(const char *path)
{
    char found[512];
    if (path == NULL && !find_port(found, sizeof found) &&
        !find_word("stasis.port", found, sizeof found))
        return -1;
    int fd = open(path != NULL ? path : found, O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    make_raw(fd);
    /* The driver tells of a host that connects by SIGIO; poll(2) can't be asked for that. */
    fcntl(fd, F_SETOWN, getpid());
    fcntl(fd, F_SETFL, O_NONBLOCK | O_ASYNC);
    return fd;
}

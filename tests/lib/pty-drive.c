/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A person at a terminal: pty-drive KEYS SCREEN CMD… runs CMD on a terminal of 24 by 80, types what
 * is written to the FIFO KEYS, appends what CMD shows to the file SCREEN, and at CMD's end "EXIT
 * n". */
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct winsize size = { .ws_row = 24, .ws_col = 80 };
    char bytes[4096];
    int master, status;
    if (argc < 4)
        return 2;
    mkfifo(argv[1], 0600);
    int keys = open(argv[1], O_RDWR | O_CLOEXEC);
    int screen = open(argv[2], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    pid_t pid = forkpty(&master, NULL, NULL, &size);
    if (pid == 0) {
        execvp(argv[3], argv + 3);
        _exit(127);
    }
    for (;;) {
        struct pollfd fds[2] = { { .fd = keys, .events = POLLIN },
                                 { .fd = master, .events = POLLIN } };
        poll(fds, 2, -1);
        ssize_t n = (fds[0].revents & POLLIN) != 0 ? read(keys, bytes, sizeof bytes) : 0;
        if (n > 0 && write(master, bytes, (size_t)n) != n)
            break;
        n = fds[1].revents != 0 ? read(master, bytes, sizeof bytes) : 1;
        if (n <= 0 || (fds[1].revents != 0 && write(screen, bytes, (size_t)n) != n))
            break;
    }
    waitpid(pid, &status, 0);
    dprintf(screen, "\nEXIT %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    return 0;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The master of a session's terminal is held by a process of the session, its keeper, which is in
 * every image of it, so both ends of the terminal are. Whoever sits in front of it borrows the
 * master (pidfd_getfd(2)) and gives it back before an image is taken: then nothing leads out of the
 * session. While nobody has it, what the command writes waits in the terminal.
 *
 * Why not the first process: to CRIU, /dev/tty, which a shell has open, belongs to the process
 * whose terminal with that session it met first, and that has to be the shell. It meets a parent
 * before its children and these in the order of their birth, so the keeper is born behind the
 * command.
 *
 * CRIU makes a terminal with the number again that it had, by opening others until it comes up, 32
 * at most. So the number is a small one, but not one of the first, which others have.
 */
#include "session/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#define TERMINAL_FD 10 /* where the keeper has the master */
#define KEEPER "session-keeper"
#define FIRST_NUMBER 6
#define N_NUMBERS 20

/* ---- in the session ---- */

/* A master with a number of @least or more. */
static int open_master(int least)
{
    int passed[FIRST_NUMBER + N_NUMBERS], n = 0, fd, number = -1;
    while ((fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC)) >= 0 &&
           ioctl(fd, TIOCGPTN, &number) == 0 && number < least && n < FIRST_NUMBER + N_NUMBERS)
        passed[n++] = fd;
    int saved = errno;
    while (n > 0)
        close(passed[--n]);
    errno = saved;
    return fd;
}

int terminal_make(void)
{
    struct winsize size;
    struct termios settings;
    char path[64];
    int unlocked = 0, number;
    int master = open_master(FIRST_NUMBER + (int)(getppid() % N_NUMBERS));
    /* Before anything else may get that number. */
    if (master < 0 || (master != TERMINAL_FD && dup3(master, TERMINAL_FD, O_CLOEXEC) < 0))
        return -1;
    if (master != TERMINAL_FD)
        close(master);
    if (ioctl(TERMINAL_FD, TIOCSPTLCK, &unlocked) < 0 || ioctl(TERMINAL_FD, TIOCGPTN, &number) < 0)
        return -1;
    snprintf(path, sizeof path, "/dev/pts/%d", number);
    int slave = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0)
        return -1;
    if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0)
        ioctl(slave, TIOCSWINSZ, &size);
    if (tcgetattr(STDIN_FILENO, &settings) == 0)
        tcsetattr(slave, TCSANOW, &settings);
    return slave;
}

bool terminal_enter(int slave)
{
    if (setsid() < 0 || ioctl(slave, TIOCSCTTY, 0) < 0)
        return false;
    for (int fd = 0; fd < 3; fd++)
        dup2(slave, fd);
    return true;
}

/* Until the last one has closed the other end: then nobody can open it any more. */
static void __attribute__((noreturn)) be_keeper(void)
{
    static const int not_ours[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2 };
    struct pollfd poll_fd = { .fd = TERMINAL_FD };
    for (size_t i = 0; i < sizeof not_ours / sizeof *not_ours; i++)
        signal(not_ours[i], SIG_IGN);
    prctl(PR_SET_NAME, KEEPER);
    /* Last, since who waits for that takes us for ready. */
    close_range(TERMINAL_FD + 1, ~0u, 0);
    close_range(0, TERMINAL_FD - 1, 0);
    while ((poll_fd.revents & (POLLHUP | POLLERR | POLLNVAL)) == 0)
        poll(&poll_fd, 1, -1);
    _exit(0);
}

bool terminal_keep(void)
{
    pid_t pid = fork();
    if (pid == 0)
        be_keeper();
    close(TERMINAL_FD);
    return pid > 0;
}

/* ---- in front of it ---- */

static volatile sig_atomic_t resized;

static void note_size(int number)
{
    (void)number;
    resized = 1;
}

bool terminal_is_present(void)
{
    return isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
}

int terminal_parse_key(const char *text)
{
    if (strcmp(text, "none") == 0)
        return -1;
    if (text[0] == '^' && text[1] >= '?' && text[1] <= 'z' && text[2] == '\0')
        return text[1] == '?' ? 127 : text[1] & 31;
    return text[0] != '\0' && text[1] == '\0' ? (unsigned char)text[0] : -2;
}

static bool write_all(int fd, const uint8_t *bytes, size_t n)
{
    while (n > 0) {
        ssize_t part = write(fd, bytes, n);
        if (part < 0 && errno == EINTR)
            continue;
        if (part <= 0)
            return false;
        bytes += part;
        n -= (size_t)part;
    }
    return true;
}

static void pass_size(int master)
{
    struct winsize size;
    resized = 0;
    if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0)
        ioctl(master, TIOCSWINSZ, &size);
}

/*
 * Another size and the right one: whoever draws on it draws anew, also where it has not changed.
 *
 * The first is the larger one. A program may get both while it is at work in its handler of the
 * first: busybox vi asks for the size there, makes a screen of that size, asks again and draws as
 * much. Of a screen that has become smaller nothing is written past its end. One row more, as a
 * cursor that is sent below the last one stops there, while a column more would be a line more.
 */
static void have_drawn(int master)
{
    struct winsize size = { 0 };
    ioctl(STDIN_FILENO, TIOCGWINSZ, &size);
    /* Where it is not known programs take it for one of 24 by 80. */
    size.ws_row = size.ws_row == 0 ? 25 : (unsigned short)(size.ws_row + 1);
    size.ws_col = size.ws_col == 0 ? 80 : size.ws_col;
    ioctl(master, TIOCSWINSZ, &size);
    pass_size(master);
}

/* The first of @n keys that is ours; @n: none is. */
static size_t find_key(const uint8_t *bytes, size_t n, const TerminalKeys *keys)
{
    size_t i = 0;
    while (i < n && bytes[i] != keys->save && bytes[i] != keys->save_end)
        i++;
    return i;
}

/* What is typed, on its way to the master. */
typedef struct {
    uint8_t bytes[1024];
    size_t at, n;        /* those that are still to be written */
    TerminalEvent event; /* of the key of ours that ended them; TERMINAL_ENDED: there was none */
} Typed;

/* A key of ours is the last that is read: what was typed behind it is dropped. */
static bool take_input(Typed *typed, const TerminalKeys *keys)
{
    ssize_t n = read(STDIN_FILENO, typed->bytes, sizeof typed->bytes);
    if (n <= 0)
        return n < 0 && (errno == EINTR || errno == EAGAIN);
    typed->at = 0;
    typed->n = find_key(typed->bytes, (size_t)n, keys);
    if (typed->n < (size_t)n)
        typed->event = typed->bytes[typed->n] == keys->save ? TERMINAL_SAVE : TERMINAL_SAVE_END;
    return true;
}

/* So many are taken at once by a master that is ready for any (pty_write() of Linux' pty.c): who
 * waited there would not read what the program writes, which may wait for that itself. */
#define AT_ONCE 256

static bool pass_input(int master, Typed *typed)
{
    size_t left = typed->n - typed->at;
    ssize_t n = write(master, typed->bytes + typed->at, left < AT_ONCE ? left : AT_ONCE);
    if (n < 0)
        return errno == EINTR || errno == EAGAIN;
    typed->at += (size_t)n;
    return true;
}

/* What is shown; the last of it, when the session ends, too. */
static bool take_output(int master)
{
    uint8_t bytes[4096];
    ssize_t n = read(master, bytes, sizeof bytes);
    if (n < 0)
        return errno == EINTR || errno == EAGAIN;
    return n > 0 && write_all(STDOUT_FILENO, bytes, (size_t)n);
}

/* @waiting: the signals that are let through while it waits. */
static TerminalEvent relay(int master, int pidfd, const TerminalKeys *keys, const sigset_t *waiting)
{
    Typed typed = { .event = TERMINAL_ENDED };
    while (typed.event == TERMINAL_ENDED || typed.at < typed.n) {
        bool full = typed.at < typed.n;
        struct pollfd fds[3] = { { .fd = full ? -1 : STDIN_FILENO, .events = POLLIN },
                                 { .fd = master, .events = full ? POLLIN | POLLOUT : POLLIN },
                                 { .fd = pidfd, .events = POLLIN } };
        if (resized)
            pass_size(master);
        if (ppoll(fds, 3, NULL, waiting) < 0) {
            if (errno != EINTR)
                return TERMINAL_ENDED;
            continue;
        }
        if ((fds[1].revents & (POLLIN | POLLHUP | POLLERR)) != 0 && !take_output(master))
            return TERMINAL_ENDED;
        if (fds[1].revents == 0 && (fds[2].revents & POLLIN) != 0)
            return TERMINAL_ENDED;
        if ((fds[1].revents & POLLOUT) != 0 && !pass_input(master, &typed))
            return TERMINAL_ENDED;
        if (fds[0].revents != 0 && !take_input(&typed, keys))
            return TERMINAL_ENDED;
    }
    return typed.event;
}

static bool is_keeper(pid_t pid)
{
    char path[64], name[32] = "";
    snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
    FILE *file = fopen(path, "re");
    bool is = file != NULL && fgets(name, sizeof name, file) != NULL;
    if (file != NULL)
        fclose(file);
    name[strcspn(name, "\n")] = '\0';
    return is && strcmp(name, KEEPER) == 0;
}

/* The master that the process @pid has; -1: it has none. */
static int borrow_from(pid_t pid)
{
    int number, pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    int master = pidfd >= 0 ? (int)syscall(SYS_pidfd_getfd, pidfd, TERMINAL_FD, 0) : -1;
    if (pidfd >= 0)
        close(pidfd);
    if (master >= 0 && ioctl(master, TIOCGPTN, &number) == 0)
        return master;
    if (master >= 0)
        close(master);
    return -1;
}

/* That of the session whose first process is @first, from its keeper; -1: it has none any more. */
static int borrow_master(pid_t first)
{
    char path[64];
    int pid, master = -1;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)first, (int)first);
    FILE *children = fopen(path, "re");
    while (children != NULL && master < 0 && fscanf(children, "%d", &pid) == 1)
        master = is_keeper(pid) ? borrow_from(pid) : -1;
    if (children != NULL)
        fclose(children);
    return master;
}

TerminalEvent terminal_attend(pid_t first, const TerminalKeys *keys)
{
    struct termios before, raw;
    struct sigaction old, action = { .sa_handler = note_size };
    sigset_t size_change, waiting;
    int pidfd = (int)syscall(SYS_pidfd_open, first, 0);
    int master = pidfd >= 0 ? borrow_master(first) : -1;
    TerminalEvent event = TERMINAL_ENDED;
    if (master >= 0 && tcgetattr(STDIN_FILENO, &before) == 0) {
        raw = before;
        cfmakeraw(&raw);
        /* Seen while it waits, and at no other time: else it would wait for a key with the old one.
         */
        sigemptyset(&size_change);
        sigaddset(&size_change, SIGWINCH);
        sigprocmask(SIG_BLOCK, &size_change, &waiting);
        sigdelset(&waiting, SIGWINCH);
        sigaction(SIGWINCH, &action, &old);
        tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
        have_drawn(master);
        event = relay(master, pidfd, keys, &waiting);
        tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
        sigaction(SIGWINCH, &old, NULL);
        sigprocmask(SIG_UNBLOCK, &size_change, NULL);
    }
    if (master >= 0)
        close(master);
    if (pidfd >= 0)
        close(pidfd);
    return event;
}

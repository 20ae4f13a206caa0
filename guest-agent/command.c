/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A command that the host wants run: read out of a request, started, and its output passed on as it
 * comes, up to a limit, until it ends or its time is up. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "command.h"

#define LOOK_MS 20 /* for the end of a command whose output is held open by others */

static bool add_text(const StasisField *field, char **array, unsigned *n)
{
    if (*n == COMMAND_MAX_ARGS || !stasis_field_is_text(field, field->length))
        return false;
    array[*n] = strndup((const char *)field->value, field->length);
    return array[(*n)++] != NULL;
}

bool command_read(const Request *request, unsigned limit_ms, Command *c)
{
    StasisField field;
    for (uint32_t at = 0; stasis_field_next(request->fields, request->length, &at, &field);) {
        bool good = true;
        if (field.tag == STASIS_AGENT_TAG_ARG)
            good = add_text(&field, c->argv, &c->n_args);
        else if (field.tag == STASIS_AGENT_TAG_ENVIRONMENT)
            good = add_text(&field, c->environment, &c->n_environment);
        if (!good)
            return false;
        if (field.tag == STASIS_AGENT_TAG_INPUT) {
            c->input = field.value;
            c->n_input = field.length;
        }
    }
    c->limit = request_number(request, STASIS_AGENT_TAG_LIMIT, COMMAND_MAX_OUTPUT);
    if (c->limit > COMMAND_MAX_OUTPUT)
        c->limit = COMMAND_MAX_OUTPUT;
    c->end_ms = now_ms() + request_timeout(request, limit_ms);
    if (!request_text(request, STASIS_AGENT_TAG_PATH, c->dir, sizeof c->dir))
        c->dir[0] = '\0';
    c->in = c->out = c->err = -1;
    return c->n_args > 0;
}

static void __attribute__((noreturn)) be_command(Command *c, int in, int out, int err, int failed)
{
    int saved = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    be_ordinary();
    if (c->own_group)
        setpgid(0, 0);
    dup2(in, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    if (getenv("PATH") == NULL)
        setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    for (unsigned i = 0; i < c->n_environment; i++)
        putenv(c->environment[i]);
    signal(SIGPIPE, SIG_DFL);
    if (c->dir[0] == '\0' || chdir(c->dir) == 0)
        execvp(c->argv[0], c->argv);
    saved = errno;
    write_all(failed, &saved, sizeof saved);
    _exit(127);
}

int command_start(Command *c, pid_t *ret_pid)
{
    int in[2], out[2], err[2], failed[2], error_number = 0;
    if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0 ||
        pipe2(failed, O_CLOEXEC) < 0)
        return errno;
    pid_t pid = fork();
    if (pid == 0)
        be_command(c, in[0], out[1], err[1], failed[1]);
    if (pid < 0)
        return errno;
    close(in[0]);
    close(out[1]);
    close(err[1]);
    close(failed[1]);
    c->in = in[1];
    c->out = out[0];
    c->err = err[0];
    fcntl(c->in, F_SETFL, O_NONBLOCK);
    fcntl(c->out, F_SETFL, O_NONBLOCK);
    fcntl(c->err, F_SETFL, O_NONBLOCK);
    /* The end of file says that exec closed the other end. */
    if (read(failed[0], &error_number, sizeof error_number) != sizeof error_number)
        error_number = 0;
    close(failed[0]);
    *ret_pid = pid;
    return error_number;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void feed(Command *c)
{
    ssize_t n = c->n_input > 0 ? write(c->in, c->input, c->n_input) : 0;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    c->input += n > 0 ? n : 0;
    c->n_input -= n > 0 ? (uint32_t)n : 0;
    if (n < 0 || c->n_input == 0)
        close_fd(&c->in);
}

/* Read once and pass it on; what is beyond the limit is read all the same and dropped. */
static void pass_output(Command *c, int *fd, uint16_t tag)
{
    static uint8_t bytes[AGENT_PART_BYTES];
    ssize_t n = read(*fd, bytes, sizeof bytes);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        close_fd(fd);
        return;
    }
    uint32_t part = (uint64_t)n < c->limit ? (uint32_t)n : (uint32_t)c->limit;
    c->truncated |= part < (uint32_t)n;
    c->limit -= part;
    if (part > 0)
        c->take(c, tag, bytes, part);
}

static void pass_all(Command *c, int wait_ms)
{
    struct pollfd fds[3] = { { .fd = c->out, .events = POLLIN },
                             { .fd = c->err, .events = POLLIN },
                             { .fd = c->in, .events = POLLOUT } };
    poll(fds, 3, wait_ms);
    if (fds[0].revents != 0)
        pass_output(c, &c->out, STASIS_AGENT_TAG_OUTPUT);
    if (fds[1].revents != 0)
        pass_output(c, &c->err, STASIS_AGENT_TAG_ERROR_OUTPUT);
    if (fds[2].revents != 0)
        feed(c);
}

int command_wait(Command *c, pid_t pid)
{
    int status = 0;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        bool quiet = c->out < 0 && c->err < 0;
        pass_all(c, quiet ? 5 : LOOK_MS);
        if (now_ms() < c->end_ms)
            continue;
        c->timed_out = true;
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        break;
    }
    /* What it has written is in the pipes; others may hold them open for ever. */
    for (unsigned i = 0; i < 1024 && (c->out >= 0 || c->err >= 0); i++) {
        struct pollfd fds[2] = { { .fd = c->out, .events = POLLIN },
                                 { .fd = c->err, .events = POLLIN } };
        if (poll(fds, 2, 0) <= 0)
            break;
        pass_all(c, 0);
    }
    return status;
}

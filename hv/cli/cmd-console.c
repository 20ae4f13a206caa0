/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The console log of a VM: the file QEMU writes the guest's serial output to. Bytes go out as the
 * guest wrote them. Following ends with the VM, which a pidfd tells at once, and nothing is asked
 * of QEMU meanwhile.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "output.h"

/* --json holds the text in memory: the last part of it is enough. */
#define JSON_MAX_BYTES (16 * 1024 * 1024)
#define FOLLOW_MS 100

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}
#define cli_autofd __attribute__((cleanup(close_fd)))

static gboolean set_errno(GError **error, const char *what, const char *path)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "%s %s: %s", what, path,
                g_strerror(errno));
    return FALSE;
}

/* Where there is something at or behind @at: the beginning of a long log is a hole. */
static off_t skip_hole(int fd, off_t at)
{
    off_t data = lseek(fd, at, SEEK_DATA);
    return data >= 0 ? data : at;
}

/* Where the last @n_lines lines of @fd begin; -1 with errno when it can't be read. */
static off_t find_tail(int fd, guint64 n_lines)
{
    char buf[65536];
    off_t first = skip_hole(fd, 0), end = lseek(fd, 0, SEEK_END);
    guint64 seen = 0;
    for (off_t at = end; at > first;) {
        size_t len = (size_t)MIN(at - first, (off_t)sizeof buf);
        ssize_t n = pread(fd, buf, len, at - (off_t)len);
        if (n != (ssize_t)len)
            return -1;
        for (size_t i = len; i > 0; i--) {
            off_t pos = at - (off_t)len + (off_t)i; /* just behind this byte */
            if (buf[i - 1] == '\n' && pos != end && ++seen == n_lines)
                return pos;
        }
        at -= (off_t)len;
    }
    return end < 0 ? -1 : first;
}

/* Print what is there from the descriptor's position on. */
static gboolean copy_rest(CliCall *call, int fd, const char *path, GError **error)
{
    char buf[65536];
    for (;;) {
        /* Also one that came about while whom we write to was slow. */
        lseek(fd, skip_hole(fd, lseek(fd, 0, SEEK_CUR)), SEEK_SET);
        ssize_t n = read(fd, buf, sizeof buf);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return set_errno(error, "reading the console log", path);
        if (n == 0)
            break;
        /* That nobody reads on is told by cli_finish(), once. */
        if (fwrite(buf, 1, (size_t)n, stdout) != (size_t)n) {
            call->unheard = errno;
            break;
        }
    }
    if (cli_flush(call))
        return TRUE;
    g_cancellable_set_error_if_cancelled(call->cancellable, error);
    return FALSE;
}

static gboolean follow(CliCall *call, int fd, const char *path, pid_t pid, GError **error)
{
    cli_autofd int pidfd = pidfd_open(pid, 0);
    for (gboolean gone = pidfd < 0; !gone;) {
        struct pollfd wait[] = { { .fd = pidfd, .events = POLLIN } };
        int n = poll(wait, G_N_ELEMENTS(wait), FOLLOW_MS);
        gone = n > 0;
        if (g_cancellable_set_error_if_cancelled(call->cancellable, NULL)) {
            /* Ctrl-C is how following ends: no error to report, but not "the VM is gone". */
            call->exit_code = 130;
            return TRUE;
        }
        if (!gone && !copy_rest(call, fd, path, error))
            return FALSE;
    }
    return copy_rest(call, fd, path, error);
}

static gboolean show_json(CliCall *call, int fd, const char *path, GError **error)
{
    off_t at = lseek(fd, 0, SEEK_CUR), end = lseek(fd, 0, SEEK_END);
    if (end - at > JSON_MAX_BYTES)
        at = end - JSON_MAX_BYTES;
    g_autofree char *text = g_malloc0((gsize)(end - at) + 1);
    ssize_t n = pread(fd, text, (size_t)(end - at), at);
    if (n < 0)
        return set_errno(error, "reading the console log", path);
    for (ssize_t i = 0; i < n; i++) {
        if (text[i] == '\0')
            text[i] = ' ';
    }
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "name", call->args[0]);
    cli_json_set_string(object, "path", path);
    cli_json_set_string(object, "text", text);
    cli_take_object(call, object);
    return TRUE;
}

static gboolean console(CliCall *call, GError **error)
{
    if (call->json && cli_flag(call, "follow")) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                            "--follow has no end to put into --json; use one of them");
        return FALSE;
    }
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    g_autoptr(StasisVmInfo) info = vm != NULL ? stasis_vm_get_info(vm, error) : NULL;
    if (info == NULL)
        return FALSE;
    const char *path = info->console_path;
    if (path == NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED, "VM %s has no console log: %s",
                    info->name,
                    info->prepared ? "its QEMU command line uses the serial port itself or has none"
                                   : "its QEMU was not started by stasis");
        return FALSE;
    }
    cli_autofd int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return set_errno(error, "opening the console log", path);
    guint64 n_lines = cli_number(call, "lines", 0);
    off_t start = n_lines > 0 ? find_tail(fd, n_lines) : skip_hole(fd, 0);
    if (start < 0 || lseek(fd, start, SEEK_SET) < 0)
        return set_errno(error, "reading the console log", path);
    if (call->json)
        return show_json(call, fd, path, error);
    if (!copy_rest(call, fd, path, error))
        return FALSE;
    return !cli_flag(call, "follow") || follow(call, fd, path, info->pid, error);
}

static const CliArgument arguments[] = {
    { "NAME", CLI_ONE, CLI_VM, "name of the VM" },
    { NULL },
};
static const CliOption options[] = {
    { "follow", 'f', CLI_FLAG, NULL, "go on until Ctrl-C or until the VM is gone" },
    { "lines", 'n', CLI_COUNT, "N", "only the last N lines of what is there" },
    { NULL },
};
static const CliExample examples[] = {
    { "console vm1 -f -n 20", "The last 20 lines, and what comes" },
    { NULL },
};
const CliCommand cli_cmd_console = {
    .group = "vm",
    .name = "console",
    .summary = "print a VM's console log",
    .description =
        "Print what the guest wrote to its first serial port since the VM was started by `stasis "
        "run` or `stasis restore`, as it wrote it: pipe the output of a guest that is not "
        "trusted through a pager. Of a log of more than 16 MiB the beginning may be gone.",
    .arguments = arguments,
    .options = options,
    .examples = examples,
    .handler = console,
};

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A line of the console that matches, or is the kernel's last one. What the guest writes goes to a
 * file for every VM that `stasis run` started, and where the user has given a chardev a file or a
 * logfile=; a pty or a socket alone belongs to whoever has it open, and reading it would take the
 * lines from him.
 */
#include <fcntl.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "engine/guards/watch-console.h"
#include "engine/guards/watch.h"
#include "vmm/cmdline.h"
#include "vmm/logs.h"

#define MAX_LINE 4096u
#define PIECE 65536u
/* What Linux says when it gives up, whether QEMU hears of it or not (kernel/panic.c). */
#define LAST_WORDS "Kernel panic - not syncing"
#define MAX_PIECES 64u /* in one look: a guest that writes without end must not keep us */

typedef struct {
    int fd;
    off_t at;
    gint64 looked_us; /* Unix time */
    GString *line;
    GRegex *regex;
} Console;

/* The file of one -chardev, -serial or the like, or NULL. */
static char *file_of(const StasisOption *option)
{
    if (option->value == NULL)
        return NULL;
    if (stasis_option_is(option, "serial") && g_str_has_prefix(option->value, "file:"))
        return g_strdup(option->value + strlen("file:"));
    if (!stasis_option_is(option, "chardev"))
        return NULL;
    char *log = stasis_optlist_get(option->value, "logfile", "backend");
    if (log != NULL)
        return log;
    g_autofree char *backend = stasis_optlist_get(option->value, "backend", "backend");
    return g_strcmp0(backend, "file") == 0 ? stasis_optlist_get(option->value, "path", "backend")
                                           : NULL;
}

/* The file, or NULL: it goes to none. */
static char *find_console(const StasisRecord *record)
{
    if (record->console_path != NULL)
        return g_strdup(record->console_path);
    g_autofree char *path = g_strdup_printf("/proc/%d/cmdline", (int)record->pid);
    g_autofree char *text = NULL;
    gsize len = 0;
    if (!g_file_get_contents(path, &text, &len, NULL))
        return NULL;
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    for (gsize at = 0; at < len; at += strlen(text + at) + 1)
        g_ptr_array_add(argv, text + at);
    g_ptr_array_add(argv, NULL);
    g_autoptr(GPtrArray) options = stasis_cmdline_parse((const char *const *)argv->pdata);
    for (guint i = 0; options != NULL && i < options->len; i++) {
        g_autofree char *found = file_of(options->pdata[i]);
        if (found == NULL)
            continue;
        g_autofree char *link = g_strdup_printf("/proc/%d/cwd", (int)record->pid);
        g_autofree char *cwd = g_file_read_link(link, NULL);
        return g_canonicalize_filename(found, cwd);
    }
    return NULL;
}

GBytes *stasis_watch_read_console(const StasisRecord *record, gsize max_bytes)
{
    g_autofree char *path = find_console(record);
    stasis_autofd int fd =
        path != NULL ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY) : -1;
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return g_bytes_new(NULL, 0);
    gsize n = (gsize)MIN((guint64)st.st_size, max_bytes);
    g_autofree guint8 *data = g_malloc(n + 1);
    ssize_t got = pread(fd, data, n, st.st_size - (off_t)n);
    return g_bytes_new_take(g_steal_pointer(&data), got > 0 ? (gsize)got : 0);
}

static void close_console(gpointer data)
{
    Console *console = data;
    stasis_clear_fd(&console->fd);
    g_string_free(console->line, TRUE);
    g_regex_unref(console->regex);
    g_free(console);
}

/* NULL without @error: it goes to none. */
static Console *open_file(StasisWatched *vm, const char *path, GRegex *regex)
{
    stasis_autofd int fd =
        path != NULL ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY) : -1;
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return NULL;
    Console *console = g_new0(Console, 1);
    console->fd = stasis_steal_fd(&fd);
    console->at = vm->whole_console ? 0 : st.st_size;
    console->looked_us = g_get_real_time();
    console->line = g_string_new(NULL);
    console->regex = g_regex_ref(regex);
    return console;
}

static gpointer open_console(const StasisWatcherOps *ops, StasisWatched *vm, const char *text,
                             double seconds, GError **error)
{
    g_autofree char *path = find_console(vm->record);
    g_autoptr(GRegex) regex = g_regex_new(text, G_REGEX_OPTIMIZE, 0, error);
    Console *console = regex != NULL ? open_file(vm, path, regex) : NULL;
    if (regex != NULL && console == NULL)
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "its console goes to no file that can be read (%s); give the serial port's "
                    "chardev a logfile=FILE, or start the VM with stasis run",
                    path != NULL ? path : "none in QEMU's command line");
    return console;
}

static gpointer open_last_words(const StasisWatcherOps *ops, StasisWatched *vm, const char *text,
                                double seconds, GError **error)
{
    g_autofree char *path = find_console(vm->record);
    g_autoptr(GRegex) regex = g_regex_new(LAST_WORDS, 0, 0, error);
    return regex != NULL ? open_file(vm, path, regex) : NULL;
}

/* The line that is whole by now, or as long as lines may be. */
static gboolean matches(Console *console, char **ret_detail)
{
    g_autofree char *valid = g_utf8_make_valid(console->line->str, (gssize)console->line->len);
    g_strchomp(valid);
    for (char *c = valid; *c != '\0'; c++)
        if (g_ascii_iscntrl(*c) && *c != '\t')
            *c = '?';
    g_string_truncate(console->line, 0);
    if (!g_regex_match(console->regex, valid, 0, NULL))
        return FALSE;
    *ret_detail = g_steal_pointer(&valid);
    return TRUE;
}

/* The beginning of a VM's own log is given back (vmm/logs.h), also where we have not read yet. */
static void skip_hole(Console *console)
{
    off_t data = lseek(console->fd, console->at, SEEK_DATA);
    if (data > console->at) {
        console->at = data;
        g_string_truncate(console->line, 0);
    }
}

static gboolean read_on(Console *console, char **ret_detail)
{
    char piece[PIECE];
    for (guint n = 0; n < MAX_PIECES; n++) {
        ssize_t got = pread(console->fd, piece, sizeof piece, console->at);
        if (got <= 0)
            return FALSE;
        for (ssize_t i = 0; i < got; i++) {
            console->at++;
            if (piece[i] != '\n' && piece[i] != '\0')
                g_string_append_c(console->line, piece[i]);
            if ((piece[i] == '\n' || console->line->len >= MAX_LINE) &&
                matches(console, ret_detail))
                return TRUE;
        }
    }
    return FALSE;
}

/* What is seen now was written since we looked last. */
static gboolean look_at_console(gpointer data, StasisWatched *vm, char **ret_detail)
{
    Console *console = data;
    struct stat st;
    vm->since_us = console->looked_us;
    console->looked_us = g_get_real_time();
    if (fstat(console->fd, &st) == 0 && st.st_size < console->at) { /* cut, or rotated in place */
        console->at = 0;
        g_string_truncate(console->line, 0);
    }
    skip_hole(console);
    gboolean found = read_on(console, ret_detail);
    stasis_logs_bound(vm->record->name); /* what was read may go */
    return found;
}

const StasisWatcherOps stasis_watch_console = {
    .name = "log",
    .value = "a regular expression",
    .value_needed = TRUE,
    .value_is_text = TRUE,
    .open = open_console,
    .look = look_at_console,
    .close = close_console,
};

const StasisWatcherOps stasis_watch_last_words = {
    .name = "panic",
    .open = open_last_words,
    .look = look_at_console,
    .close = close_console,
};

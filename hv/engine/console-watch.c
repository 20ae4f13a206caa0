/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/console-watch.h"

#include <fcntl.h>
#include <stasis/error.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"

#define MAX_LINE 4096
#define MAX_AT_ONCE (4u << 20)
#define PANIC "Kernel panic - not syncing"

struct _StasisConsoleWatch {
    char *path;
    int fd; /* or -1: not there yet */
    GPtrArray *on;
    gsize used; /* of line[]: its beginning, until its end comes */
    char line[MAX_LINE];
};

void stasis_console_watch_free(StasisConsoleWatch *watch)
{
    if (watch == NULL)
        return;
    stasis_close_fdp(&watch->fd);
    g_clear_pointer(&watch->on, g_ptr_array_unref);
    g_free(watch->path);
    g_free(watch);
}

StasisConsoleWatch *stasis_console_watch_new(const char *path, const char *const *on,
                                             GError **error)
{
    g_autoptr(StasisConsoleWatch) watch = g_new0(StasisConsoleWatch, 1);
    watch->path = g_strdup(path);
    watch->fd = -1;
    watch->on = g_ptr_array_new_with_free_func((GDestroyNotify)g_regex_unref);
    for (guint i = 0; on != NULL && on[i] != NULL; i++) {
        g_autoptr(GError) why = NULL;
        GRegex *regex = g_regex_new(on[i], G_REGEX_RAW | G_REGEX_OPTIMIZE, 0, &why);
        if (regex == NULL) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "log=%s: %s", on[i], why->message);
            return NULL;
        }
        g_ptr_array_add(watch->on, regex);
    }
    return g_steal_pointer(&watch);
}

static StasisConsole judge(StasisConsoleWatch *watch, char **ret_line)
{
    StasisConsole found = STASIS_CONSOLE_NOTHING;
    while (watch->used > 0 && watch->line[watch->used - 1] == '\r')
        watch->used--;
    for (guint i = 0; i < watch->on->len && found == STASIS_CONSOLE_NOTHING; i++)
        if (g_regex_match_full(g_ptr_array_index(watch->on, i), watch->line, (gssize)watch->used, 0,
                               0, NULL, NULL))
            found = STASIS_CONSOLE_MATCH;
    if (found == STASIS_CONSOLE_NOTHING &&
        memmem(watch->line, watch->used, PANIC, strlen(PANIC)) != NULL)
        found = STASIS_CONSOLE_PANIC;
    if (found != STASIS_CONSOLE_NOTHING)
        *ret_line = g_utf8_make_valid(watch->line, (gssize)watch->used);
    watch->used = 0;
    return found;
}

/* What comes behind the line that counts is of no interest any more. */
static StasisConsole take(StasisConsoleWatch *watch, const char *bytes, gsize n, char **ret_line)
{
    for (gsize i = 0; i < n; i++) {
        gboolean full = watch->used == MAX_LINE;
        if (bytes[i] == '\n' || full) {
            StasisConsole found = judge(watch, ret_line);
            if (found != STASIS_CONSOLE_NOTHING)
                return found;
        }
        if (bytes[i] != '\n')
            watch->line[watch->used++] = bytes[i];
    }
    return STASIS_CONSOLE_NOTHING;
}

StasisConsole stasis_console_watch_look(StasisConsoleWatch *watch, char **ret_line)
{
    char bytes[16384];
    if (watch->path == NULL)
        return STASIS_CONSOLE_NOTHING;
    if (watch->fd < 0)
        watch->fd = open(watch->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    for (gsize total = 0; watch->fd >= 0 && total < MAX_AT_ONCE;) {
        ssize_t n = read(watch->fd, bytes, sizeof bytes);
        if (n <= 0)
            break;
        total += (gsize)n;
        StasisConsole found = take(watch, bytes, (gsize)n, ret_line);
        if (found != STASIS_CONSOLE_NOTHING)
            return found;
    }
    return STASIS_CONSOLE_NOTHING;
}

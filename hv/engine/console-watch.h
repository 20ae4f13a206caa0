/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lines of a guest's console, as they come into its file, against expressions. */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct _StasisConsoleWatch StasisConsoleWatch;

/* What stands in the file at @path by now counts, too. @on (or NULL): expressions beside the
 * kernel's own last words, STASIS_ERROR_USAGE for one that is none. */
StasisConsoleWatch *stasis_console_watch_new(const char *path, const char *const *on,
                                             GError **error);
void stasis_console_watch_free(StasisConsoleWatch *watch);

typedef enum { STASIS_CONSOLE_NOTHING, STASIS_CONSOLE_PANIC, STASIS_CONSOLE_MATCH } StasisConsole;

/* Read what has come since: the first line that counts, *ret_line being it. Lines longer than 4 KiB
 * are looked at in pieces. */
StasisConsole stasis_console_watch_look(StasisConsoleWatch *watch, char **ret_line);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisConsoleWatch, stasis_console_watch_free)

G_END_DECLS

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The other end of a monitor's UNIX socket: reaching it, and telling who it is. */
#pragma once

#include <gio/gio.h>
#include <sys/types.h>

G_BEGIN_DECLS

/* A connected, close-on-exec stream socket, or -1 and −errno in *ret_error (−EAGAIN: its queue of
 * waiting clients stayed full until the deadline). Any length of path. */
int stasis_qmp_socket_connect(const char *path, guint64 deadline_us, GCancellable *cancellable,
                              int *ret_error);

/* The process that holds the other end of @fd; 0 when it can't be told. */
pid_t stasis_qmp_find_peer(int fd);

/* Does a process listen on a UNIX socket bound to just this @path? Doesn't disturb it. */
gboolean stasis_unix_is_listening(const char *path);
/* The path, ending in @suffix, of a UNIX socket at which @pid listens; NULL when there is none.
 * Free with g_free(). */
char *stasis_unix_listening_path(pid_t pid, const char *suffix);

G_END_DECLS

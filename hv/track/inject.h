/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Running single system calls inside another process, by ptrace: the only way to have a descriptor
 * (a userfaultfd) that acts on that process's memory. One thread of it is held for well under a
 * millisecond; no code is written into it.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

G_BEGIN_DECLS

typedef struct _StasisInject StasisInject;

typedef gboolean (*StasisInjectFunc)(StasisInject *inject, gpointer user_data, GError **error);

/* Hold the main thread of @pid, call @func, and let it go on exactly where it was. @func runs in a
 * thread of its own: the kernel ends tracing with that thread, whatever went wrong in it.
 * STASIS_ERROR_UNSUPPORTED when we may not trace it, or someone else does. */
gboolean stasis_inject(pid_t pid, StasisInjectFunc func, gpointer user_data, GError **error);

/* Run system call @nr there; its result, or −errno. -ENOTRECOVERABLE when ptrace itself failed. */
long stasis_inject_syscall(StasisInject *inject, long nr, const unsigned long args[6]);

G_END_DECLS

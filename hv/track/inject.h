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

/* Hold the main thread of @pid. All calls up to _end must come from the calling thread (ptrace is
 * per thread). STASIS_ERROR_UNSUPPORTED when we may not, or when someone else traces it. */
StasisInject *stasis_inject_begin(pid_t pid, GError **error);

/* Run system call @nr there; its result, or −errno. -ENOTRECOVERABLE when ptrace itself failed. */
long stasis_inject_syscall(StasisInject *inject, long nr, const unsigned long args[6]);

/* Let the thread go on exactly where it was. */
void stasis_inject_end(StasisInject *inject);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisInject, stasis_inject_end)

G_END_DECLS

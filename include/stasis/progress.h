/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* Where a long operation is. Valid only during the call. */
typedef struct {
    const char *phase; /* "copy", "copy in", "copy out", "round 2", "pause", "commit",
                          "verify", "load" */
    guint64 done_bytes;
    guint64 total_bytes; /* 0 when unknown */
} StasisProgress;

/* Called from the thread that made the long call, at most about 20 times a second and never while
 * a VM is stopped. Must not call back into the object at work. */
typedef void (*StasisProgressFunc)(const StasisProgress *progress, gpointer user_data);

G_END_DECLS

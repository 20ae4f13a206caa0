/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A bundle that could not be put where it was to go (a disk that is full, read-only, or gone): all
 * of it is a file in the VM's directory in memory, where every command that reads bundles can read
 * it, until it can be moved there. One of each VM; it outlives who made it, and the VM.
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

typedef struct {
    char *path;      /* NULL: there is none */
    guint n_failed;  /* how often on end it could not be moved */
    guint64 seen_us; /* when the failure was seen (stasis_now_us()); 0: by one before us */
    guint64 next_us; /* when it is tried again; the same clock */
} StasisKept;

/* That of directory @memory_dir, or NULL. Free with g_free(). */
char *stasis_kept_find(const char *memory_dir);
/* Move it to directory @dir, under its name: *ret_path, or NULL when somebody has taken it away
 * meanwhile. It is durable there before it goes from memory. On failure it stays, and is due again
 * after a second, which doubles each time up to a minute. */
gboolean stasis_kept_move(StasisKept *kept, const char *dir, char **ret_path, GError **error);
gboolean stasis_kept_is_due(const StasisKept *kept);
void stasis_kept_clear(StasisKept *kept);

G_END_DECLS

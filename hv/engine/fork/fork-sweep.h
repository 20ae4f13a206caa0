/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* In store/scratch.h's directories: where forks are whose image may be in memory only. */
#define STASIS_FORKS_DIR "forks"

/* Make a new directory in @parent for what a fork of ours needs. Its name says whose it is. Free
 * with g_free(). */
char *stasis_fork_dir_new(const char *parent, GError **error);

/* End forks whose maker has died together with its nursery, and remove what they used, in the
 * runtime directory, in memory of encrypted stores (STASIS_FORKS_DIR) and in @scratch (or NULL).
 * One look into a directory when there are none. */
void stasis_forks_sweep(const char *scratch);

G_END_DECLS

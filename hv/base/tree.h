/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Removing directories with what is in them. No link is followed. */
#pragma once

#include <glib.h>

/* Remove what is in @dir_fd; directories in it at most @depth deep. 0 or −errno. */
int stasis_empty_dir(int dir_fd, guint depth);
/* Remove directory @path and all in it, as far as possible. */
void stasis_remove_tree(const char *path);

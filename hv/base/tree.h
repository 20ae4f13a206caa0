/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Directories: what is in them, and removing them with it. No link is followed. */
#pragma once

#include <dirent.h>
#include <glib.h>

/* The next entry that is not "." or "..". NULL with errno 0 at the end, or with that of readdir(3):
 * then there may be more. */
struct dirent *stasis_next_entry(DIR *dir);

/* Remove what is in @dir_fd; directories in it at most @depth deep. 0 or −errno. */
int stasis_empty_dir(int dir_fd, guint depth);
/* Remove directory @path and all in it, as far as possible. */
void stasis_remove_tree(const char *path);

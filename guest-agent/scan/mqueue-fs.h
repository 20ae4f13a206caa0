/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Telling POSIX message queues from files: they look like files, in the root directory or wherever
 * the file system "mqueue" is mounted. */
#pragma once

#include <stdbool.h>

struct stat;

/* Is @path below the directory @dir (a link in /proc/PID/fd) one? Never asks the server of a file
 * system. */
bool stasis_mqueue_is_one(int dir, const char *path, struct stat *ret);

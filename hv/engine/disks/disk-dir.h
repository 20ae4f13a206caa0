/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The directory that a VM's own disks lie in: NAME.XXXXXX, in the store or where the user wants it,
 * beside anything else then. A mark in it, made before anything else, says that it is ours, whose
 * it is and whether it goes with that process. What has none, or one that can't be read, is
 * somebody else's: it is never touched.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

G_BEGIN_DECLS

typedef struct {
    const char *vm;
    pid_t pid;
    guint64 start_time;
    gboolean temporary; /* it goes when that process has ended */
} StasisDiskDirMark;

gboolean stasis_disk_dir_mark(int dir_fd, const StasisDiskDirMark *mark, GError **error);
/* Has it a mark, if only one that can't be read? */
gboolean stasis_disk_dir_is_marked(int dir_fd);

/* A directory at @path, not by a link; -1 with errno. */
int stasis_disk_dir_open(const char *path);

/* Remove the files that are ours in the directory @dir_fd at @path, and it if nothing else is
 * there.
 */
void stasis_disk_dir_remove(int dir_fd, const char *path);

/* Remove what killed makers and ended clones have left in @parent. @own: nobody but us makes
 * directories there, so that one without a mark is of a maker that was killed before it had one. */
void stasis_disk_dir_sweep(const char *parent, gboolean own);

G_END_DECLS

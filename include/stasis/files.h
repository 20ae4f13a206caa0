/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files in the disks of an image, as they were at its instant, read-only. libguestfs looks for
 * them, in a small VM of its own that takes some seconds to start (a quarter of a minute without
 * KVM), so each call does. Paths are those of the guest, from "/" on. The image may be deleted
 * meanwhile.
 */
#pragma once

#include <stasis/store.h>

G_BEGIN_DECLS

typedef struct {
    size_t struct_size;
    /* A device as libguestfs names it, "/dev/sda2": look at that file system alone. NULL: what the
     * operating system on the disks mounts, or the only file system there is. */
    const char *filesystem;
    const char *disk; /* a raw disk file to look at instead of the image's disks; NULL: those */
    StasisProgressFunc progress;
    gpointer progress_data;
} StasisFilesOptions;
#define STASIS_FILES_OPTIONS_INIT                 \
    {                                             \
        .struct_size = sizeof(StasisFilesOptions) \
    }

typedef struct {
    char *name;
    const char *type; /* "file", "directory", "symlink", "block", "char", "fifo", "socket" */
    guint32 mode;     /* permissions, 07777 */
    guint32 uid, gid;
    guint64 size_bytes;
    gint64 modified_us; /* Unix time */
    char *target;       /* of a symlink, else NULL */
} StasisFileInfo;

STASIS_API void stasis_file_info_free(StasisFileInfo *info);

/* What is in directory @path, or @path itself if it is no directory. Element type: StasisFileInfo,
 * freed with the array. */
STASIS_API GPtrArray *stasis_files_list(StasisStore *store, const char *id,
                                        const StasisFilesOptions *options, const char *path,
                                        GCancellable *cancellable, GError **error);

/* The content of files @paths (NULL-terminated), one behind the other, into @fd from where it
 * stands. When one can't be read the others are in it all the same; the error tells of each. */
STASIS_API gboolean stasis_files_read(StasisStore *store, const char *id,
                                      const StasisFilesOptions *options, const char *const *paths,
                                      int fd, GCancellable *cancellable, GError **error);

/* File or directory @path, with all in it, into directory @dest of this host. */
STASIS_API gboolean stasis_files_copy_out(StasisStore *store, const char *id,
                                          const StasisFilesOptions *options, const char *path,
                                          const char *dest, GCancellable *cancellable,
                                          GError **error);

/* Show them in the directory @dir of this host (FUSE), until stasis_files_unmount(): a process of
 * ours serves them that long. */
STASIS_API gboolean stasis_files_mount(StasisStore *store, const char *id,
                                       const StasisFilesOptions *options, const char *dir,
                                       GCancellable *cancellable, GError **error);
STASIS_API gboolean stasis_files_unmount(const char *dir, GCancellable *cancellable,
                                         GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisFileInfo, stasis_file_info_free)

G_END_DECLS

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whole reads and writes, and files that appear whole or not at all. */
#pragma once

#include <glib.h>
#include <sys/types.h>

G_BEGIN_DECLS

/* Read or write all of @len bytes at @offset, past EINTR and short counts. 0 or −errno; a file
 * that ends early is −ENODATA. Allocates nothing. */
int stasis_pread_all(int fd, void *buf, size_t len, off_t offset);
int stasis_pwrite_all(int fd, const void *buf, size_t len, off_t offset);
/* The same at the descriptor's own position. */
int stasis_read_all(int fd, void *buf, size_t len);
int stasis_write_all(int fd, const void *buf, size_t len);

/* Make @name in directory @dir_fd hold @data: written beside it, synced, renamed, and the
 * directory synced when @durable. */
gboolean stasis_write_file_at(int dir_fd, const char *name, const void *data, size_t len,
                              gboolean durable, GError **error);

/* Read all of @name in @dir_fd, at most @max_bytes (a larger file, or what is no file, is
 * an error). NUL-terminated behind its end. Free with g_free(). */
char *stasis_read_file_at(int dir_fd, const char *name, size_t max_bytes, size_t *ret_len,
                          GError **error);

/* Set @error from an errno value: "<what>: <strerror>". Always returns FALSE. */
gboolean stasis_set_errno(GError **error, int errnum, const char *format, ...) G_GNUC_PRINTF(3, 4);
/* Set STASIS_ERROR_CANCELLED; what was under way is undone by the caller. Always returns FALSE. */
gboolean stasis_set_cancelled(GError **error);

/* renameat2(2) with RENAME_NOREPLACE; where the file system has none (NFS, CIFS, older OpenZFS)
 * whoever makes @to in the same moment is not seen: the caller has a lock, or a name of its own. */
int stasis_rename_new(int from_fd, const char *from, int to_fd, const char *to);

G_END_DECLS

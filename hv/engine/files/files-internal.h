/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of file access share, grouped by file. */
#pragma once

#include <gio/gio.h>
#include <stasis/files.h>

#include "store/cache.h"

G_BEGIN_DECLS

/* ---- files-program.c: running stasis-files ---- */

typedef struct {
    GPtrArray *disks;         /* of char *, raw files; owned */
    StasisTemplate *template; /* whose files they are, which may go with it; owned; or NULL */
    GPtrArray *writable;      /* instead of those: of char *, "FORMAT:FILE"; owned */
    char *label;              /* of a mount */
    const char *filesystem;
    GCancellable *cancellable;
} StasisFilesJob;

void stasis_files_job_clear(StasisFilesJob *job);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(StasisFilesJob, stasis_files_job_clear)

/* Run operation @words[0] with its arguments, NULL-terminated. Its stdout goes to @fd, or if that
 * is -1 becomes *ret_text, to be freed with g_free(). */
gboolean stasis_files_run_words(const StasisFilesJob *job, int fd, char **ret_text,
                                const char *const *words, GError **error);
/* The same. */
gboolean stasis_files_run(const StasisFilesJob *job, int fd, char **ret_text, GError **error,
                          const char *first, ...) G_GNUC_NULL_TERMINATED;
/* Start operation "mount" and come back when the directory is there. */
gboolean stasis_files_serve(const StasisFilesJob *job, const char *dir, GError **error);

/* ---- files-settle.c: from a guest's disk into a directory of the host ---- */

/* Move what is in directory @from, which nobody else may reach, into directory @to of the same file
 * system, without device nodes, sockets, pipes and set-ID bits. What is there is replaced by what
 * has its name, but directories, which are added to; no link is followed. What can't be done keeps
 * nothing else from it; @error is the first of that. In @from stays what was not moved. */
gboolean stasis_files_settle(const char *from, const char *to, GError **error);

G_END_DECLS

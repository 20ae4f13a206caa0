/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages of memory in an incremental image of processes (docs/format.md, "processes"): those that
 * its parent has are not stored again. The parent's files of pages are linked (link(2)) into the
 * new image's directory, so the image is whole by itself whatever becomes of its parent: deleting
 * that takes one name of them. For the reader and the writer of such images.
 */
#pragma once

#include "store/proc-image-file.h"

G_BEGIN_DECLS

#define STASIS_PROC_PAGE_BYTES 4096u
#define STASIS_PROC_PAGES_OWN "own.pages"
#define STASIS_PROC_PAGES_SUFFIX ".pages"
#define STASIS_PROC_MAP_SUFFIX ".map"

/* A file of pages that is CRIU's: "pages-1.img". */
gboolean stasis_proc_pages_is_pages(const char *name);
/* Files that pages of @image lie in: those that it shares with its parent, and its own, which are
 * one for each process in one without a parent. */
guint stasis_proc_pages_n_sources(const StasisProcImageReader *image);
/* With more an image is no parent: all are opened at once for a restore, and a process may have
 * 1,024 files open. */
guint stasis_proc_pages_max_sources(void);

/* ---- reading ---- */

/* Content of an assembled file, piece by piece. @files are the image's, @dir_fd its directory, @key
 * what they are sealed with or NULL. */
typedef struct _StasisProcAssembled StasisProcAssembled;
StasisProcAssembled *stasis_proc_assembled_open(int dir_fd, const GPtrArray *files,
                                                const StasisProcImageFile *file,
                                                const StasisKey *key, GError **error);
/* The next @n bytes, whole pages. */
gboolean stasis_proc_assembled_read(StasisProcAssembled *assembled, guint8 *bytes, gsize n,
                                    GError **error);
void stasis_proc_assembled_free(StasisProcAssembled *assembled);

/* ---- writing ---- */

typedef struct _StasisProcPages StasisProcPages;

/* Read all pages of @parent, and link its files of pages into @dir_fd. @sealer, borrowed, for what
 * is written, or NULL; its key must be that of @parent. */
StasisProcPages *stasis_proc_pages_new(StasisProcImageReader *parent, int dir_fd,
                                       StasisSealer *sealer, GError **error);
/* One file after the other: bytes of it, and its end. */
void stasis_proc_pages_begin(StasisProcPages *pages, const char *name);
gboolean stasis_proc_pages_add(StasisProcPages *pages, const guint8 *bytes, gsize n,
                               GError **error);
gboolean stasis_proc_pages_end(StasisProcPages *pages, GError **error);
/* Add what is stored to @files (of StasisProcImageFile), and write the maps; files of the parent
 * that are not needed are unlinked. */
gboolean stasis_proc_pages_finish(StasisProcPages *pages, GPtrArray *files, GError **error);
void stasis_proc_pages_free(StasisProcPages *pages);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisProcAssembled, stasis_proc_assembled_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisProcPages, stasis_proc_pages_free)

G_END_DECLS

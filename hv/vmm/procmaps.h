/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The mappings of another process, from /proc/PID/maps (format: proc(5)). Plain data, sorted by
 * address as the kernel prints it; a snapshot that may be stale the next moment.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

G_BEGIN_DECLS

typedef struct {
    guint64 start, end; /* [start, end) */
    gboolean readable, writable, executable;
    gboolean shared; /* MAP_SHARED */
    guint64 offset;  /* in the file; 0 for anonymous memory */
    guint dev_major, dev_minor;
    guint64 inode; /* 0 for anonymous memory */
    char *path;    /* "[heap]", "/memfd:ram (deleted)", …; "" for plain anonymous memory */
} StasisMapping;

/* Element type: StasisMapping. */
GPtrArray *stasis_procmaps_read(pid_t pid, GError **error);
/* The same from text: any bytes are safe; a malformed line is STASIS_ERROR_CORRUPT. */
GPtrArray *stasis_procmaps_parse(const char *text, GError **error);

/* The mapping that contains @address, or NULL. */
const StasisMapping *stasis_procmaps_find(const GPtrArray *maps, guint64 address);

/*
 * Is [address, +len) mapped without a gap, as one object (one file with running offsets, or
 * anonymous memory, shared or private throughout)? The kernel may have cut that into several
 * mappings (madvise, userfaultfd, NUMA policy). Returns the first of them, or NULL.
 */
const StasisMapping *stasis_procmaps_cover(const GPtrArray *maps, guint64 address, guint64 len);

G_END_DECLS

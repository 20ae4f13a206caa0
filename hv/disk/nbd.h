/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading and writing a block node of a running QEMU, through its own NBD server and libnbd. The
 * server listens at a socket that we made and passed on by its descriptor, in a directory that is
 * ours alone; a server that somebody else has started is used where we can find its socket.
 */
#pragma once

#include <gio/gio.h>

#include "base/bitmap.h"
#include "vmm/qmp.h"

G_BEGIN_DECLS

typedef struct _StasisNbdServer StasisNbdServer;

/* @dir: where to put the socket, for as long as the object lives. */
StasisNbdServer *stasis_nbd_server_new(StasisQmp *qmp, pid_t pid, const char *dir, GError **error);
/* Stops the server if it is ours, which ends all connections to it. */
void stasis_nbd_server_free(StasisNbdServer *server);
/* Leaves it to a sweep. */
void stasis_nbd_server_leave(StasisNbdServer *server);
/* Stop one of ours that outlived its command. */
void stasis_nbd_server_sweep(StasisQmp *qmp, pid_t pid);

typedef struct _StasisNbd StasisNbd;

typedef struct {
    const char *node;     /* to be exported */
    const char *id;       /* of the export: unique in QEMU */
    const char *map_node; /* or NULL: the node that has bitmap map_name … */
    const char *map_name; /* … which is exported, too */
    guint64 size_bytes;   /* what the node must have */
    gboolean writable;
    gboolean in_iothread; /* QEMU must not see a connection end: see nbd-server.c */
    guint n_connections;  /* at least 1: how many threads may read at once without waiting */
} StasisNbdExport;

/* Export a node and connect to it. What is asked of it then fails with
 * G_IO_ERROR_CONNECTION_CLOSED when QEMU is not there to answer. */
StasisNbd *stasis_nbd_new(StasisNbdServer *server, const StasisNbdExport *wanted, GError **error);
/* Disconnects and takes the export away. */
void stasis_nbd_free(StasisNbd *nbd);
/* Disconnects, and leaves export and server to a sweep. Not of one in an iothread. */
void stasis_nbd_leave(StasisNbd *nbd);

/* Where another program on this host finds the export: a URI (the NBD project's doc/uri.md), for as
 * long as it is there. Free with g_free(). */
char *stasis_nbd_get_uri(const StasisNbd *nbd);

/* Which pages (of 4096 bytes) are to be looked at: those set in the bitmap exported with it,
 * rounded outwards, or all when there is none; and which pages read as zero, rounded inwards. */
gboolean stasis_nbd_map(StasisNbd *nbd, StasisBitmap *dirty, StasisBitmap *zero, GError **error);

/* Whole bytes, inside the node. Any thread. */
gboolean stasis_nbd_read(StasisNbd *nbd, guint64 offset, void *buf, gsize len, GError **error);
gboolean stasis_nbd_write(StasisNbd *nbd, guint64 offset, const void *buf, gsize len,
                          GError **error);
gboolean stasis_nbd_zero(StasisNbd *nbd, guint64 offset, guint64 len, GError **error);
gboolean stasis_nbd_flush(StasisNbd *nbd, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisNbdServer, stasis_nbd_server_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisNbd, stasis_nbd_free)

G_END_DECLS

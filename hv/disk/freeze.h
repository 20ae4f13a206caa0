/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The disks of a VM kept as of one instant by writing to them no more: from the instant on the VM
 * writes to a new qcow2 file on top of each.
 *
 *      new()      VM runs     for each disk an empty file, and a node of it on top of the disk's
 *      taking     VM stopped  the devices get those nodes
 *      settle()   VM runs     the disks are opened anew, read-only: others may read them from here
 *
 *      guest ── web.qcow2.stasis-ID ── web.qcow2      (ID: of the image that is taken)
 *
 * The nodes are called "stasis-over-…" and belong to the VM from the instant on.
 */
#pragma once

#include "disk/disk.h"
#include "disk/taking.h"

G_BEGIN_DECLS

/* Nodes of that name are ours, and not swept away as others of ours are. */
#define STASIS_DISK_OVERLAY_PREFIX "stasis-over-"

/* Paths of the files for the writable ones of @disks (each of them looked at by
 * stasis_disks_check()), in that order, beside the disks' own. @id: 26 characters that make the
 * names new. STASIS_ERROR_UNSUPPORTED names the first disk that can't have one. Free with
 * g_strfreev(). */
char **stasis_disk_overlay_paths(const GPtrArray *disks, const char *cwd, const char *id,
                                 GError **error);
/* One of them, for a disk in the file @base. Free with g_free(). */
char *stasis_disk_overlay_path(const char *base, const char *id);
/* Was @path made by that? */
gboolean stasis_disk_is_overlay_path(const char *path);
/* How long the path without that ending is. */
gsize stasis_disk_overlay_stem(const char *path);

/* Make the file at @path, durably, for the owner and with the mode of @like. */
gboolean stasis_disk_overlay_make(const char *path, const char *like, const char *base,
                                  const char *base_format, guint64 size_bytes, GError **error);
/* Have QEMU open the file at @path as node @node on top of @base_node, with the cache mode of
 * @disk.
 */
gboolean stasis_disk_overlay_open(StasisQmp *qmp, const StasisDisk *disk, const char *path,
                                  const char *node, const char *base_node, GError **error);
/* A node of the topmost of @layers (of StasisDiskLayer), to be read: one that QEMU has, or a new
 * one (and new ones for those below that it has not), named by @id and *number, which is counted
 * up.
 * @cwd: QEMU's. Free with g_free(). */
char *stasis_disk_layers_open(StasisQmp *qmp, const StasisDisk *disk, const GPtrArray *layers,
                              const char *cwd, const char *id, guint *number, GError **error);
/* A node's name. Free with g_free(). */
char *stasis_disk_overlay_node(const char *id, guint number);

/* Have QEMU open what @node reads from anew, read-only. */
gboolean stasis_disk_reopen_read_only(StasisQmp *qmp, const char *node, GError **error);

/* Do away with the file at @path: what the VM has written to it goes back into the disk below while
 * it runs on, and QEMU closes it. Something else that is on top of it by now: it stays, and that is
 * no error. */
gboolean stasis_disk_overlay_take_back(StasisQmp *qmp, const char *path, GError **error);
/* The same where nothing in it is wanted: closed and removed, unless a device has it. */
gboolean stasis_disk_overlay_drop(StasisQmp *qmp, const char *path, GError **error);

/* And where it is to stay as a file. */
gboolean stasis_disk_overlay_close(StasisQmp *qmp, const char *path, GError **error);

typedef struct _StasisDiskFreeze StasisDiskFreeze;

/* @paths as above, for the writable ones of @disks. All are borrowed. */
StasisDiskFreeze *stasis_disk_freeze_new(StasisQmp *qmp, const GPtrArray *disks, char **paths,
                                         const char *cwd, const char *id, GError **error);
StasisDiskTaking *stasis_disk_freeze_get_taking(StasisDiskFreeze *freeze);
gboolean stasis_disk_freeze_settle(StasisDiskFreeze *freeze, GError **error);
/* Without this, free() takes all of them back. */
void stasis_disk_freeze_keep(StasisDiskFreeze *freeze);
void stasis_disk_freeze_free(StasisDiskFreeze *freeze);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisDiskFreeze, stasis_disk_freeze_free)

G_END_DECLS

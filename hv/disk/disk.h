/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The disks of a running VM, as QEMU's monitor tells of them. */
#pragma once

#include <gio/gio.h>

#include "disk/layers.h"
#include "vmm/qmp.h"

G_BEGIN_DECLS

typedef struct {
    char *name;     /* QEMU's name of the drive, else the ID or QOM path of its device */
    char *qdev;     /* absolute QOM path of the device, which has a property "drive" */
    char *node;     /* the block node that the device reads and writes */
    char *format;   /* the node's driver: "qcow2", "raw" … */
    char *filename; /* of its own file, without what it is on top of; as QEMU names it, so it may be
                     * a "json:" pseudo-name, too, for what is no file */
    guint64 size_bytes;
    gboolean writable;
    gboolean cache_direct, cache_no_flush; /* as QEMU has its file open */
    GPtrArray *layers; /* of StasisDiskLayer, not looked at: its own file and what is below it */
    /* As the machine's command line has the disk, if it lies on overlays that it was given while it
     * ran (freeze.h); else as above. */
    char *line_node, *line_filename;
    gboolean has_iothread; /* the device does its I/O in a thread of its own; set by
                            * find_iothreads() and check() */
} StasisDisk;

/* Ask for QEMU's block nodes: a list of objects, each without what is below it, so that the answer
 * grows with their number alone. NULL on error. */
JsonNode *stasis_disk_ask_nodes(StasisQmp *qmp, JsonArray **ret_list, GError **error);

/* Every disk with a medium that a device of the machine has. Element type: StasisDisk, freed with
 * the array. Drives without a medium and without a device are left out. */
GPtrArray *stasis_disks_list(StasisQmp *qmp, GError **error);
StasisDisk *stasis_disk_at(const GPtrArray *disks, guint i);

/* Set has_iothread of the writable ones; what QEMU does not tell is none. */
void stasis_disks_find_iothreads(StasisQmp *qmp, const GPtrArray *disks);

/* Can the writable ones be copied as of an instant? STASIS_ERROR_UNSUPPORTED names the first that
 * can't. Nothing is changed but what @disks say of iothreads. */
gboolean stasis_disks_check(StasisQmp *qmp, const GPtrArray *disks, GError **error);

/* Remove from QEMU whatever an interrupted checkpoint left of ours: exports, nodes (the disks go
 * back to what they were), our NBD server, and all bitmaps but the ones that count since image
 * @keep (NULL: none). @pid: QEMU's process. Nothing left: one or two questions. */
gboolean stasis_disks_sweep(StasisQmp *qmp, pid_t pid, const char *keep, GError **error);

G_END_DECLS

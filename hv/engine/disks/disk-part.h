/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The disks' part of a checkpoint, in one of several ways (--disk): what all of them have in
 * common, and the table of them.
 *
 *      open ──> declare ──> ( get_ready ──> the stop ) … ──> run ──> describe ──> keep ──> settle
 */
#pragma once

#include "copy/copy.h"
#include "disk/taking.h"
#include "engine/vm/session.h"
#include "store/image.h"

G_BEGIN_DECLS

typedef struct _StasisDiskPart StasisDiskPart;

/* What it is opened with; kept by reference but @cwd. */
typedef struct {
    StasisSession *session;
    StasisStore *store;
    const char *cwd; /* of QEMU */
    gboolean hold;   /* nothing is to be copied: see disk-copy.h */
} StasisDiskPartWanted;

/* NULL: nothing to do in this way. */
typedef struct {
    const char *name;
    /* Look at the VM's disks (part->disks), and refuse by name what can't be had in this way. */
    StasisDiskPart *(*open)(const StasisDiskPartWanted *wanted, GError **error);
    /* Whatever of it is in QEMU goes, and counts as it did before, unless it was settled. */
    void (*free)(StasisDiskPart *part);
    /* In the image, behind RAM. */
    gboolean (*declare)(StasisDiskPart *part, StasisImageWriter *writer, GError **error);
    /* Before each stop, the VM running; after one that failed, again. @since: the image's parent,
     * or NULL. */
    gboolean (*get_ready)(StasisDiskPart *part, const char *image, const char *since,
                          GError **error);
    /* After declare(): is there a disk to be taken? */
    gboolean (*has_any)(const StasisDiskPart *part);
    /* Can they be taken only by commands to QEMU's monitor in the stop? */
    gboolean (*needs_monitor)(const StasisDiskPart *part);
    /* What takes them in the stop; NULL: there is nothing to take. */
    StasisDiskTaking *(*get_taking)(StasisDiskPart *part);
    /* After the stop: their content, into the image. */
    gboolean (*run)(StasisDiskPart *part, StasisCopy *copy, guint n_threads, GError **error);
    /* After that: the part "disks.json". */
    gboolean (*describe)(StasisDiskPart *part, StasisImageWriter *writer, GError **error);
    /* The image is in the store: what it refers to is not to be touched any more. */
    void (*keep)(StasisDiskPart *part);
    /* … and the VM's next image will be its child. */
    void (*settle)(StasisDiskPart *part);
    guint64 (*get_bytes)(const StasisDiskPart *part); /* that were read */
} StasisDiskPartOps;

/* Each way's object begins with it. */
struct _StasisDiskPart {
    const StasisDiskPartOps *ops;
    GPtrArray *disks; /* of StasisDisk: all of the VM's; NULL: not known */
};

extern const StasisDiskPartOps stasis_disk_copy_ops, stasis_disk_freezing_ops;

/* None of the following fails or does anything where the way has no such step. */
StasisDiskPart *stasis_disk_part_open(StasisDisks way, const StasisDiskPartWanted *wanted,
                                      GError **error);
void stasis_disk_part_free(StasisDiskPart *part);
gboolean stasis_disk_part_declare(StasisDiskPart *part, StasisImageWriter *writer, GError **error);
gboolean stasis_disk_part_get_ready(StasisDiskPart *part, const char *image, const char *since,
                                    GError **error);
/* Does it leave anything in QEMU that someone has to clear away if we die? */
gboolean stasis_disk_part_is_untidy(const StasisDiskPart *part);
gboolean stasis_disk_part_has_any(const StasisDiskPart *part);
gboolean stasis_disk_part_needs_monitor(const StasisDiskPart *part);
StasisDiskTaking *stasis_disk_part_get_taking(StasisDiskPart *part);
gboolean stasis_disk_part_run(StasisDiskPart *part, StasisCopy *copy, guint n_threads,
                              GError **error);
gboolean stasis_disk_part_describe(StasisDiskPart *part, StasisImageWriter *writer, GError **error);
void stasis_disk_part_keep(StasisDiskPart *part);
void stasis_disk_part_settle(StasisDiskPart *part);
guint64 stasis_disk_part_get_bytes(const StasisDiskPart *part);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisDiskPart, stasis_disk_part_free)

G_END_DECLS

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/disks/disk-part.h"

#include <string.h>

#include "disk/disk.h"

/* ---- none: they stay out of the image, but the stop takes its time for them, too ---- */

static const StasisDiskPartOps none_ops;

static StasisDiskPart *none_open(const StasisDiskPartWanted *wanted, GError **error)
{
    StasisQmp *qmp = wanted->session->qmp;
    GPtrArray *disks = stasis_disks_list(qmp, error);
    if (disks == NULL)
        return NULL;
    StasisDiskPart *part = g_new0(StasisDiskPart, 1);
    part->ops = &none_ops;
    part->disks = disks;
    stasis_disks_find_iothreads(qmp, part->disks);
    return part;
}

static void none_free(StasisDiskPart *part)
{
    g_clear_pointer(&part->disks, g_ptr_array_unref);
    g_free(part);
}

static const StasisDiskPartOps none_ops = { .name = "none", .open = none_open, .free = none_free };

/* ---- all of them ---- */

static const StasisDiskPartOps *const ways[] = {
    [STASIS_DISKS_COPY] = &stasis_disk_copy_ops,
    [STASIS_DISKS_NONE] = &none_ops,
    [STASIS_DISKS_OVERLAY] = &stasis_disk_freezing_ops,
};

int stasis_disks_from_string(const char *name)
{
    for (guint i = 0; i < G_N_ELEMENTS(ways); i++)
        if (strcmp(ways[i]->name, name) == 0)
            return (int)i;
    return -1;
}

StasisDiskPart *stasis_disk_part_open(StasisDisks way, const StasisDiskPartWanted *wanted,
                                      GError **error)
{
    return ways[way]->open(wanted, error);
}

void stasis_disk_part_free(StasisDiskPart *part)
{
    if (part != NULL)
        part->ops->free(part);
}

gboolean stasis_disk_part_declare(StasisDiskPart *part, StasisImageWriter *writer, GError **error)
{
    return part->ops->declare == NULL || part->ops->declare(part, writer, error);
}

gboolean stasis_disk_part_get_ready(StasisDiskPart *part, const char *image, const char *since,
                                    GError **error)
{
    return part->ops->get_ready == NULL || part->ops->get_ready(part, image, since, error);
}

gboolean stasis_disk_part_is_untidy(const StasisDiskPart *part)
{
    return part->ops->get_ready != NULL;
}

gboolean stasis_disk_part_has_any(const StasisDiskPart *part)
{
    return part->ops->has_any != NULL && part->ops->has_any(part);
}

gboolean stasis_disk_part_needs_monitor(const StasisDiskPart *part)
{
    return part->ops->needs_monitor != NULL && part->ops->needs_monitor(part);
}

StasisDiskTaking *stasis_disk_part_get_taking(StasisDiskPart *part)
{
    return part->ops->get_taking != NULL ? part->ops->get_taking(part) : NULL;
}

gboolean stasis_disk_part_run(StasisDiskPart *part, StasisCopy *copy, guint n_threads,
                              GError **error)
{
    return part->ops->run == NULL || part->ops->run(part, copy, n_threads, error);
}

gboolean stasis_disk_part_describe(StasisDiskPart *part, StasisImageWriter *writer, GError **error)
{
    return part->ops->describe == NULL || part->ops->describe(part, writer, error);
}

void stasis_disk_part_keep(StasisDiskPart *part)
{
    if (part->ops->keep != NULL)
        part->ops->keep(part);
}

void stasis_disk_part_settle(StasisDiskPart *part)
{
    if (part->ops->settle != NULL)
        part->ops->settle(part);
}

guint64 stasis_disk_part_get_bytes(const StasisDiskPart *part)
{
    return part->ops->get_bytes != NULL ? part->ops->get_bytes(part) : 0;
}

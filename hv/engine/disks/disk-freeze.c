/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/disks/disk-freeze.h"

#include <stasis/error.h>
#include <string.h>

#include "base/fault.h"
#include "disk/describe.h"
#include "disk/freeze.h"
#include "engine/disks/domain-freeze.h"
#include "vmm/machine.h"

typedef struct {
    StasisDiskPart part;
    StasisSession *session;
    StasisStore *store;
    char *cwd;
    StasisDiskFreeze *freeze;          /* or NULL */
    StasisDomainFreeze *domain_freeze; /* instead, for a libvirt domain */
} Freezing;

static Freezing *of(const StasisDiskPart *part)
{
    return (Freezing *)part;
}

gboolean stasis_disk_freezing_note(StasisRecord *record, char **files, const char *image,
                                   const char *store, GError **error)
{
    g_strfreev(record->overlay_files);
    g_free(record->overlay_image);
    g_free(record->overlay_store);
    record->overlay_files = g_strdupv(files);
    record->overlay_image = g_strdup(image);
    record->overlay_store = g_strdup(store);
    return stasis_record_save(record, error);
}

static gboolean check_lasting(const StasisRecord *record, GError **error)
{
    if (!record->disks_temporary)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "the disks of VM %s go when it ends, and with them what the image would refer to; "
                "use --disk copy",
                record->name);
    return FALSE;
}

static void take_back(Freezing *freezing)
{
    if (freezing->freeze == NULL && freezing->domain_freeze == NULL)
        return;
    g_clear_pointer(&freezing->freeze, stasis_disk_freeze_free);
    g_clear_pointer(&freezing->domain_freeze, stasis_domain_freeze_free);
    /* Looks whether it has worked. */
    stasis_disk_freezing_sweep(freezing->session, NULL);
}

static void freezing_free(StasisDiskPart *part)
{
    take_back(of(part));
    g_clear_pointer(&part->disks, g_ptr_array_unref);
    g_free(of(part)->cwd);
    g_free(part);
}

static StasisDiskPart *freezing_open(const StasisDiskPartWanted *wanted, GError **error)
{
    Freezing *freezing = g_new0(Freezing, 1);
    g_autoptr(StasisDiskPart) part = &freezing->part;
    part->ops = &stasis_disk_freezing_ops;
    freezing->session = wanted->session;
    freezing->store = wanted->store;
    freezing->cwd = g_strdup(wanted->cwd);
    if (!check_lasting(wanted->session->record, error))
        return NULL;
    part->disks = stasis_disks_list(wanted->session->qmp, error);
    if (part->disks == NULL || !stasis_disks_check(wanted->session->qmp, part->disks, error))
        return NULL;
    return g_steal_pointer(&part);
}

/* Has the VM a disk that it writes to? */
static gboolean has_any(const StasisDiskPart *part)
{
    for (guint i = 0; i < part->disks->len; i++)
        if (stasis_disk_at(part->disks, i)->writable)
            return TRUE;
    return FALSE;
}

/* libvirt, which puts overlays in place, has only that way to QEMU. */
static gboolean needs_monitor(const StasisDiskPart *part)
{
    return of(part)->session->domain != NULL;
}

static gboolean get_ready(StasisDiskPart *part, const char *image, G_GNUC_UNUSED const char *since,
                          GError **error)
{
    Freezing *freezing = of(part);
    StasisSession *session = freezing->session;
    /* Of a stop that failed before. */
    take_back(freezing);
    if (!has_any(part))
        return TRUE;
    g_auto(GStrv) paths = stasis_disk_overlay_paths(part->disks, freezing->cwd, image, error);
    if (paths == NULL || !stasis_disk_freezing_note(session->record, paths, image,
                                                    stasis_store_get_path(freezing->store), error))
        return FALSE;
    if (session->domain != NULL)
        freezing->domain_freeze = stasis_domain_freeze_new(session, part->disks, paths, error);
    else
        freezing->freeze =
            stasis_disk_freeze_new(session->qmp, part->disks, paths, freezing->cwd, image, error);
    if (freezing->freeze != NULL || freezing->domain_freeze != NULL)
        return TRUE;
    stasis_disk_freezing_sweep(session, NULL);
    return FALSE;
}

static StasisDiskTaking *get_taking(StasisDiskPart *part)
{
    const Freezing *freezing = of(part);
    if (freezing->domain_freeze != NULL)
        return stasis_domain_freeze_get_taking(freezing->domain_freeze);
    return freezing->freeze != NULL ? stasis_disk_freeze_get_taking(freezing->freeze) : NULL;
}

/* They are closed for writing, and described. */
static gboolean describe(StasisDiskPart *part, StasisImageWriter *writer, GError **error)
{
    const Freezing *freezing = of(part);
    if (!has_any(part))
        return TRUE;
    /* libvirt has had QEMU do that. */
    if (freezing->domain_freeze != NULL && !stasis_fault(STASIS_FAULT_OVERLAY_FROZEN, error))
        return FALSE;
    if (freezing->freeze != NULL && !stasis_disk_freeze_settle(freezing->freeze, error))
        return FALSE;
    g_autoptr(GBytes) notes = stasis_disks_describe(part->disks, TRUE, freezing->cwd, error);
    if (notes == NULL)
        return FALSE;
    stasis_image_writer_set_refers(writer);
    return stasis_image_writer_add_part(writer, STASIS_DISKS_PART, notes, error);
}

static void keep(StasisDiskPart *part)
{
    Freezing *freezing = of(part);
    if (freezing->freeze == NULL && freezing->domain_freeze == NULL)
        return;
    if (freezing->freeze != NULL)
        stasis_disk_freeze_keep(freezing->freeze);
    g_clear_pointer(&freezing->domain_freeze, stasis_domain_freeze_free);
    g_clear_pointer(&freezing->freeze, stasis_disk_freeze_free);
    /* If this fails the next sweep does it. */
    if (stasis_fault(STASIS_FAULT_OVERLAY_LISTED, NULL))
        stasis_disk_freezing_note(freezing->session->record, NULL, NULL, NULL, NULL);
}

const StasisDiskPartOps stasis_disk_freezing_ops = {
    .name = "overlay",
    .open = freezing_open,
    .free = freezing_free,
    .get_ready = get_ready,
    .has_any = has_any,
    .needs_monitor = needs_monitor,
    .get_taking = get_taking,
    .describe = describe,
    .keep = keep,
};

/* ---- what was left ---- */

typedef enum { IMAGE_IS_THERE, NO_IMAGE, NOT_KNOWN } Known;

static Known is_image_there(const StasisRecord *record)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(StasisStore) store =
        stasis_store_open(record->overlay_store, STASIS_STORE_EXISTING, &local);
    g_autoptr(StasisImageInfo) info =
        store != NULL ? stasis_store_get_image(store, record->overlay_image, &local) : NULL;
    if (info != NULL)
        return IMAGE_IS_THERE;
    return store != NULL && g_error_matches(local, STASIS_ERROR, STASIS_ERROR_NOT_FOUND)
               ? NO_IMAGE
               : NOT_KNOWN;
}

gboolean stasis_disk_freezing_sweep(StasisSession *session, GError **error)
{
    StasisRecord *record = session->record;
    gboolean for_image = record->overlay_image != NULL;
    if (record->overlay_files == NULL)
        return TRUE;
    Known known = for_image && record->overlay_store != NULL ? is_image_there(record) : NO_IMAGE;
    /* The VM can stay on them for as long as it likes. */
    if (known == NOT_KNOWN)
        return TRUE;
    for (char **path = record->overlay_files; known == NO_IMAGE && *path != NULL; path++) {
        /* For no image's sake, by a rollback: what a device has already is the VM's. */
        gboolean ok = session->domain != NULL
                          ? stasis_domain_freeze_take_back(session, *path, error)
                      : for_image ? stasis_disk_overlay_take_back(session->qmp, *path, error)
                                  : stasis_disk_overlay_drop(session->qmp, *path, error);
        ok = ok && stasis_fault(STASIS_FAULT_OVERLAY_MERGED, error);
        if (!ok) {
            g_prefix_error(error, "an overlay that an interrupted command has left: ");
            return FALSE;
        }
    }
    return stasis_disk_freezing_note(record, NULL, NULL, NULL, error);
}

/* ---- the machine's command line ---- */

char **stasis_disks_on_line(const char *const *argv, const GPtrArray *disks, GError **error)
{
    g_autoptr(GArray) others = g_array_new(FALSE, TRUE, sizeof(StasisLaunchDisk));
    for (guint i = 0; i < disks->len; i++) {
        const StasisDisk *disk = stasis_disk_at(disks, i);
        StasisLaunchDisk other = { .name = disk->name,
                                   .node = disk->line_node,
                                   .filename = disk->line_filename,
                                   .path = disk->filename };
        if (strcmp(disk->node, disk->line_node) != 0)
            g_array_append_val(others, other);
    }
    return others->len > 0
               ? stasis_machine_line_with_disks(
                     argv, (const StasisLaunchDisk *)(void *)others->data, others->len, error)
               : NULL;
}

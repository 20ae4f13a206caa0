/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/disk-freeze.h"

#include <stasis/error.h>
#include <string.h>

#include "base/fault.h"
#include "disk/describe.h"
#include "disk/freeze.h"
#include "engine/domain-freeze.h"
#include "vmm/machine.h"

struct _StasisDiskFreezing {
    StasisSession *session;
    StasisStore *store;
    char *cwd;
    GPtrArray *disks;                  /* of StasisDisk */
    StasisDiskFreeze *freeze;          /* or NULL */
    StasisDomainFreeze *domain_freeze; /* instead, for a libvirt domain */
};

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

StasisDiskFreezing *stasis_disk_freezing_new(StasisSession *session, StasisStore *store,
                                             const char *cwd, GError **error)
{
    g_autoptr(StasisDiskFreezing) freezing = g_new0(StasisDiskFreezing, 1);
    freezing->session = session;
    freezing->store = store;
    freezing->cwd = g_strdup(cwd);
    if (!check_lasting(session->record, error))
        return NULL;
    freezing->disks = stasis_disks_list(session->qmp, error);
    if (freezing->disks == NULL || !stasis_disks_check(session->qmp, freezing->disks, error))
        return NULL;
    return g_steal_pointer(&freezing);
}

static void take_back(StasisDiskFreezing *freezing)
{
    if (freezing->freeze == NULL && freezing->domain_freeze == NULL)
        return;
    g_clear_pointer(&freezing->freeze, stasis_disk_freeze_free);
    g_clear_pointer(&freezing->domain_freeze, stasis_domain_freeze_free);
    /* Looks whether it has worked. */
    stasis_disk_freezing_sweep(freezing->session, NULL);
}

void stasis_disk_freezing_free(StasisDiskFreezing *freezing)
{
    if (freezing == NULL)
        return;
    take_back(freezing);
    g_clear_pointer(&freezing->disks, g_ptr_array_unref);
    g_free(freezing->cwd);
    g_free(freezing);
}

GPtrArray *stasis_disk_freezing_get_all(const StasisDiskFreezing *freezing)
{
    return g_ptr_array_ref(freezing->disks);
}

gboolean stasis_disk_freezing_has_any(const StasisDiskFreezing *freezing)
{
    for (guint i = 0; i < freezing->disks->len; i++)
        if (stasis_disk_at(freezing->disks, i)->writable)
            return TRUE;
    return FALSE;
}

gboolean stasis_disk_freezing_get_ready(StasisDiskFreezing *freezing, const char *image,
                                        GError **error)
{
    StasisSession *session = freezing->session;
    /* Of a stop that failed before. */
    take_back(freezing);
    if (!stasis_disk_freezing_has_any(freezing))
        return TRUE;
    g_auto(GStrv) paths = stasis_disk_overlay_paths(freezing->disks, freezing->cwd, image, error);
    if (paths == NULL || !stasis_disk_freezing_note(session->record, paths, image,
                                                    stasis_store_get_path(freezing->store), error))
        return FALSE;
    if (session->domain != NULL)
        freezing->domain_freeze = stasis_domain_freeze_new(session, freezing->disks, paths, error);
    else
        freezing->freeze = stasis_disk_freeze_new(session->qmp, freezing->disks, paths,
                                                  freezing->cwd, image, error);
    if (freezing->freeze != NULL || freezing->domain_freeze != NULL)
        return TRUE;
    stasis_disk_freezing_sweep(session, NULL);
    return FALSE;
}

StasisDiskTaking *stasis_disk_freezing_get_taking(StasisDiskFreezing *freezing)
{
    if (freezing->domain_freeze != NULL)
        return stasis_domain_freeze_get_taking(freezing->domain_freeze);
    return freezing->freeze != NULL ? stasis_disk_freeze_get_taking(freezing->freeze) : NULL;
}

GBytes *stasis_disk_freezing_end(StasisDiskFreezing *freezing, GError **error)
{
    /* libvirt has had QEMU do that. */
    if (freezing->domain_freeze != NULL && !stasis_fault(STASIS_FAULT_OVERLAY_FROZEN, error))
        return NULL;
    if (freezing->freeze != NULL && !stasis_disk_freeze_settle(freezing->freeze, error))
        return NULL;
    return stasis_disks_describe(freezing->disks, TRUE, freezing->cwd, error);
}

void stasis_disk_freezing_settle(StasisDiskFreezing *freezing)
{
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

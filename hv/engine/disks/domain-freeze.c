/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/disks/domain-freeze.h"

#include <errno.h>
#include <stasis/error.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/io.h"
#include "disk/freeze.h"
#include "disk/pivot.h"
#include "vmm/domain-disks.h"

struct _StasisDomainFreeze {
    StasisDiskTaking taking;
    StasisDomain *domain;
    char *xml; /* of the snapshot */
};

static gboolean take(StasisDiskTaking *taking, guint64 deadline_us, GError **error)
{
    StasisDomainFreeze *freeze = (StasisDomainFreeze *)taking;
    if (deadline_us != 0 && stasis_now_us() > deadline_us) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_BUDGET,
                            "the pause would have been longer than allowed (libvirt's snapshot of "
                            "the disks); the VM runs on");
        return FALSE;
    }
    return stasis_domain_snapshot_disks(freeze->domain, freeze->xml, error) &&
           stasis_fault(STASIS_FAULT_DISK_TAKEN, error);
}

static const StasisDiskTakingOps taking_ops = { .take = take };

static gboolean make_files(const GPtrArray *bases, char **paths, const GPtrArray *disks,
                           GError **error)
{
    for (guint i = 0, n = 0; i < disks->len; i++) {
        const StasisDisk *disk = stasis_disk_at(disks, i);
        if (!disk->writable)
            continue;
        const char *base = g_ptr_array_index(bases, n);
        if (!stasis_disk_overlay_make(paths[n], base, base, disk->format, disk->size_bytes,
                                      error) ||
            !stasis_fault(STASIS_FAULT_OVERLAY_MADE, error))
            return FALSE;
        n++;
    }
    return TRUE;
}

StasisDomainFreeze *stasis_domain_freeze_new(StasisSession *session, const GPtrArray *disks,
                                             char **paths, GError **error)
{
    g_autoptr(GPtrArray) bases = g_ptr_array_new();
    for (guint i = 0; i < disks->len; i++)
        if (stasis_disk_at(disks, i)->writable)
            g_ptr_array_add(bases, stasis_disk_at(disks, i)->filename);
    g_autoptr(StasisDomainFreeze) freeze = g_new0(StasisDomainFreeze, 1);
    freeze->taking.ops = &taking_ops;
    freeze->domain = session->domain;
    freeze->xml = stasis_domain_snapshot_xml(session->domain, (const char *const *)bases->pdata,
                                             (const char *const *)paths, bases->len, error);
    if (freeze->xml == NULL || !make_files(bases, paths, disks, error))
        return NULL;
    return stasis_fault(STASIS_FAULT_DISK_READY, error) ? g_steal_pointer(&freeze) : NULL;
}

StasisDiskTaking *stasis_domain_freeze_get_taking(StasisDomainFreeze *freeze)
{
    return &freeze->taking;
}

void stasis_domain_freeze_free(StasisDomainFreeze *freeze)
{
    if (freeze == NULL)
        return;
    g_free(freeze->xml);
    g_free(freeze);
}

/* The disk that writes to the file at @path; NULL: none does. */
static const StasisDisk *find_top(const GPtrArray *disks, const char *path)
{
    for (guint i = 0; i < disks->len; i++) {
        const GPtrArray *layers = stasis_disk_at(disks, i)->layers;
        if (g_str_equal(((StasisDiskLayer *)g_ptr_array_index(layers, 0))->path, path))
            return stasis_disk_at(disks, i);
    }
    return NULL;
}

static gboolean commit(StasisSession *session, const char *path, gboolean *ret_was, GError **error)
{
    g_autoptr(StasisStandstill) still = NULL;
    g_autoptr(GPtrArray) disks = stasis_disks_list(session->qmp, error);
    if (disks == NULL)
        return FALSE;
    const StasisDisk *disk = find_top(disks, path);
    if (disk != NULL && stasis_disk_pivot_needs_standstill(session->qmp, disk)) {
        still = stasis_standstill_new(session->qmp, error);
        if (still == NULL)
            return FALSE;
    }
    return stasis_domain_commit_disk(session->domain, path, still, ret_was, error);
}

gboolean stasis_domain_freeze_take_back(StasisSession *session, const char *path, GError **error)
{
    gboolean was, above = FALSE;
    if (!commit(session, path, &was, error))
        return FALSE;
    /* Something is on top of it by now. */
    g_autoptr(GPtrArray) disks = stasis_disks_list(session->qmp, error);
    for (guint i = 0; disks != NULL && i < disks->len; i++) {
        const GPtrArray *layers = stasis_disk_at(disks, i)->layers;
        for (guint k = 0; k < layers->len; k++)
            above |= g_str_equal(((StasisDiskLayer *)g_ptr_array_index(layers, k))->path, path);
    }
    if (disks == NULL || above)
        return disks != NULL;
    return unlink(path) == 0 || errno == ENOENT ||
           stasis_set_errno(error, errno, "remove %s", path);
}

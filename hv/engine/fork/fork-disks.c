/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/fork/fork-disks.h"

#include <errno.h>
#include <fcntl.h>

#include "base/fd.h"
#include "base/io.h"
#include "disk/describe.h"
#include "disk/overlay.h"

/* As in an image that has the disks' content. Borrows what the snapshot knows. */
static GPtrArray *describe(const StasisDiskSnapshot *snapshot)
{
    GPtrArray *notes = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < stasis_disk_snapshot_get_n(snapshot); i++) {
        const StasisDisk *disk = stasis_disk_snapshot_get(snapshot, i);
        StasisDiskNote *note = g_new0(StasisDiskNote, 1);
        note->name = disk->name;
        note->node = disk->line_node;
        note->filename = disk->filename;
        g_ptr_array_add(notes, note);
    }
    return notes;
}

static gboolean make_file(const StasisDiskSnapshot *snapshot, guint i, const char *path,
                          GError **error)
{
    const StasisDisk *disk = stasis_disk_snapshot_get(snapshot, i);
    g_autofree char *uri = stasis_disk_snapshot_get_uri(snapshot, i);
    g_autoptr(GBytes) bytes = stasis_overlay_new(disk->size_bytes, uri, "raw", error);
    if (bytes == NULL) {
        g_prefix_error(error, "disk %s: ", disk->name);
        return FALSE;
    }
    gsize len;
    const void *data = g_bytes_get_data(bytes, &len);
    stasis_autofd int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int r = fd >= 0 ? stasis_write_all(fd, data, len) : -errno;
    return r == 0 || stasis_set_errno(error, -r, "write %s", path);
}

StasisVmDisks *stasis_fork_disks_new(const StasisDiskSnapshot *snapshot, const char *dir,
                                     GError **error)
{
    g_autoptr(GPtrArray) notes = describe(snapshot);
    g_autoptr(StasisVmDisks) disks = stasis_vm_disks_plan(notes, dir);
    for (guint i = 0; i < disks->disks->len; i++)
        if (!make_file(snapshot, i, g_array_index(disks->disks, StasisLaunchDisk, i).path, error))
            return NULL;
    return g_steal_pointer(&disks);
}

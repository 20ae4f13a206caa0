/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/disks/disk-swap.h"

#include <stasis/error.h>
#include <string.h>

#include "base/fault.h"
#include "disk/describe.h"
#include "disk/freeze.h"
#include "disk/internal.h"
#include "engine/disks/disk-freeze.h"

struct _StasisDiskSwap {
    StasisSession *session;
    const GPtrArray *notes;
    GPtrArray *old;   /* of StasisDisk: all of the VM's as they were before put(), or NULL */
    GPtrArray *bases; /* of char: nodes that the new overlays lie on, and others have open */
};

static gboolean changed(const char *name, const char *what, GError **error)
{
    g_autofree char *shown = g_strescape(name, NULL);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "disk %.200s %s: the machine has changed since; restore the image as a new VM",
                shown, what);
    return FALSE;
}

static const StasisDiskNote *find_note(const GPtrArray *notes, const char *name)
{
    for (guint i = 0; i < notes->len; i++) {
        const StasisDiskNote *note = g_ptr_array_index(notes, i);
        if (strcmp(note->name, name) == 0)
            return note;
    }
    return NULL;
}

static gboolean match(const GPtrArray *disks, const GPtrArray *notes, GError **error)
{
    guint n = 0;
    for (guint i = 0; i < disks->len; i++) {
        const StasisDisk *disk = stasis_disk_at(disks, i);
        const StasisDiskNote *note = find_note(notes, disk->name);
        if (!disk->writable)
            continue;
        if (note == NULL)
            return changed(disk->name, "of the machine is not in the image", error);
        if (note->size_bytes != disk->size_bytes)
            return changed(disk->name, "has another size in the image", error);
        if (disk->has_iothread)
            return changed(disk->name, "has an iothread now", error);
        if (!stasis_disk_note_check(note, error))
            return FALSE;
        n++;
    }
    return n == notes->len ||
           changed("of the image", "is not in the machine, or not written to", error);
}

StasisDiskSwap *stasis_disk_swap_new(StasisSession *session, const GPtrArray *notes, GError **error)
{
    if (session->domain != NULL) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                            "the image refers to the files of the domain's disks, and libvirt "
                            "can't be told of others while a domain runs: end the domain and "
                            "`stasis restore` the image, or `stasis clone` it beside the domain");
        return NULL;
    }
    g_autoptr(GPtrArray) disks = stasis_disks_list(session->qmp, error);
    if (disks == NULL || !stasis_disks_check(session->qmp, disks, error) ||
        !match(disks, notes, error))
        return NULL;
    StasisDiskSwap *swap = g_new0(StasisDiskSwap, 1);
    swap->session = session;
    swap->notes = notes;
    swap->bases = g_ptr_array_new_with_free_func(g_free);
    return swap;
}

void stasis_disk_swap_free(StasisDiskSwap *swap)
{
    if (swap == NULL)
        return;
    g_clear_pointer(&swap->old, g_ptr_array_unref);
    g_ptr_array_unref(swap->bases);
    g_free(swap);
}

/* ---- stopped ---- */

static const StasisDiskLayer *base_of(const StasisDiskSwap *swap, const StasisDisk *disk)
{
    return g_ptr_array_index(find_note(swap->notes, disk->name)->layers, 0);
}

static gboolean has_layer(const GPtrArray *layers, const char *path)
{
    for (guint i = 0; i < layers->len; i++)
        if (strcmp(((const StasisDiskLayer *)g_ptr_array_index(layers, i))->path, path) == 0)
            return TRUE;
    return FALSE;
}

/* An overlay of ours, which no image refers to as long as a VM writes to it. */
static gboolean is_given_up(const StasisDiskSwap *swap, const StasisDisk *disk)
{
    return g_str_has_prefix(disk->node, STASIS_DISK_OVERLAY_PREFIX) &&
           stasis_disk_is_overlay_path(disk->filename) &&
           !has_layer(find_note(swap->notes, disk->name)->layers, disk->filename);
}

/* The new files, one for each disk, and behind them those that are given up: whichever of them no
 * device has in the end, is to go. */
static char **choose_paths(const StasisDiskSwap *swap, const char *id)
{
    GPtrArray *paths = g_ptr_array_new();
    for (guint i = 0; i < swap->old->len; i++) {
        const StasisDisk *disk = stasis_disk_at(swap->old, i);
        if (disk->writable)
            g_ptr_array_add(paths, stasis_disk_overlay_path(base_of(swap, disk)->path, id));
    }
    for (guint i = 0; i < swap->old->len; i++) {
        const StasisDisk *disk = stasis_disk_at(swap->old, i);
        if (disk->writable && is_given_up(swap, disk))
            g_ptr_array_add(paths, g_strdup(disk->filename));
    }
    g_ptr_array_add(paths, NULL);
    return (char **)g_ptr_array_free(paths, FALSE);
}

static gboolean put_disk(StasisDiskSwap *swap, const StasisDisk *disk, const char *path,
                         const char *id, guint *number, GError **error)
{
    StasisSession *session = swap->session;
    const GPtrArray *layers = find_note(swap->notes, disk->name)->layers;
    const StasisDiskLayer *base = g_ptr_array_index(layers, 0);
    g_autofree char *link = g_strdup_printf("/proc/%d/cwd", (int)session->record->pid);
    g_autofree char *cwd = g_file_read_link(link, NULL);
    g_autofree char *node = stasis_disk_overlay_node(id, (*number)++);
    g_autofree char *below =
        stasis_disk_layers_open(session->qmp, disk, layers, cwd, id, number, error);
    if (below == NULL)
        return FALSE;
    /* The VM writes to the very file that it goes back to. */
    if (strcmp(below, disk->node) == 0)
        g_ptr_array_add(swap->bases, g_strdup(below));
    return stasis_disk_overlay_make(path, base->path, base->path, base->format, disk->size_bytes,
                                    error) &&
           stasis_disk_overlay_open(session->qmp, disk, path, node, below, error) &&
           stasis_fault(STASIS_FAULT_ROLLBACK_DISK, error) &&
           stasis_disk_run(session->qmp, "qom-set", stasis_disk_give_args(disk->qdev, node), error);
}

gboolean stasis_disk_swap_put(StasisDiskSwap *swap, GError **error)
{
    StasisSession *session = swap->session;
    g_autofree char *id = stasis_id_new(NULL, error);
    g_clear_pointer(&swap->old, g_ptr_array_unref);
    g_ptr_array_set_size(swap->bases, 0);
    swap->old = id != NULL ? stasis_disks_list(session->qmp, error) : NULL;
    if (swap->old == NULL || !match(swap->old, swap->notes, error))
        return FALSE;
    g_auto(GStrv) paths = choose_paths(swap, id);
    if (!stasis_disk_freezing_note(session->record, paths, NULL, NULL, error))
        return FALSE;
    guint number = 0;
    for (guint i = 0, n = 0; i < swap->old->len; i++) {
        const StasisDisk *disk = stasis_disk_at(swap->old, i);
        if (!disk->writable || put_disk(swap, disk, paths[n++], id, &number, error))
            continue;
        g_prefix_error(error, "disk %s: ", disk->name);
        return FALSE;
    }
    return TRUE;
}

/* ---- after it ---- */

/* Images refer to what is below the topmost one, perhaps: those files stay. */
static void close_below(const StasisDiskSwap *swap, const StasisDisk *disk)
{
    const GPtrArray *kept = find_note(swap->notes, disk->name)->layers;
    for (guint i = 0; i < disk->layers->len; i++) {
        const StasisDiskLayer *layer = g_ptr_array_index(disk->layers, i);
        if (has_layer(kept, layer->path))
            return;
        stasis_disk_overlay_close(swap->session->qmp, layer->path, NULL);
    }
}

gboolean stasis_disk_swap_settle(StasisDiskSwap *swap, GError **error)
{
    for (guint i = 0; i < swap->bases->len; i++)
        if (!stasis_disk_reopen_read_only(swap->session->qmp, g_ptr_array_index(swap->bases, i),
                                          error))
            return FALSE;
    if (!stasis_disk_freezing_sweep(swap->session, error))
        return FALSE;
    for (guint i = 0; i < swap->old->len; i++)
        if (stasis_disk_at(swap->old, i)->writable)
            close_below(swap, stasis_disk_at(swap->old, i));
    return TRUE;
}

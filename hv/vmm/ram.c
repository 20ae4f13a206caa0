/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finding every RAM block of a running QEMU.
 *
 * Names and sizes are from HMP `info ramblock`; addresses too with QEMU 8.0 or newer, else from
 * QEMU's records in its heap (ram-scan.c). Then each block's mapping must be one object that is
 * long enough, no two blocks may overlap, and wherever the guest has a block mapped at the moment,
 * QEMU's own answer (`gpa2hva`) must be the same address.
 *
 * The machine may run, so its firmware may resize a table or move a mapping between two questions:
 * a try that fails on that is made again, twice, before it counts.
 */
#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <string.h>

#include "base/fd.h"
#include "base/io.h"
#include "vmm/ram-internal.h"
#include "vmm/shim-page.h"

#define PAGE_BYTES 4096
#define TRIES 3

static void block_free(gpointer data)
{
    StasisRamBlock *block = data;
    stasis_close_fdp(&block->fd);
    stasis_close_fdp(&block->source_fd);
    g_free(block->name);
    g_free(block);
}

void stasis_ram_free(StasisRam *ram)
{
    if (ram == NULL)
        return;
    stasis_close_fdp(&ram->pagemap_fd);
    g_ptr_array_unref(ram->blocks);
    g_free(ram);
}

static int compare_names(gconstpointer a, gconstpointer b)
{
    const StasisRamBlock *x = *(StasisRamBlock *const *)a, *y = *(StasisRamBlock *const *)b;
    return strcmp(x->name, y->name);
}

static int compare_addresses(gconstpointer a, gconstpointer b)
{
    const StasisRamBlock *x = *(StasisRamBlock *const *)a, *y = *(StasisRamBlock *const *)b;
    return x->hva < y->hva ? -1 : x->hva > y->hva;
}

static gboolean check_apart(StasisRam *ram, GError **error)
{
    g_ptr_array_sort(ram->blocks, compare_addresses);
    for (guint i = 1; i < ram->blocks->len; i++) {
        const StasisRamBlock *low = g_ptr_array_index(ram->blocks, i - 1);
        const StasisRamBlock *high = g_ptr_array_index(ram->blocks, i);
        if (high->hva - low->hva >= low->max_bytes)
            continue;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "RAM blocks \"%s\" and \"%s\" seem to overlap at 0x%" G_GINT64_MODIFIER
                    "x in QEMU %d",
                    low->name, high->name, high->hva, (int)ram->pid);
        return FALSE;
    }
    return TRUE;
}

static gboolean add_block(StasisRam *ram, const GPtrArray *maps, const StasisRamEntry *entry,
                          GError **error)
{
    StasisRamBlock *block = g_new0(StasisRamBlock, 1);
    *block = (StasisRamBlock){
        .name = g_strdup(entry->name),
        .hva = entry->hva,
        .size_bytes = (entry->used_bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES,
        .max_bytes = (entry->max_bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES,
        .page_bytes = entry->page_bytes,
        .fd = -1,
        .source_fd = -1,
    };
    g_ptr_array_add(ram->blocks, block);
    ram->total_bytes += block->size_bytes;
    return stasis_ram_open_backing(ram->pid, maps, block, error);
}

/* Has the shim given KVM a mapping of its own of this block? It must be one of the same memory: if
 * not, the two were read at different moments. */
static gboolean find_view(StasisRam *ram, const GPtrArray *maps,
                          const struct stasis_shim_page *page, StasisRamBlock *block,
                          GError **error)
{
    int i = stasis_shim_page_find(page, block->hva, block->max_bytes);
    if (i < 0)
        return TRUE;
    guint64 view = page->ranges[i].view + (block->hva - page->ranges[i].address);
    const StasisMapping *own = stasis_procmaps_cover(maps, block->hva, block->max_bytes);
    const StasisMapping *other = stasis_procmaps_cover(maps, view, block->max_bytes);
    if (own != NULL && other != NULL && own->shared && other->shared && own->inode != 0 &&
        own->inode == other->inode && own->dev_major == other->dev_major &&
        own->dev_minor == other->dev_minor &&
        own->offset + (block->hva - own->start) == other->offset + (view - other->start)) {
        block->view_hva = view;
        return TRUE;
    }
    g_set_error(
        error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
        "RAM block \"%s\": the shim in QEMU %d says that KVM has it at 0x%" G_GINT64_MODIFIER
        "x, and other memory is there",
        block->name, (int)ram->pid, view);
    return FALSE;
}

static gboolean find_views(StasisRam *ram, const GPtrArray *maps, GError **error)
{
    struct stasis_shim_page page;
    if (!stasis_shim_page_read(ram->pid, &page))
        return TRUE;
    for (guint i = 0; i < ram->blocks->len; i++)
        if (!find_view(ram, maps, &page, g_ptr_array_index(ram->blocks, i), error))
            return FALSE;
    return TRUE;
}

static int open_pagemap(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/pagemap", (int)pid);
    return open(path, O_RDONLY | O_CLOEXEC);
}

/* The question that decides whether any of this can work is asked first and by name. */
static gboolean check_access(const StasisRam *ram, const StasisMapping *any, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/mem", (int)ram->pid);
    stasis_autofd int fd = open(path, O_RDONLY | O_CLOEXEC);
    char byte;
    if (fd >= 0 && pread(fd, &byte, 1, (off_t)any->start) == 1)
        return TRUE;
    int errnum = errno;
    return stasis_set_errno(
        error, errnum,
        "can't read the memory of QEMU %d; run as root, or as QEMU's user with CAP_SYS_PTRACE",
        (int)ram->pid);
}

static StasisRam *discover_once(StasisQmp *qmp, pid_t pid, gboolean *ret_raced, GError **error)
{
    *ret_raced = FALSE;
    g_autofree char *text = stasis_qmp_human(qmp, "info ramblock", error);
    g_autoptr(GPtrArray) entries = text != NULL ? stasis_ram_list_parse(text, error) : NULL;
    g_autoptr(GPtrArray) maps = entries != NULL ? stasis_procmaps_read(pid, error) : NULL;
    if (maps == NULL)
        return NULL;
    g_autoptr(StasisRam) ram = g_new0(StasisRam, 1);
    ram->pid = pid;
    ram->blocks = g_ptr_array_new_with_free_func(block_free);
    ram->pagemap_fd = open_pagemap(pid);
    if (!check_access(ram, g_ptr_array_index(maps, 0), error))
        return NULL;
    *ret_raced = TRUE;
    if (!stasis_ram_scan(pid, maps, entries, error))
        return NULL;
    for (guint i = 0; i < entries->len; i++) {
        const StasisRamEntry *entry = g_ptr_array_index(entries, i);
        if (*entry->name != '\0' && !add_block(ram, maps, entry, error))
            return NULL;
    }
    if (!check_apart(ram, error) || !find_views(ram, maps, error))
        return NULL;
    g_ptr_array_sort(ram->blocks, compare_names);
    /* The layout is made for its checks: each range that the guest sees is held against us. */
    g_autoptr(GPtrArray) layout = stasis_gpa_layout_once(qmp, ram, ret_raced, error);
    return layout != NULL ? g_steal_pointer(&ram) : NULL;
}

StasisRam *stasis_ram_discover(StasisQmp *qmp, pid_t pid, GError **error)
{
    for (int try = 1;; try++) {
        g_autoptr(GError) local = NULL;
        gboolean raced;
        StasisRam *ram = discover_once(qmp, pid, &raced, &local);
        if (ram != NULL)
            return ram;
        if (!raced || try == TRIES) {
            g_propagate_error(error, g_steal_pointer(&local));
            return NULL;
        }
    }
}

StasisRamBlock *stasis_ram_find(StasisRam *ram, const char *name, guint *ret_index)
{
    guint low = 0, high = ram->blocks->len;
    while (low < high) {
        guint mid = low + (high - low) / 2;
        StasisRamBlock *block = g_ptr_array_index(ram->blocks, mid);
        int order = strcmp(name, block->name);
        if (order == 0) {
            if (ret_index != NULL)
                *ret_index = mid;
            return block;
        }
        if (order < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "track/uffd-ram.h"

#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/io.h"

#define PAGE 4096u
/* A vCPU that faults in a range that is being protected waits for all of it: a fraction of a
 * millisecond for this much. */
#define PIECE_BYTES ((guint64)16 << 20)

static guint64 round_up(guint64 n, guint64 unit)
{
    return (n + unit - 1) / unit * unit;
}

/* A resizeable block may grow later: what is registered is all that is mapped. */
static guint64 mapped_bytes(const StasisRamBlock *block)
{
    return round_up(MAX(block->max_bytes, block->size_bytes), block->page_bytes);
}

/* The mappings through which a block can be written: QEMU's own, and KVM's where it has another. */
static guint n_mappings(const StasisRamBlock *block)
{
    return block->view_hva != 0 ? 2 : 1;
}

static guint64 mapping(const StasisRamBlock *block, guint i)
{
    return i == 0 ? block->hva : block->view_hva;
}

static int register_range(const StasisUffd *uffd, const StasisRamBlock *block, guint64 offset,
                          guint64 len)
{
    int r = 0;
    for (guint i = 0; i < n_mappings(block) && r == 0; i++)
        r = stasis_uffd_register(uffd, mapping(block, i) + offset, len, UFFDIO_REGISTER_MODE_WP);
    return r;
}

static int unregister_range(const StasisUffd *uffd, const StasisRamBlock *block, guint64 offset,
                            guint64 len)
{
    int r = 0;
    for (guint i = 0; i < n_mappings(block); i++) {
        int one = stasis_uffd_unregister(uffd, mapping(block, i) + offset, len);
        r = one < 0 ? one : r;
    }
    return r;
}

int stasis_uffd_ram_register_block(const StasisUffd *uffd, const StasisRamBlock *block)
{
    return register_range(uffd, block, 0, mapped_bytes(block));
}

int stasis_uffd_ram_unregister_block(const StasisUffd *uffd, const StasisRamBlock *block)
{
    return unregister_range(uffd, block, 0, mapped_bytes(block));
}

int stasis_uffd_ram_register_pages(const StasisUffd *uffd, const StasisRamBlock *block,
                                   guint64 first, guint64 n)
{
    return register_range(uffd, block, first * PAGE, n * PAGE);
}

int stasis_uffd_ram_unregister_pages(const StasisUffd *uffd, const StasisRamBlock *block,
                                     guint64 first, guint64 n)
{
    return unregister_range(uffd, block, first * PAGE, n * PAGE);
}

gboolean stasis_uffd_ram_register(const StasisUffd *uffd, const StasisRam *ram, GError **error)
{
    for (guint i = 0; i < ram->blocks->len; i++) {
        const StasisRamBlock *block = stasis_ram_block(ram, i);
        int r = stasis_uffd_ram_register_block(uffd, block);
        if (r == 0)
            continue;
        stasis_uffd_ram_unregister(uffd, ram);
        if (r == -EBUSY)
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                        "RAM block %s: another userfaultfd has it (a restore that still loads, or "
                        "QEMU's background-snapshot); try again when it is done",
                        block->name);
        else if (r == -EINVAL)
            g_set_error(
                error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "RAM block %s: this kernel can't write-protect memory of that kind (a file on "
                "a disk, say) synchronously; use --mode live or stop",
                block->name);
        else
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                        "RAM block %s can't be write-protected: %s", block->name, g_strerror(-r));
        return FALSE;
    }
    return stasis_fault(STASIS_FAULT_REGISTERED, error);
}

static gboolean is_async(int pagemap_fd, guint64 start, guint64 len)
{
    struct page_region region;
    struct pm_scan_arg arg = {
        .size = sizeof(arg),
        .flags = PM_SCAN_CHECK_WPASYNC,
        .start = start,
        .end = start + len,
        .vec = (guint64)&region,
        .vec_len = 1,
        .max_pages = 1,
        .category_mask = PAGE_IS_WRITTEN,
        .return_mask = PAGE_IS_WRITTEN,
    };
    return ioctl(pagemap_fd, PAGEMAP_SCAN, &arg) >= 0;
}

gboolean stasis_uffd_ram_is_async(const StasisRam *ram)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/pagemap", (int)ram->pid);
    stasis_autofd int fd = open(path, O_RDONLY | O_CLOEXEC);
    for (guint i = 0; fd >= 0 && i < ram->blocks->len; i++) {
        const StasisRamBlock *block = stasis_ram_block(ram, i);
        for (guint m = 0; m < n_mappings(block); m++)
            if (!is_async(fd, mapping(block, m), block->page_bytes))
                return FALSE;
    }
    return fd >= 0;
}

void stasis_uffd_ram_unregister(const StasisUffd *uffd, const StasisRam *ram)
{
    for (guint i = 0; i < ram->blocks->len; i++)
        stasis_uffd_ram_unregister_block(uffd, stasis_ram_block(ram, i));
    stasis_fault(STASIS_FAULT_UNREGISTERED, NULL);
}

typedef int (*RangeCall)(const StasisUffd *uffd, guint64 start, guint64 len);

static int call_in_pieces(RangeCall call, const StasisUffd *uffd, const StasisRamBlock *block,
                          guint64 start, guint64 end)
{
    guint64 piece = MAX(PIECE_BYTES, block->page_bytes);
    int r = 0;
    for (guint64 n; start < end && r == 0; start += n) {
        n = MIN(end - start, piece);
        for (guint m = 0; m < n_mappings(block) && r == 0; m++)
            r = call(uffd, mapping(block, m) + start, n);
    }
    return r;
}

int stasis_uffd_ram_protect_block(const StasisUffd *uffd, const StasisRamBlock *block)
{
    return call_in_pieces(stasis_uffd_protect, uffd, block, 0,
                          round_up(block->size_bytes, block->page_bytes));
}

gboolean stasis_uffd_ram_protect(const StasisUffd *uffd, const StasisRam *ram, GError **error)
{
    for (guint i = 0; i < ram->blocks->len; i++) {
        const StasisRamBlock *block = stasis_ram_block(ram, i);
        int r = stasis_uffd_ram_protect_block(uffd, block);
        if (r < 0)
            return stasis_set_errno(error, -r, "write-protect RAM block %s", block->name);
        if (i == ram->blocks->len / 2 && !stasis_fault(STASIS_FAULT_PROTECT_HALF, error))
            return FALSE;
    }
    return stasis_fault(STASIS_FAULT_ARMED, error);
}

static int call_pages(RangeCall call, const StasisUffd *uffd, const StasisRamBlock *block,
                      guint64 first, guint64 n)
{
    guint64 start = first * PAGE / block->page_bytes * block->page_bytes;
    guint64 end = round_up((first + n) * PAGE, block->page_bytes);
    return call_in_pieces(call, uffd, block, start, end);
}

static int call_dirty(RangeCall call, const StasisUffd *uffd, const StasisRam *ram,
                      const StasisDirty *dirty)
{
    for (guint i = 0; i < ram->blocks->len; i++) {
        guint64 first = 0, n;
        for (guint64 at = 0; stasis_bitmap_next_run(dirty->blocks[i], at, G_MAXUINT64, &first, &n);
             at = first + n) {
            int r = call_pages(call, uffd, stasis_ram_block(ram, i), first, n);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

int stasis_uffd_ram_protect_dirty(const StasisUffd *uffd, const StasisRam *ram,
                                  const StasisDirty *dirty)
{
    return call_dirty(stasis_uffd_protect, uffd, ram, dirty);
}

int stasis_uffd_ram_release_dirty(const StasisUffd *uffd, const StasisRam *ram,
                                  const StasisDirty *dirty)
{
    return call_dirty(stasis_uffd_release, uffd, ram, dirty);
}

int stasis_uffd_ram_protect_pages(const StasisUffd *uffd, const StasisRamBlock *block,
                                  guint64 first, guint64 n)
{
    return call_pages(stasis_uffd_protect, uffd, block, first, n);
}

int stasis_uffd_ram_release(const StasisUffd *uffd, const StasisRamBlock *block, guint64 first,
                            guint64 n)
{
    return call_pages(stasis_uffd_release, uffd, block, first, n);
}

const StasisRamBlock *stasis_uffd_ram_at(const StasisRam *ram, guint64 address, guint *ret_block,
                                         guint64 *ret_page)
{
    for (guint i = 0; i < ram->blocks->len; i++) {
        const StasisRamBlock *block = stasis_ram_block(ram, i);
        for (guint m = 0; m < n_mappings(block); m++) {
            guint64 start = mapping(block, m);
            if (address < start || address - start >= mapped_bytes(block))
                continue;
            *ret_block = i;
            *ret_page = (address - start) / PAGE;
            return block;
        }
    }
    return NULL;
}

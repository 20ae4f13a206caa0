/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading and writing guest memory from outside, and telling what was never touched.
 *
 * Shared blocks are read and written through their file: that is the memory itself, at memory
 * speed, and holes stay holes. Huge page files can be read but not written (hugetlbfs has no
 * write), so writes go through QEMU's mapping, as all access to private memory does.
 *
 * Reading a private page that is not there would make the kernel fill QEMU's page table, and with
 * huge pages or a memfd below even allocate. So the page table (pagemap) is asked first; what it
 * does not have is zero, or still what the file below holds. A page that the guest writes between
 * question and answer reads as before that write, as any read beside a running guest may.
 *
 * Invariants: no function allocates; all are safe from any thread.
 */
#include <errno.h>
#include <linux/magic.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#include "base/io.h"
#include "vmm/ram-internal.h"

#define PAGE_BYTES 4096
#define BATCH_PAGES 512
/* What the kernel moves in one call; also keeps lengths within ssize_t. */
#define MAX_MOVE ((size_t)1 << 30)
/* How far "there is data" is taken to hold. SEEK_HOLE would tell, but walks all of the data to its
 * end: asked chunk by chunk, that is quadratic. */
#define DATA_STEP ((guint64)256 * 1024)

#define PM_PRESENT ((guint64)1 << 63)
#define PM_SWAP ((guint64)1 << 62)
#define PM_UFFD_WP ((guint64)1 << 57)
#define PM_FRAME (((guint64)1 << 55) - 1)
/* Swap type 31 with offset 1: not swapped out, only marked for write protection while absent
 * (PTE_MARKER_UFFD_WP). The frame reads as 0 without CAP_SYS_ADMIN: then we can't tell. */
#define PM_FRAME_WP_MARKER (31 | 1 << 5)

static gboolean in_bounds(const StasisRamBlock *block, guint64 offset, guint64 len)
{
    return offset <= block->max_bytes && len <= block->max_bytes - offset;
}

static int move(pid_t pid, gboolean is_write, guint64 address, void *buf, size_t len)
{
    while (len > 0) {
        struct iovec local = { buf, MIN(len, MAX_MOVE) };
        struct iovec remote = { (void *)(uintptr_t)address, local.iov_len };
        ssize_t n = is_write ? process_vm_writev(pid, &local, 1, &remote, 1, 0)
                             : process_vm_readv(pid, &local, 1, &remote, 1, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -EFAULT;
        buf = (char *)buf + n;
        address += (guint64)n;
        len -= (size_t)n;
    }
    return 0;
}

static gboolean is_absent(guint64 entry)
{
    if (entry & PM_PRESENT)
        return FALSE;
    if (entry & PM_SWAP)
        return (entry & PM_UFFD_WP) && (entry & PM_FRAME) == PM_FRAME_WP_MARKER;
    return TRUE;
}

/* How many pages from @address on, at most @max and one batch, are alike absent or alike there? 0
 * when the page table can't be read. */
static guint probe_run(const StasisRam *ram, guint64 address, guint64 max, gboolean *ret_absent)
{
    guint64 entries[BATCH_PAGES];
    off_t at = (off_t)(address / PAGE_BYTES * sizeof entries[0]);
    size_t n = MIN(max, BATCH_PAGES);
    if (ram->pagemap_fd < 0 ||
        stasis_pread_all(ram->pagemap_fd, entries, n * sizeof entries[0], at) < 0)
        return 0;
    guint run = 1;
    *ret_absent = is_absent(entries[0]);
    while (run < n && is_absent(entries[run]) == *ret_absent)
        run++;
    return run;
}

/* A private page that QEMU's page table lacks: the file's content, or zero. */
static int read_below(const StasisRamBlock *block, guint64 offset, void *dst, size_t len)
{
    if (block->source_fd >= 0)
        return stasis_pread_all(block->source_fd, dst, len, (off_t)(block->fd_offset + offset));
    memset(dst, 0, len);
    return 0;
}

/* Does read_below() know what it needs to? Not when a file is below that we could not open. */
static gboolean knows_below(const StasisRamBlock *block)
{
    return block->backing == STASIS_BACKING_ANONYMOUS || block->source_fd >= 0;
}

static int read_private(const StasisRam *ram, const StasisRamBlock *block, guint64 offset,
                        char *dst, size_t len)
{
    while (len > 0) {
        guint64 first = offset / PAGE_BYTES;
        guint64 last = (offset + len - 1) / PAGE_BYTES;
        gboolean absent = FALSE;
        guint run = knows_below(block)
                        ? probe_run(ram, block->hva + first * PAGE_BYTES, last - first + 1, &absent)
                        : 0;
        size_t n = run == 0 ? len : (size_t)((first + run) * PAGE_BYTES - offset);
        n = MIN(n, len);
        int r = run > 0 && absent ? read_below(block, offset, dst, n)
                                  : move(ram->pid, FALSE, block->hva + offset, dst, n);
        if (r < 0)
            return r;
        dst += n;
        offset += n;
        len -= n;
    }
    return 0;
}

int stasis_ram_read(const StasisRam *ram, const StasisRamBlock *block, guint64 offset, void *dst,
                    size_t len)
{
    if (!in_bounds(block, offset, len))
        return -EINVAL;
    if (!block->shared)
        return read_private(ram, block, offset, dst, len);
    if (block->fd >= 0)
        return stasis_pread_all(block->fd, dst, len, (off_t)(block->fd_offset + offset));
    return move(ram->pid, FALSE, block->hva + offset, dst, len);
}

int stasis_ram_write(const StasisRam *ram, const StasisRamBlock *block, guint64 offset,
                     const void *src, size_t len)
{
    if (!in_bounds(block, offset, len))
        return -EINVAL;
    if (block->shared && block->fd >= 0 && block->backing != STASIS_BACKING_HUGETLB) {
        int r = stasis_pwrite_all(block->fd, src, len, (off_t)(block->fd_offset + offset));
        if (r != -EBADF && r != -EPERM) /* opened read-only, or sealed: only QEMU may write */
            return r;
    }
    return move(ram->pid, TRUE, block->hva + offset, (void *)src, len);
}

/* May SEEK_DATA be believed while the file is written through a mapping? The kernel's own file
 * systems look at dirty pages too; a server behind FUSE or NFS has not seen them yet. */
static gboolean holes_are_sure(int fd)
{
    struct statfs fs;
    if (fstatfs(fd, &fs) < 0)
        return FALSE;
    switch ((guint32)fs.f_type) {
    case TMPFS_MAGIC:
    case EXT4_SUPER_MAGIC:
    case XFS_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC:
        return TRUE;
    default:
        return FALSE;
    }
}

/* Is [offset, +len) of @fd a hole, and how far? A page of shmem that was swapped out is data to the
 * kernel here. Huge page files are all data: nothing tells which pages they have. */
static gboolean file_hole(int fd, guint64 offset, guint64 len, guint64 *ret_len)
{
    *ret_len = len;
    if (!holes_are_sure(fd))
        return FALSE;
    off_t data = lseek(fd, (off_t)offset, SEEK_DATA);
    if (data < 0)
        return errno == ENXIO; /* nothing but a hole up to the end */
    if ((guint64)data > offset) {
        *ret_len = MIN((guint64)data - offset, len);
        return TRUE;
    }
    *ret_len = MIN(DATA_STEP - offset % DATA_STEP, len);
    return FALSE;
}

static gboolean private_hole(const StasisRam *ram, const StasisRamBlock *block, guint64 offset,
                             guint64 len, guint64 *ret_len)
{
    guint64 first = offset / PAGE_BYTES;
    guint64 n_pages = (offset + len - 1) / PAGE_BYTES - first + 1;
    gboolean absent = FALSE;
    guint64 run = probe_run(ram, block->hva + first * PAGE_BYTES, n_pages, &absent);
    for (guint more = (guint)run; more > 0 && run < n_pages; run += more) {
        gboolean next;
        more = probe_run(ram, block->hva + (first + run) * PAGE_BYTES, n_pages - run, &next);
        if (more == 0 || next != absent)
            break;
    }
    *ret_len = run == 0 ? len : MIN((first + run) * PAGE_BYTES - offset, len);
    return run > 0 && absent;
}

gboolean stasis_ram_is_hole(const StasisRam *ram, const StasisRamBlock *block, guint64 offset,
                            guint64 len, guint64 *ret_len)
{
    *ret_len = len;
    if (len == 0 || !in_bounds(block, offset, len))
        return FALSE;
    if (block->shared)
        return block->fd >= 0 && file_hole(block->fd, block->fd_offset + offset, len, ret_len);
    if (!knows_below(block) || !private_hole(ram, block, offset, len, ret_len))
        return FALSE;
    if (block->source_fd < 0)
        return TRUE;
    return file_hole(block->source_fd, block->fd_offset + offset, *ret_len, ret_len);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The RAM blocks of a running QEMU and where they are in its address space: main memory, and also
 * video RAM, ROMs and ACPI tables, mapped for the guest at the moment or not. Blocks without a name
 * (memory back ends that nothing uses, scratch memory of a device that saves it itself) are no
 * part of the machine's state, for QEMU's own migration neither, and are left out.
 */
#pragma once

#include <gio/gio.h>
#include <sys/types.h>

#include "vmm/qmp.h"

G_BEGIN_DECLS

typedef enum {
    STASIS_BACKING_ANONYMOUS,
    STASIS_BACKING_MEMFD,
    STASIS_BACKING_FILE,
    STASIS_BACKING_HUGETLB,
} StasisBacking;

typedef struct {
    char *name;
    guint64 hva;        /* where QEMU has it mapped */
    guint64 view_hva;   /* where KVM has it mapped a second time for the guest's writes, else 0 */
    guint64 size_bytes; /* used length, a multiple of 4096 */
    guint64 max_bytes;  /* a resizeable block may grow to this */
    guint64 page_bytes; /* 4096, or the hugetlb page size: the unit of protection */
    StasisBacking backing;
    gboolean shared;   /* MAP_SHARED */
    int fd;            /* opened read-write by us when shared (memfd, file, hugetlb), else -1; also
                          -1 when we may not open it: read and write work all the same */
    int source_fd;     /* of a private mapping: the file that shows where QEMU has not written yet,
                          read-only, else -1 */
    guint64 fd_offset; /* of the block's first byte in fd or source_fd */
} StasisRamBlock;

typedef struct {
    pid_t pid;
    guint64 total_bytes;
    GPtrArray *blocks; /* of StasisRamBlock, sorted by name */
    int pagemap_fd;    /* /proc/PID/pagemap, or -1 */
} StasisRam;

/* Find every block of QEMU @pid. One that can't be placed beyond doubt is STASIS_ERROR_UNSUPPORTED
 * by name. Needs the right to read @pid's memory. The machine may run. */
StasisRam *stasis_ram_discover(StasisQmp *qmp, pid_t pid, GError **error);
void stasis_ram_free(StasisRam *ram);
StasisRamBlock *stasis_ram_find(StasisRam *ram, const char *name, guint *ret_index);

/* Copy @len bytes at @offset of @block (below max_bytes) out of, or into, the running QEMU. 0 or
 * −errno. Allocates nothing; any thread. Reading memory that was never touched does not allocate
 * it in the guest where the backing can tell. Writing goes past userfaultfd write protection when
 * the block is shared, and waits for it (in this thread) when it is private. */
int stasis_ram_read(const StasisRam *ram, const StasisRamBlock *block, guint64 offset, void *dst,
                    size_t len);
int stasis_ram_write(const StasisRam *ram, const StasisRamBlock *block, guint64 offset,
                     const void *src, size_t len);

/* Is [offset, +len) known to be untouched (reads as zero) without reading it? FALSE when unsure.
 * *ret_len: how far that answer holds, at most @len. */
gboolean stasis_ram_is_hole(const StasisRam *ram, const StasisRamBlock *block, guint64 offset,
                            guint64 len, guint64 *ret_len);

/* One contiguous range of guest-physical memory that is RAM or ROM. */
typedef struct {
    guint64 gpa;
    guint64 size_bytes;
    char *block;    /* RAM block it shows */
    guint64 offset; /* in that block */
    gboolean rom;
} StasisGpaRange;

/* The guest-physical layout at the moment, by address. Element type: StasisGpaRange. */
GPtrArray *stasis_gpa_layout(StasisQmp *qmp, const StasisRam *ram, GError **error);
void stasis_gpa_range_free(StasisGpaRange *range);

/* NULL-safe check that this machine's memory can be followed: STASIS_ERROR_UNSUPPORTED names a
 * VFIO or vhost-user device or memory encryption that prevents it. Touches nothing. */
gboolean stasis_vm_check_supported(StasisQmp *qmp, pid_t pid, GError **error);
/* The same, but for devices that are @suspended (of StasisPciDevice, or NULL) while memory is read.
 * *ret_untracked (if wanted): one of them is such that its writes leave no trace in any tracker. */
gboolean stasis_vm_check_suspended(StasisQmp *qmp, pid_t pid, const GPtrArray *suspended,
                                   gboolean *ret_untracked, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisRam, stasis_ram_free)

G_END_DECLS

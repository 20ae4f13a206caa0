/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A userfaultfd over all RAM blocks of a VM: what both write-protecting trackers share. A block
 * that KVM has mapped a second time is watched in both mappings. */
#pragma once

#include "track/tracker.h"
#include "track/uffd.h"

G_BEGIN_DECLS

/* Register every block for write protection. STASIS_ERROR_BUSY if another userfaultfd has it
 * (QEMU's own background-snapshot, or a restore on demand that still loads). */
gboolean stasis_uffd_ram_register(const StasisUffd *uffd, const StasisRam *ram, GError **error);
int stasis_uffd_ram_register_block(const StasisUffd *uffd, const StasisRamBlock *block);
int stasis_uffd_ram_unregister_block(const StasisUffd *uffd, const StasisRamBlock *block);
/* A part of it, of small pages. 0 or −errno; allocate nothing. */
int stasis_uffd_ram_register_pages(const StasisUffd *uffd, const StasisRamBlock *block,
                                   guint64 first, guint64 n);
int stasis_uffd_ram_unregister_pages(const StasisUffd *uffd, const StasisRamBlock *block,
                                     guint64 first, guint64 n);
void stasis_uffd_ram_unregister(const StasisUffd *uffd, const StasisRam *ram);
/* Is every block registered for asynchronous write protection? */
gboolean stasis_uffd_ram_is_async(const StasisRam *ram);
int stasis_uffd_ram_protect_block(const StasisUffd *uffd, const StasisRamBlock *block);
/* Protect all of every block, passing the fault points PROTECT_HALF and ARMED. */
gboolean stasis_uffd_ram_protect(const StasisUffd *uffd, const StasisRam *ram, GError **error);

/* Protect, or release, the runs of @dirty, widened to the block's unit of protection. 0 or −errno;
 * allocates nothing. */
int stasis_uffd_ram_protect_dirty(const StasisUffd *uffd, const StasisRam *ram,
                                  const StasisDirty *dirty);
int stasis_uffd_ram_release_dirty(const StasisUffd *uffd, const StasisRam *ram,
                                  const StasisDirty *dirty);
int stasis_uffd_ram_protect_pages(const StasisUffd *uffd, const StasisRamBlock *block,
                                  guint64 first, guint64 n);
int stasis_uffd_ram_release(const StasisUffd *uffd, const StasisRamBlock *block, guint64 first,
                            guint64 n);

/* The block in whose mapping @address lies; its page in *ret_page. */
const StasisRamBlock *stasis_uffd_ram_at(const StasisRam *ram, guint64 address, guint *ret_block,
                                         guint64 *ret_page);

static inline const StasisRamBlock *stasis_ram_block(const StasisRam *ram, guint i)
{
    return g_ptr_array_index(ram->blocks, i);
}

/* Pages of 4096 bytes in use. */
static inline guint64 stasis_ram_block_pages(const StasisRamBlock *block)
{
    return (block->size_bytes + 4095) / 4096;
}

G_END_DECLS

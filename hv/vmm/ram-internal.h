/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files behind vmm/ram.h share with each other, and with their tests and fuzz target. */
#pragma once

#include "vmm/procmaps.h"
#include "vmm/ram.h"

G_BEGIN_DECLS

/* --- ram-list.c: the text of HMP `info ramblock` --- */

typedef struct {
    char *name; /* idstr; empty for a block that QEMU itself keeps out of migration */
    guint64 page_bytes;
    guint64 offset; /* in QEMU's ram_addr_t space: unique to the block */
    guint64 used_bytes;
    guint64 max_bytes;
    guint64 hva; /* 0 when this QEMU doesn't say (before 8.0), or not found yet */
} StasisRamEntry;

/* Any text is safe; what can't be read is STASIS_ERROR_CORRUPT. Element type: StasisRamEntry. */
GPtrArray *stasis_ram_list_parse(const char *text, GError **error);

/* --- ram-scan.c: addresses that the monitor doesn't tell --- */

/* Fill in the hva of every named entry that has none, from QEMU's own records in its heap. */
gboolean stasis_ram_scan(pid_t pid, const GPtrArray *maps, GPtrArray *entries, GError **error);

/* --- ram-backing.c: what is behind a mapping --- */

/* Set backing, shared, fd, fd_offset and source_fd of @block, whose other fields are set. */
gboolean stasis_ram_open_backing(pid_t pid, const GPtrArray *maps, StasisRamBlock *block,
                                 GError **error);

/* --- gpa-view.c: the text of HMP `info mtree -f` and `gpa2hva` --- */

typedef struct {
    guint64 gpa;
    guint64 size_bytes;
    guint64 region_offset; /* in the memory region, and so in its RAM block */
    char *region;          /* the memory region's name, which need not be the block's */
    gboolean rom;
} StasisViewRange;

/* The RAM and ROM ranges of address space "memory", by address. Element type: StasisViewRange. */
GPtrArray *stasis_gpa_view_parse(const char *text, GError **error);
/* The address in the answer of `gpa2hva`; FALSE when it holds none. */
gboolean stasis_gpa2hva_parse(const char *text, guint64 *ret_hva);

/* --- gpa.c --- */

/* One attempt at the layout. *ret_raced tells that the guest may have changed it meanwhile. */
GPtrArray *stasis_gpa_layout_once(StasisQmp *qmp, const StasisRam *ram, gboolean *ret_raced,
                                  GError **error);

G_END_DECLS

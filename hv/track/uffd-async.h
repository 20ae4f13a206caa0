/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What tracker kvm-log needs of uffd-async, which does half of its work. */
#pragma once

#include "track/tracker.h"
#include "track/uffd.h"

G_BEGIN_DECLS

/* As the tracker's own open, but new second mappings may come: the caller sees to them. */
StasisTracker *stasis_uffd_async_open(const StasisRam *ram, StasisQmp *qmp, GError **error);

/*
 * Block @i is sparse: protect only what is in QEMU's page tables, and take for written only what is
 * there and not protected. So neither arming nor scanning costs anything for memory that QEMU
 * itself never touches. Right only where nothing but QEMU's own doing empties an entry of those
 * tables (see kvm-log.c), and where the guest writes elsewhere.
 */
void stasis_uffd_async_set_sparse(StasisTracker *tracker, guint i, gboolean sparse);

/* Begin anew with block @i: neither registration nor protection is left of what was before. */
int stasis_uffd_async_unregister(StasisTracker *tracker, guint i);
int stasis_uffd_async_register(StasisTracker *tracker, guint i);

/* How far is it from page @first of block @i to the end of it, or to where @max_pages pages are in
 * QEMU's page tables, or to the first one that was written? In pages, *ret_found of them in those
 * tables; 0 or −errno, −EBUSY while a part is lent. Allocates nothing. */
int stasis_uffd_async_span_present(StasisTracker *tracker, guint i, guint64 first,
                                   guint64 max_pages, guint64 *ret_n, guint64 *ret_found);
int stasis_uffd_async_span_unwritten(StasisTracker *tracker, guint i, guint64 first,
                                     guint64 n_pages, guint64 *ret_n);

/* Count pages of block @i as written; 0 or −errno. */
int stasis_uffd_async_release(StasisTracker *tracker, guint i, const StasisBitmap *pages);

G_END_DECLS

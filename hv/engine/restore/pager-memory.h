/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a pager knows and learns of the order in which a VM touches its RAM. Nothing here can fail a
 * restore: what can't be read or kept is as if it had never been. */
#pragma once

#include "store/cache.h"

G_BEGIN_DECLS

typedef struct _StasisPagerMemory StasisPagerMemory;

/* With what is known of @reader's image; both must outlive it. */
StasisPagerMemory *stasis_pager_memory_new(StasisStore *store, StasisImageReader *reader);
void stasis_pager_memory_free(StasisPagerMemory *memory);

/* How many pages are known from before, and the @i-th that was touched. */
guint stasis_pager_memory_known(const StasisPagerMemory *memory);
const StasisTouched *stasis_pager_memory_nth(const StasisPagerMemory *memory, guint i);

/* The VM waited for this page; of an extent that is brought in whole, for its first. */
void stasis_pager_memory_note(StasisPagerMemory *memory, guint32 block, guint64 page);
/* Keep what was learnt, beside what was known. */
void stasis_pager_memory_keep(StasisPagerMemory *memory);

G_END_DECLS

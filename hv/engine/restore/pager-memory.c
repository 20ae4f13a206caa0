/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages that were known are brought in without a fault, so only new ones are noted; the sum of both
 * is kept. An image never changes and a VM starts the same way each time, so this converges: once
 * nothing new is noted, nothing is written.
 */
#include "engine/restore/pager-memory.h"

struct _StasisPagerMemory {
    StasisStore *store;
    StasisImageReader *reader;
    GArray *touched;  /* of StasisTouched: known, then new */
    GHashTable *seen; /* the same, to keep each once */
    guint n_known;
};

/* FALSE when it is there already. */
static gboolean add(StasisPagerMemory *memory, const StasisTouched *touched)
{
    gint64 key = (gint64)((guint64)touched->block << 48 | touched->page);
    return g_hash_table_add(memory->seen, g_memdup2(&key, sizeof(key)));
}

StasisPagerMemory *stasis_pager_memory_new(StasisStore *store, StasisImageReader *reader)
{
    StasisPagerMemory *memory = g_new0(StasisPagerMemory, 1);
    memory->store = store;
    memory->reader = reader;
    memory->touched = stasis_touched_load(store, reader, NULL);
    if (memory->touched == NULL)
        memory->touched = g_array_new(FALSE, FALSE, sizeof(StasisTouched));
    memory->n_known = memory->touched->len;
    memory->seen = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    for (guint i = 0; i < memory->n_known; i++)
        add(memory, stasis_pager_memory_nth(memory, i));
    return memory;
}

void stasis_pager_memory_free(StasisPagerMemory *memory)
{
    if (memory == NULL)
        return;
    g_hash_table_unref(memory->seen);
    g_array_unref(memory->touched);
    g_free(memory);
}

guint stasis_pager_memory_known(const StasisPagerMemory *memory)
{
    return memory->n_known;
}

const StasisTouched *stasis_pager_memory_nth(const StasisPagerMemory *memory, guint i)
{
    return &g_array_index(memory->touched, StasisTouched, i);
}

void stasis_pager_memory_note(StasisPagerMemory *memory, guint32 block, guint64 page)
{
    StasisTouched touched = { block, page };
    if (memory->touched->len < STASIS_TOUCHED_MAX && add(memory, &touched))
        g_array_append_val(memory->touched, touched);
}

void stasis_pager_memory_keep(StasisPagerMemory *memory)
{
    if (memory->touched->len > memory->n_known)
        stasis_touched_save(memory->store, memory->reader, memory->touched, NULL);
}

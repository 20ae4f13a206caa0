/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/listing.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "store/proc-image.h"

/* On a disk most of the time is waiting for it, which many can do at once. */
#define MAX_THREADS 16u
#define MIN_FOR_EACH 16u

/* Which directory it was. A name's next one may get the same inode, at a later time. */
typedef struct {
    dev_t device;
    ino_t inode;
    gint64 changed_ns;
} Mark;

typedef struct {
    Mark mark;
    gpointer info; /* NULL: it could not be read */
} Entry;

struct _StasisListing {
    const StasisListingKind *kind;
    GHashTable *entries; /* ID → Entry */
    GPtrArray *list;     /* their infos */
    guint64 n_read;
};

/* ---- one ---- */

static gpointer load_image(StasisStore *store, const char *id, GError **error)
{
    return stasis_store_get_image(store, id, error);
}

static gpointer load_process_image(StasisStore *store, const char *id, GError **error)
{
    return stasis_store_get_process(store, id, error);
}

const StasisListingKind stasis_listing_images = {
    .directory = "images",
    .list_ids = stasis_store_list_ids,
    .load = load_image,
    .free = (GDestroyNotify)stasis_image_info_free,
};
const StasisListingKind stasis_listing_processes = {
    .directory = "processes",
    .list_ids = stasis_store_list_process_ids,
    .load = load_process_image,
    .free = (GDestroyNotify)stasis_process_image_info_free,
};

static gboolean get_mark(StasisStore *store, const char *directory, const char *id, Mark *ret)
{
    struct stat st;
    g_autofree char *path = g_build_filename(directory, id, NULL);
    if (fstatat(store->dir_fd, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return FALSE;
    *ret = (Mark){ st.st_dev, st.st_ino, st.st_ctim.tv_sec * 1000000000 + st.st_ctim.tv_nsec };
    return TRUE;
}

static gboolean is_same(const Mark *a, const Mark *b)
{
    return a->device == b->device && a->inode == b->inode && a->changed_ns == b->changed_ns;
}

/* ---- many ---- */

typedef struct {
    StasisStore *store;
    const StasisListingKind *kind;
    GPtrArray *ids;     /* to be read */
    GPtrArray *entries; /* … into these */
    guint next;         /* atomic */
} Reading;

static gpointer read_some(gpointer data)
{
    Reading *reading = data;
    guint i;
    while ((i = (guint)g_atomic_int_add(&reading->next, 1)) < reading->ids->len) {
        Entry *entry = reading->entries->pdata[i];
        entry->info = reading->kind->load(reading->store, reading->ids->pdata[i], NULL);
    }
    return NULL;
}

static void read_all(Reading *reading)
{
    GThread *threads[MAX_THREADS];
    guint n = MIN(reading->ids->len / MIN_FOR_EACH, MAX_THREADS);
    for (guint i = 0; i < n; i++)
        threads[i] = g_thread_try_new("listing", read_some, reading, NULL);
    read_some(reading);
    for (guint i = 0; i < n; i++)
        if (threads[i] != NULL)
            g_thread_join(threads[i]);
}

/* ---- the listing ---- */

StasisListing *stasis_listing_new(const StasisListingKind *kind)
{
    StasisListing *listing = g_new0(StasisListing, 1);
    listing->kind = kind;
    listing->entries = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    listing->list = g_ptr_array_new();
    return listing;
}

static void forget(StasisListing *listing, Entry *entry)
{
    if (entry->info != NULL)
        listing->kind->free(g_steal_pointer(&entry->info));
}

void stasis_listing_free(StasisListing *listing)
{
    if (listing == NULL)
        return;
    GHashTableIter iter;
    gpointer entry;
    g_hash_table_iter_init(&iter, listing->entries);
    while (g_hash_table_iter_next(&iter, NULL, &entry))
        forget(listing, entry);
    g_hash_table_unref(listing->entries);
    g_ptr_array_unref(listing->list);
    g_free(listing);
}

/* The entry of @id as the last look left it, if its directory is that of then. */
static gboolean move_known(GHashTable *from, GHashTable *to, const char *id, const Mark *mark)
{
    gpointer name, value;
    Entry *entry = g_hash_table_lookup(from, id);
    if (entry == NULL || entry->info == NULL || !is_same(&entry->mark, mark))
        return FALSE;
    g_hash_table_steal_extended(from, id, &name, &value);
    g_hash_table_insert(to, name, value);
    return TRUE;
}

static void take(StasisListing *listing, StasisStore *store, char **ids, GHashTable *entries)
{
    g_autoptr(GPtrArray) new_ids = g_ptr_array_new(), new_entries = g_ptr_array_new();
    for (char **id = ids; *id != NULL; id++) {
        /* Before it is read: what changes meanwhile is seen the next time. */
        Mark mark;
        if (!get_mark(store, listing->kind->directory, *id, &mark) ||
            move_known(listing->entries, entries, *id, &mark))
            continue;
        Entry *entry = g_new0(Entry, 1);
        entry->mark = mark;
        g_hash_table_insert(entries, g_strdup(*id), entry);
        g_ptr_array_add(new_ids, *id);
        g_ptr_array_add(new_entries, entry);
    }
    Reading reading = { store, listing->kind, new_ids, new_entries, 0 };
    read_all(&reading);
    listing->n_read += new_ids->len;
}

gboolean stasis_listing_look(StasisListing *listing, StasisStore *store, GError **error)
{
    g_auto(GStrv) ids = listing->kind->list_ids(store, error);
    if (ids == NULL)
        return FALSE;
    GHashTable *entries = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    take(listing, store, ids, entries);
    GHashTableIter iter;
    gpointer entry;
    g_hash_table_iter_init(&iter, listing->entries);
    while (g_hash_table_iter_next(&iter, NULL, &entry))
        forget(listing, entry);
    g_hash_table_unref(listing->entries);
    listing->entries = entries;
    g_ptr_array_set_size(listing->list, 0);
    for (char **id = ids; *id != NULL; id++) {
        const Entry *there = g_hash_table_lookup(entries, *id);
        if (there != NULL && there->info != NULL)
            g_ptr_array_add(listing->list, there->info);
    }
    return TRUE;
}

const GPtrArray *stasis_listing_get(const StasisListing *listing)
{
    return listing->list;
}

GPtrArray *stasis_listing_once(const StasisListingKind *kind, StasisStore *store, GError **error)
{
    g_autoptr(StasisListing) listing = stasis_listing_new(kind);
    if (!stasis_listing_look(listing, store, error))
        return NULL;
    g_hash_table_remove_all(listing->entries);
    g_ptr_array_set_free_func(listing->list, kind->free);
    return g_ptr_array_ref(listing->list);
}

guint64 stasis_listing_get_n_read(const StasisListing *listing)
{
    return listing->n_read;
}

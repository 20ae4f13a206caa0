/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a policy keeps, as in the backup programs that people know (restic forget, borg prune), for
 * each VM by itself. A bucket is an hour, day, week, month or year of local time; the newest image
 * in it stands for it, and only buckets with an image in them count. A quota comes last: the oldest
 * go, each VM's newest never.
 */
#include "store/retain.h"

#include <stasis/error.h>
#include <string.h>

typedef struct {
    const char *reason;
    const char *format; /* of g_date_time_format(): what is equal within one bucket */
    gsize count;        /* where StasisPruneOptions has the number of them */
} Rule;

static const Rule rules[] = {
    { "last", NULL, G_STRUCT_OFFSET(StasisPruneOptions, keep_last) },
    { "hourly", "%Y-%m-%d %H %z", G_STRUCT_OFFSET(StasisPruneOptions, keep_hourly) },
    { "daily", "%Y-%m-%d", G_STRUCT_OFFSET(StasisPruneOptions, keep_daily) },
    { "weekly", "%G-%V", G_STRUCT_OFFSET(StasisPruneOptions, keep_weekly) },
    { "monthly", "%Y-%m", G_STRUCT_OFFSET(StasisPruneOptions, keep_monthly) },
    { "yearly", "%Y", G_STRUCT_OFFSET(StasisPruneOptions, keep_yearly) },
};

static guint count_of(const StasisPruneOptions *options, const Rule *rule)
{
    return G_STRUCT_MEMBER(guint, options, rule->count);
}

static gboolean has_count(const StasisPruneOptions *options)
{
    guint64 any = options->keep_within_us;
    for (guint i = 0; i < G_N_ELEMENTS(rules); i++)
        any |= count_of(options, &rules[i]);
    return any != 0;
}

gboolean stasis_retain_has_rule(const StasisPruneOptions *options)
{
    return has_count(options) || options->quota_bytes > 0;
}

static void add_reason(StasisPruneImage *image, const char *reason)
{
    char *reasons =
        image->reasons == NULL ? g_strdup(reason) : g_strconcat(image->reasons, ", ", reason, NULL);
    g_free(image->reasons);
    image->reasons = reasons;
}

static char *bucket_of(const StasisPruneImage *image, const Rule *rule)
{
    if (rule->format == NULL)
        return g_strdup(image->info->id); /* each its own */
    gint64 seconds = image->info->created_us / G_TIME_SPAN_SECOND;
    g_autoptr(GDateTime) local = g_date_time_new_from_unix_local(seconds);
    return local != NULL ? g_date_time_format(local, rule->format) : g_strdup("");
}

/* @images are those of one VM, oldest first. */
static void apply_rule(const StasisPruneOptions *options, const Rule *rule, GPtrArray *images)
{
    guint left = count_of(options, rule);
    g_autofree char *last = NULL;
    for (guint i = images->len; left > 0 && i > 0; i--) {
        StasisPruneImage *image = g_ptr_array_index(images, i - 1);
        char *bucket = bucket_of(image, rule);
        gboolean is_new = g_strcmp0(bucket, last) != 0;
        g_free(last);
        last = bucket;
        if (!is_new)
            continue;
        add_reason(image, rule->reason);
        left--;
    }
}

static void apply_within(const StasisPruneOptions *options, GPtrArray *images)
{
    const StasisPruneImage *newest = g_ptr_array_index(images, images->len - 1);
    for (guint i = 0; i < images->len && options->keep_within_us > 0; i++) {
        StasisPruneImage *image = g_ptr_array_index(images, i);
        gint64 age = newest->info->created_us - image->info->created_us;
        if (age < 0 || (guint64)age <= options->keep_within_us)
            add_reason(image, "within");
    }
}

/* By their IDs, which say when they were made, and rise also when a clock is set back: an image
 * that was just taken must not be an old one. */
static gint compare_ids(gconstpointer a, gconstpointer b)
{
    const StasisPruneImage *x = *(StasisPruneImage *const *)a, *y = *(StasisPruneImage *const *)b;
    return strcmp(x->info->id, y->info->id);
}

/* @images are those of one VM, oldest first. */
static void apply_policy(const StasisPruneOptions *options, GPtrArray *images)
{
    for (guint i = 0; i < G_N_ELEMENTS(rules); i++)
        apply_rule(options, &rules[i], images);
    apply_within(options, images);
    /* A quota alone keeps whatever there is room for. */
    for (guint i = 0; i < images->len && !has_count(options) && options->quota_bytes > 0; i++)
        add_reason(g_ptr_array_index(images, i), "room");
    StasisPruneImage *newest = g_ptr_array_index(images, images->len - 1);
    newest->newest = TRUE;
    if (options->keep_newest && newest->reasons == NULL)
        add_reason(newest, "newest");
}

static gboolean keeps_some(const GPtrArray *images)
{
    for (guint i = 0; i < images->len; i++)
        if (((const StasisPruneImage *)g_ptr_array_index(images, i))->reasons != NULL)
            return TRUE;
    return FALSE;
}

/* Lists of borrowed StasisPruneImage, by VM. */
static GHashTable *group(GPtrArray *images)
{
    GHashTable *by_vm =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, (GDestroyNotify)g_ptr_array_unref);
    for (guint i = 0; i < images->len; i++) {
        StasisPruneImage *image = g_ptr_array_index(images, i);
        /* An image of devices only stands for no other, and none with memory for it. */
        g_autofree char *key =
            g_strconcat(image->info->ram_bytes > 0 ? "+" : "-", image->info->vm, NULL);
        GPtrArray *members = g_hash_table_lookup(by_vm, key);
        if (members == NULL) {
            members = g_ptr_array_new();
            g_hash_table_insert(by_vm, g_steal_pointer(&key), members);
        }
        g_ptr_array_add(members, image);
    }
    return by_vm;
}

static gboolean apply_to_each(const StasisPruneOptions *options, GHashTable *by_vm, GError **error)
{
    GHashTableIter iter;
    gpointer vm, members;
    g_hash_table_iter_init(&iter, by_vm);
    while (g_hash_table_iter_next(&iter, &vm, &members)) {
        apply_policy(options, members);
        if (options->allow_remove_all || keeps_some(members))
            continue;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "prune: nothing would be left of the %u images of VM \"%s\"; keep some, or "
                    "allow it with --allow-remove-all",
                    ((GPtrArray *)members)->len, (const char *)vm + 1);
        return FALSE;
    }
    return TRUE;
}

/* The oldest that stays and need not. */
static StasisPruneImage *find_spare(GPtrArray *images)
{
    for (guint i = 0; i < images->len; i++) {
        StasisPruneImage *image = g_ptr_array_index(images, i);
        if (image->reasons != NULL && !image->newest)
            return image;
    }
    return NULL;
}

/* One after the other, as what one of them frees depends on which others are there. */
static gboolean apply_quota(const StasisPruneOptions *options, GPtrArray *images,
                            StasisRetainSizeFunc size, gpointer user_data, GError **error)
{
    for (;;) {
        guint64 bytes;
        StasisPruneImage *spare = find_spare(images);
        if (spare == NULL)
            return TRUE;
        if (!size(images, &bytes, user_data, error))
            return FALSE;
        if (bytes <= options->quota_bytes)
            return TRUE;
        g_clear_pointer(&spare->reasons, g_free);
        spare->over_quota = TRUE;
    }
}

gboolean stasis_retain_decide(const StasisPruneOptions *options, GPtrArray *images,
                              StasisRetainSizeFunc size, gpointer user_data, GError **error)
{
    g_ptr_array_sort(images, compare_ids);
    g_autoptr(GHashTable) by_vm = group(images);
    return apply_to_each(options, by_vm, error) &&
           (options->quota_bytes == 0 || apply_quota(options, images, size, user_data, error));
}

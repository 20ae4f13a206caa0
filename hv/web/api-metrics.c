/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What Prometheus gets. Counters and the histogram are of the images that have come since we began,
 * also those that a policy has removed since; gauges are of what is there. What stasisd counts is
 * read from its state directory (a file for each policy, state/vm-NAME.json), which it replaces by
 * rename: so it need not be asked, and may be down.
 */
#include <fcntl.h>
#include <stasis/version.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/fd.h"
#include "base/io.h"
#include "base/json.h"
#include "web/api.h"

#define MAX_STATE_BYTES 65536u

static double seconds(guint64 us)
{
    return (double)us / 1e6;
}

/* ---- of images that are there ---- */

typedef struct {
    guint n_images, n_process_images;
    guint64 stored_bytes, worst_stall_us;
    const StasisImageInfo *newest; /* of the VM's images */
    gint64 last_us;
} Kept;

static Kept *kept_of(GHashTable *all, const char *vm)
{
    Kept *kept = g_hash_table_lookup(all, vm);
    if (kept == NULL) {
        kept = g_new0(Kept, 1);
        g_hash_table_insert(all, g_strdup(vm), kept);
    }
    return kept;
}

static GHashTable *sum_up(const StasisWebSnapshot *snapshot)
{
    GHashTable *all = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    for (guint i = 0; i < snapshot->images->len; i++) {
        const StasisImageInfo *info = snapshot->images->pdata[i];
        Kept *kept = kept_of(all, info->vm);
        kept->n_images++;
        kept->stored_bytes += info->stored_bytes;
        kept->worst_stall_us = MAX(kept->worst_stall_us, info->cost.worst_stall_us);
        kept->last_us = MAX(kept->last_us, info->created_us);
        if (info->ram_bytes > 0)
            kept->newest = info;
    }
    for (guint i = 0; i < snapshot->processes->len; i++) {
        const StasisProcessImageInfo *info = snapshot->processes->pdata[i];
        Kept *kept = kept_of(all, info->vm);
        kept->n_process_images++;
        kept->stored_bytes += info->stored_bytes;
        kept->last_us = MAX(kept->last_us, info->created_us);
    }
    return all;
}

static GList *sorted_keys(GHashTable *table)
{
    return g_list_sort(g_hash_table_get_keys(table), (GCompareFunc)(void (*)(void))strcmp);
}

/* A gauge of each VM. */
static double kept_images(const Kept *kept)
{
    return kept->n_images;
}
static double kept_process_images(const Kept *kept)
{
    return kept->n_process_images;
}
static double kept_bytes(const Kept *kept)
{
    return (double)kept->stored_bytes;
}
static double kept_stall(const Kept *kept)
{
    return seconds(kept->worst_stall_us);
}
static double kept_last(const Kept *kept)
{
    return seconds((guint64)kept->last_us);
}
static double newest_stop(const Kept *kept)
{
    return seconds(kept->newest->cost.pause_us);
}
static double newest_dirty(const Kept *kept)
{
    return (double)kept->newest->cost.residual_pages;
}
static double newest_copied(const Kept *kept)
{
    return (double)kept->newest->cost.copied_bytes;
}

static const struct {
    const char *name, *help;
    double (*value)(const Kept *kept);
    gboolean of_newest; /* only where there is one */
} gauges[] = {
    { "stasis_images", "Images of the VM in the store.", kept_images },
    { "stasis_process_images", "Images of processes of the VM in the store.", kept_process_images },
    { "stasis_stored_bytes",
      "Bytes of the VM's images; a file that several of them share counts for each.", kept_bytes },
    { "stasis_worst_stall_seconds",
      "Longest time that the guest was held up at once, by a stop or by a write that waited for a "
      "page to be saved, over the images in the store.",
      kept_stall },
    { "stasis_last_success_timestamp_seconds", "When the newest image is from, Unix time.",
      kept_last },
    { "stasis_last_stop_seconds", "How long the newest image stopped the VM.", newest_stop, TRUE },
    { "stasis_last_dirty_pages",
      "Pages that were left to be copied in the stop or after it, of the newest image.",
      newest_dirty, TRUE },
    { "stasis_last_copied_bytes", "Guest memory read for the newest image.", newest_copied, TRUE },
};

static void add_gauges(GString *out, const StasisWebSnapshot *snapshot)
{
    g_autoptr(GHashTable) all = sum_up(snapshot);
    g_autoptr(GList) vms = sorted_keys(all);
    for (guint i = 0; i < G_N_ELEMENTS(gauges); i++) {
        stasis_metrics_family(out, gauges[i].name, "gauge", gauges[i].help);
        for (GList *l = vms; l != NULL; l = l->next) {
            const Kept *kept = g_hash_table_lookup(all, l->data);
            if (!gauges[i].of_newest || kept->newest != NULL)
                stasis_metrics_add(out, gauges[i].name, gauges[i].value(kept), "vm", l->data, NULL);
        }
    }
}

/* ---- of all that were seen ---- */

static void add_totals(GString *out, const StasisWebSnapshot *snapshot)
{
    g_autoptr(GList) vms = sorted_keys(snapshot->totals);
    stasis_metrics_family(out, "stasis_stop_seconds", "histogram",
                          "How long checkpoints stopped the VM.");
    for (GList *l = vms; l != NULL; l = l->next) {
        const StasisWebTotals *totals = g_hash_table_lookup(snapshot->totals, l->data);
        stasis_metrics_add_histogram(out, "stasis_stop_seconds", &totals->stop, l->data);
    }
    stasis_metrics_family(out, "stasis_checkpoints_total", "counter", "Images that have come.");
    for (GList *l = vms; l != NULL; l = l->next) {
        const StasisWebTotals *totals = g_hash_table_lookup(snapshot->totals, l->data);
        stasis_metrics_add(out, "stasis_checkpoints_total", (double)totals->n_images, "kind", "vm",
                           "vm", l->data, NULL);
        stasis_metrics_add(out, "stasis_checkpoints_total", (double)totals->n_process_images,
                           "kind", "processes", "vm", l->data, NULL);
    }
    stasis_metrics_family(out, "stasis_copied_bytes_total", "counter",
                          "Guest memory read for them.");
    for (GList *l = vms; l != NULL; l = l->next) {
        const StasisWebTotals *totals = g_hash_table_lookup(snapshot->totals, l->data);
        stasis_metrics_add(out, "stasis_copied_bytes_total", (double)totals->copied_bytes, "vm",
                           l->data, NULL);
    }
    stasis_metrics_family(out, "stasis_guest_missed_deadlines_total", "counter",
                          "Deadlines that the guest missed while they were taken, by its count.");
    for (GList *l = vms; l != NULL; l = l->next) {
        const StasisWebTotals *totals = g_hash_table_lookup(snapshot->totals, l->data);
        if (totals->deadlines_counted)
            stasis_metrics_add(out, "stasis_guest_missed_deadlines_total",
                               (double)totals->missed_deadlines, "vm", l->data, NULL);
    }
}

/* ---- what stasisd counts ---- */

static const struct {
    const char *name, *type, *help, *member;
    double unit;
} policy_metrics[] = {
    { "stasis_policy_runs_total", "counter", "Times that the VM's policy was carried out.", "runs",
      1 },
    { "stasis_policy_failures_total", "counter", "Times that it failed.", "failures", 1 },
    { "stasis_policy_missed_periods_total", "counter",
      "Periods that went by without an image that was due.", "missed", 1 },
    { "stasis_policy_missed_deadlines_total", "counter",
      "Deadlines that the guest missed while it was carried out, by the guest's own count.",
      "missed_deadlines", 1 },
    { "stasis_policy_last_success_timestamp_seconds", "gauge",
      "When it went well last, Unix time; 0: never.", "last_success_us", 1e6 },
};

/* "vm-NAME.json", NAME as in a URI; NULL: it is none. */
static char *vm_of_file(const char *file)
{
    if (!g_str_has_prefix(file, "vm-") || !g_str_has_suffix(file, ".json"))
        return NULL;
    g_autofree char *escaped = g_strndup(file + 3, strlen(file) - strlen("vm-.json"));
    return g_uri_unescape_string(escaped, NULL);
}

/* VM → JsonObject of its policy's state. */
static GHashTable *read_states(const char *state)
{
    GHashTable *states =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, (GDestroyNotify)json_object_unref);
    g_autofree char *path = g_build_filename(state, "state", NULL);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    stasis_autofd int dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const char *file;
    while (dir != NULL && dir_fd >= 0 && (file = g_dir_read_name(dir)) != NULL) {
        gsize len = 0;
        char *vm = vm_of_file(file);
        g_autofree char *text =
            vm != NULL ? stasis_read_file_at(dir_fd, file, MAX_STATE_BYTES, &len, NULL) : NULL;
        JsonObject *object =
            text != NULL ? stasis_json_parse_object(text, (gssize)len, NULL) : NULL;
        if (object != NULL)
            g_hash_table_insert(states, vm, object);
        else
            g_free(vm);
    }
    return states;
}

static void add_policies(GString *out, const char *state)
{
    g_autoptr(GHashTable) states = read_states(state);
    g_autoptr(GList) vms = sorted_keys(states);
    for (guint i = 0; i < G_N_ELEMENTS(policy_metrics); i++) {
        const char *name = policy_metrics[i].name;
        stasis_metrics_family(out, name, policy_metrics[i].type, policy_metrics[i].help);
        for (GList *l = vms; l != NULL; l = l->next) {
            guint64 value = stasis_json_uint_or(g_hash_table_lookup(states, l->data),
                                                policy_metrics[i].member, 0);
            stasis_metrics_add(out, name, (double)value / policy_metrics[i].unit, "vm", l->data,
                               NULL);
        }
    }
}

/* ---- the store ---- */

static void add_store(GString *out, StasisWebModel *model, const StasisWebSnapshot *snapshot)
{
    struct statvfs fs;
    stasis_metrics_family(out, "stasis_build_info", "gauge", "1, with the version of stasis.");
    stasis_metrics_add(out, "stasis_build_info", 1, "version", stasis_version(), NULL);
    stasis_metrics_family(out, "stasis_store_readable", "gauge",
                          "1, if the store is there and can be read.");
    stasis_metrics_add(out, "stasis_store_readable",
                       snapshot->there && snapshot->problem == NULL ? 1 : 0, NULL);
    if (statvfs(stasis_web_model_path(model), &fs) < 0)
        return;
    stasis_metrics_family(out, "stasis_store_free_bytes", "gauge",
                          "Free on the file system of the store, for us.");
    stasis_metrics_add(out, "stasis_store_free_bytes", (double)fs.f_bavail * (double)fs.f_frsize,
                       NULL);
    stasis_metrics_family(out, "stasis_store_size_bytes", "gauge", "Size of that file system.");
    stasis_metrics_add(out, "stasis_store_size_bytes", (double)fs.f_blocks * (double)fs.f_frsize,
                       NULL);
}

char *stasis_web_api_metrics(StasisWebModel *model, const char *state)
{
    const StasisWebSnapshot *snapshot = stasis_web_model_look(model);
    GString *out = g_string_new(NULL);
    add_store(out, model, snapshot);
    add_gauges(out, snapshot);
    add_totals(out, snapshot);
    if (state != NULL)
        add_policies(out, state);
    return g_string_free(out, FALSE);
}

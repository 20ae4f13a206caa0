/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writing manifest.json: members in the order in which people want to read them, the digest last.
 */
#include <string.h>

#include "base/json.h"
#include "store/internal.h"
#include "store/manifest-text.h"

void stasis_image_info_free(StasisImageInfo *info)
{
    if (info == NULL)
        return;
    g_free(info->id);
    g_free(info->parent);
    g_free(info->digest);
    g_free(info->vm);
    g_free(info->note);
    g_free(info->mode);
    g_free(info->machine);
    g_free(info->accel);
    g_free(info->qemu_version);
    g_free(info->encrypted_with);
    g_free(info->signed_by);
    g_strfreev(info->suspended);
    g_free(info);
}

StasisImageInfo *stasis_image_info_copy(const StasisImageInfo *info)
{
    StasisImageInfo *copy = g_memdup2(info, sizeof(*info));
    copy->id = g_strdup(info->id);
    copy->parent = g_strdup(info->parent);
    copy->suspended = g_strdupv(info->suspended);
    copy->digest = g_strdup(info->digest);
    copy->vm = g_strdup(info->vm);
    copy->note = g_strdup(info->note);
    copy->mode = g_strdup(info->mode);
    copy->machine = g_strdup(info->machine);
    copy->accel = g_strdup(info->accel);
    copy->qemu_version = g_strdup(info->qemu_version);
    copy->encrypted_with = g_strdup(info->encrypted_with);
    copy->signed_by = g_strdup(info->signed_by);
    return copy;
}

char *stasis_manifest_digest(const char *body, size_t len, char **ret_tail, GError **error)
{
    StasisDigest digest;
    char hex[STASIS_DIGEST_HEX];
    if (!stasis_digest_of(&digest, body, len, NULL, 0, error))
        return NULL;
    stasis_digest_to_hex(&digest, hex);
    *ret_tail = g_strdup_printf(STASIS_DIGEST_LINE, hex);
    return g_strconcat(STASIS_DIGEST_PREFIX, hex, NULL);
}

char *stasis_manifest_close(JsonObject *root, const StasisSeals *seals, GError **error)
{
    g_autofree char *text = stasis_json_to_text(root, TRUE);
    if (!g_str_has_suffix(text, "\n}")) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                            "manifest.json: json-glib laid it out in an unknown way");
        return NULL;
    }
    g_autofree char *bare = g_strdup_printf("%.*s,\n", (int)strlen(text) - 2, text);
    g_autofree char *lines =
        seals != NULL ? stasis_seals_make_lines(seals, bare, error) : g_strdup("");
    if (lines == NULL)
        return NULL;
    g_autofree char *body = g_strconcat(bare, lines, NULL);
    g_autofree char *tail = NULL;
    g_autofree char *digest = stasis_manifest_digest(body, strlen(body), &tail, error);
    if (digest == NULL)
        return NULL;
    g_autofree char *whole = g_strconcat(body, tail, NULL);
    if (strlen(whole) > STASIS_MAX_MANIFEST_BYTES) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "manifest.json: larger than %u bytes; shorten the note",
                    STASIS_MAX_MANIFEST_BYTES);
        return NULL;
    }
    return g_steal_pointer(&whole);
}

guint64 stasis_manifest_stored_bytes(const StasisManifest *manifest, size_t manifest_len)
{
    guint64 sum = manifest_len + manifest->index.size;
    for (guint i = 0; i < manifest->n_data; i++)
        sum += manifest->data[i].size - manifest->data[i].hole_bytes;
    for (guint i = 0; i < manifest->parts->len; i++)
        sum += ((const StasisFileRef *)g_ptr_array_index(manifest->parts, i))->size;
    return sum;
}

static void set_file(JsonObject *files, const StasisFileRef *ref)
{
    JsonObject *object = json_object_new();
    stasis_json_set_uint(object, "size", ref->size);
    stasis_json_set_string(object, "sha256", ref->sha256);
    json_object_set_object_member(files, ref->name, object);
}

static void set_parent(JsonObject *root, const StasisManifest *manifest)
{
    if (manifest->info->parent == NULL) {
        json_object_set_null_member(root, "parent");
    } else {
        JsonObject *parent = json_object_new();
        stasis_json_set_string(parent, "id", manifest->info->parent);
        stasis_json_set_string(parent, "digest", manifest->parent_digest);
        json_object_set_object_member(root, "parent", parent);
    }
    stasis_json_set_uint(root, "depth", manifest->depth);
}

static void set_about(JsonObject *root, const StasisImageInfo *info)
{
    stasis_json_set_string(root, "vm", info->vm);
    if (info->note == NULL)
        json_object_set_null_member(root, "note");
    else
        stasis_json_set_string(root, "note", info->note);
    json_object_set_boolean_member(root, "by_policy", info->by_policy);
    stasis_json_set_uint(root, "created_us", (guint64)MAX(info->created_us, 0));
    stasis_json_set_string(root, "mode", info->mode);
    stasis_json_set_string(root, "machine", info->machine);
    stasis_json_set_string(root, "accel", info->accel);
    stasis_json_set_string(root, "qemu_version", info->qemu_version);
    stasis_json_set_uint(root, "n_vcpus", info->n_vcpus);
    json_object_set_boolean_member(root, "paused", info->paused);
    if (info->quiesced)
        json_object_set_boolean_member(root, "quiesced", TRUE);
    stasis_json_set_strings(root, "suspended", (const char *const *)info->suspended);
}

static void set_cost(JsonObject *root, const StasisCost *cost)
{
    JsonObject *object = json_object_new();
    stasis_json_set_uint(object, "pause_us", cost->pause_us);
    stasis_json_set_uint(object, "device_us", cost->device_us);
    stasis_json_set_uint(object, "ram_us", cost->ram_us);
    stasis_json_set_uint(object, "residual_pages", cost->residual_pages);
    stasis_json_set_uint(object, "protected_pages", cost->protected_pages);
    stasis_json_set_uint(object, "faults", cost->faults);
    stasis_json_set_uint(object, "worst_stall_us", cost->worst_stall_us);
    stasis_json_set_uint(object, "total_us", cost->total_us);
    stasis_json_set_uint(object, "copied_bytes", cost->copied_bytes);
    stasis_json_set_uint(object, "rounds", cost->rounds);
    stasis_json_set_uint(object, "disk_us", cost->disk_us);
    stasis_json_set_uint(object, "disk_copied_bytes", cost->disk_copied_bytes);
    if (cost->frozen_us > 0)
        stasis_json_set_uint(object, "frozen_us", cost->frozen_us);
    if (cost->deadlines_counted)
        stasis_json_set_uint(object, "missed_deadlines", cost->missed_deadlines);
    json_object_set_object_member(root, "cost", object);
}

static void set_blocks(JsonObject *object, const StasisManifest *manifest, guint from, guint to)
{
    JsonArray *blocks = json_array_new();
    for (guint i = from; i < to; i++) {
        JsonObject *block = json_object_new();
        stasis_json_set_string(block, "name", stasis_manifest_block(manifest, i)->name);
        stasis_json_set_uint(block, "size", stasis_manifest_block(manifest, i)->size_bytes);
        json_array_add_object_element(blocks, block);
    }
    json_object_set_array_member(object, "blocks", blocks);
}

static void set_disks(JsonObject *root, const StasisManifest *manifest)
{
    if (manifest->format != STASIS_FORMAT_DISKS)
        return;
    JsonObject *disks = json_object_new();
    stasis_json_set_uint(disks, "data_pages", manifest->info->disk_data_pages);
    stasis_json_set_uint(disks, "zero_pages", manifest->info->disk_zero_pages);
    set_blocks(disks, manifest, manifest->n_ram, manifest->blocks->len);
    json_object_set_object_member(root, "disks", disks);
}

static void set_ram(JsonObject *root, const StasisManifest *manifest)
{
    JsonObject *ram = json_object_new();
    stasis_json_set_uint(ram, "page_bytes", STASIS_PAGE_BYTES);
    stasis_json_set_uint(ram, "data_pages", manifest->info->data_pages);
    stasis_json_set_uint(ram, "zero_pages", manifest->info->zero_pages);
    set_blocks(ram, manifest, 0, manifest->n_ram);
    json_object_set_object_member(root, "ram", ram);
}

static void set_files(JsonObject *root, const StasisManifest *manifest)
{
    JsonObject *files = json_object_new();
    set_file(files, &manifest->index);
    for (guint i = 0; i < manifest->n_data; i++) {
        JsonObject *pages = json_object_new();
        stasis_json_set_uint(pages, "size", manifest->data[i].size);
        stasis_json_set_uint(pages, "dead", manifest->data[i].dead_bytes);
        stasis_json_set_uint(pages, "holes", manifest->data[i].hole_bytes);
        json_object_set_object_member(files, stasis_data_file_name(i), pages);
    }
    for (guint i = 0; i < manifest->parts->len; i++)
        set_file(files, g_ptr_array_index(manifest->parts, i));
    json_object_set_object_member(root, "files", files);
}

char *stasis_manifest_write(StasisManifest *manifest, const StasisSeals *seals, GError **error)
{
    g_autoptr(JsonObject) root = json_object_new();
    stasis_seal_set_member(root, manifest->format, STASIS_FORMAT_SEALED, manifest->seal_key);
    stasis_json_set_string(root, "id", manifest->info->id);
    if (manifest->origin != NULL)
        stasis_json_set_string(root, "origin", manifest->origin);
    set_parent(root, manifest);
    set_about(root, manifest->info);
    set_cost(root, &manifest->info->cost);
    set_ram(root, manifest);
    set_disks(root, manifest);
    set_files(root, manifest);
    return stasis_manifest_close(root, seals, error);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading manifest.json, the one file that says what an image is. It is JSON for people and for
 * programs, and its last member, "digest", stands on a line of its own and is the SHA-256 of all
 * bytes before that line. What follows those bytes is fixed, so each bit of the file counts.
 * The text is untrusted until its digest and then its members have been checked.
 */
#include <string.h>

#include "base/json.h"
#include "store/internal.h"
#include "store/manifest-text.h"

#define MAX_SUSPENDED 64u

static gboolean parse_file(JsonObject *files, const char *name, StasisFileRef *ret, GError **error)
{
    JsonObject *object;
    const char *sha256;
    if (!stasis_json_object(files, name, &object, error) ||
        !stasis_json_uint(object, "size", &ret->size, error) ||
        !stasis_json_string(object, "sha256", &sha256, error))
        return FALSE;
    if (!stasis_digest_hex_is_valid(sha256))
        return stasis_corrupt(error, "file %s: sha256 is malformed", name);
    g_strlcpy(ret->sha256, sha256, sizeof(ret->sha256));
    ret->name = g_strdup(name);
    return TRUE;
}

static gboolean parse_data_file(JsonObject *files, guint number, StasisDataFile *ret,
                                GError **error)
{
    JsonObject *object;
    const char *name = stasis_data_file_name(number);
    if (!stasis_json_object(files, name, &object, error) ||
        !stasis_json_uint(object, "size", &ret->size, error) ||
        !stasis_json_uint(object, "dead", &ret->dead_bytes, error) ||
        !stasis_json_uint(object, "holes", &ret->hole_bytes, error))
        return FALSE;
    if (ret->dead_bytes > ret->size || ret->hole_bytes > ret->dead_bytes)
        return stasis_corrupt(error, "file %s: more dead bytes than bytes", name);
    return TRUE;
}

/* One in an image as it is first written; then as many as there are without a gap. */
static gboolean parse_data(JsonObject *files, StasisManifest *manifest, GError **error)
{
    guint n = 1;
    while (manifest->format >= STASIS_FORMAT_REWRITTEN && n < STASIS_MAX_DATA_FILES &&
           json_object_has_member(files, stasis_data_file_name(n)))
        n++;
    manifest->n_data = n;
    for (guint i = 0; i < n; i++)
        if (!parse_data_file(files, i, &manifest->data[i], error))
            return FALSE;
    return TRUE;
}

static gboolean is_data_file(const StasisManifest *manifest, const char *name)
{
    for (guint i = 0; i < manifest->n_data; i++)
        if (strcmp(name, stasis_data_file_name(i)) == 0)
            return TRUE;
    return FALSE;
}

static gboolean parse_files(JsonObject *root, StasisManifest *manifest, GError **error)
{
    JsonObject *files;
    if (!stasis_json_object(root, "files", &files, error) ||
        !parse_file(files, "index", &manifest->index, error) || !parse_data(files, manifest, error))
        return FALSE;
    if (manifest->index.size > STASIS_MAX_INDEX_BYTES)
        return stasis_corrupt(error, "file index: larger than %" G_GUINT64_FORMAT " bytes",
                              STASIS_MAX_INDEX_BYTES);
    g_autoptr(GList) names = json_object_get_members(files);
    for (GList *l = names; l != NULL; l = l->next) {
        const char *name = l->data;
        if (strcmp(name, "index") == 0 || is_data_file(manifest, name))
            continue;
        if (!stasis_part_name_is_valid(name) || manifest->parts->len >= STASIS_MAX_PARTS)
            return stasis_corrupt(error, "file \"%.64s\": bad name, or too many files", name);
        StasisFileRef *part = g_new0(StasisFileRef, 1);
        g_ptr_array_add(manifest->parts, part);
        if (!parse_file(files, name, part, error))
            return FALSE;
        guint extra = stasis_manifest_seal_bytes(manifest);
        if (part->size < extra || part->size - extra > STASIS_MAX_PART_BYTES)
            return stasis_corrupt(error, "file %s: larger than %u bytes, or too small", name,
                                  STASIS_MAX_PART_BYTES);
    }
    return TRUE;
}

static gboolean parse_blocks(JsonArray *blocks, StasisManifest *manifest, gboolean disk,
                             GError **error)
{
    for (guint i = 0; i < json_array_get_length(blocks); i++) {
        JsonObject *block;
        const char *name;
        guint64 size;
        if (!stasis_json_object_at(blocks, i, &block, error) ||
            !stasis_json_string(block, "name", &name, error) ||
            !stasis_json_uint(block, "size", &size, error) ||
            !stasis_manifest_add_block(manifest, name, size, disk, error))
            return FALSE;
    }
    return TRUE;
}

/* "disks" is there in images with disks, and only there. */
static gboolean parse_disks(JsonObject *root, StasisManifest *manifest, GError **error)
{
    StasisImageInfo *info = manifest->info;
    JsonObject *disks;
    JsonArray *blocks;
    if (manifest->format != STASIS_FORMAT_DISKS)
        return TRUE;
    return stasis_json_object(root, "disks", &disks, error) &&
           stasis_json_uint(disks, "data_pages", &info->disk_data_pages, error) &&
           stasis_json_uint(disks, "zero_pages", &info->disk_zero_pages, error) &&
           stasis_json_array(disks, "blocks", &blocks, error) &&
           parse_blocks(blocks, manifest, TRUE, error) &&
           (info->n_disks > 0 || stasis_corrupt(error, "no disk"));
}

static gboolean parse_ram(JsonObject *root, StasisManifest *manifest, GError **error)
{
    StasisImageInfo *info = manifest->info;
    JsonObject *ram;
    JsonArray *blocks;
    guint64 page_bytes;
    if (!stasis_json_object(root, "ram", &ram, error) ||
        !stasis_json_uint(ram, "page_bytes", &page_bytes, error) ||
        !stasis_json_uint(ram, "data_pages", &info->data_pages, error) ||
        !stasis_json_uint(ram, "zero_pages", &info->zero_pages, error) ||
        !stasis_json_array(ram, "blocks", &blocks, error))
        return FALSE;
    if (page_bytes != STASIS_PAGE_BYTES)
        return stasis_corrupt(error, "page size %" G_GUINT64_FORMAT " is not %u", page_bytes,
                              STASIS_PAGE_BYTES);
    if (!parse_blocks(blocks, manifest, FALSE, error))
        return FALSE;
    if (manifest->format == STASIS_FORMAT_DEVICES)
        return (manifest->n_ram == 0 && manifest->info->parent == NULL) ||
               stasis_corrupt(error, "RAM, or a parent, of an image of devices only");
    return manifest->n_ram > 0 || stasis_corrupt(error, "no RAM block");
}

static gboolean is_digest(const char *digest)
{
    return g_str_has_prefix(digest, STASIS_DIGEST_PREFIX) &&
           stasis_digest_hex_is_valid(digest + strlen(STASIS_DIGEST_PREFIX));
}

/* "origin" is there when the image was rewritten. */
static gboolean parse_origin(JsonObject *root, StasisManifest *manifest, GError **error)
{
    const char *origin;
    if (manifest->format == STASIS_FORMAT_VERSION || !json_object_has_member(root, "origin"))
        return TRUE;
    if (!stasis_json_string(root, "origin", &origin, error))
        return FALSE;
    if (!is_digest(origin))
        return stasis_corrupt(error, "origin is malformed");
    manifest->origin = g_strdup(origin);
    return TRUE;
}

/* "parent" is null in a full image. */
static gboolean parse_parent(JsonObject *root, StasisManifest *manifest, GError **error)
{
    if (!stasis_json_uint(root, "depth", &manifest->depth, error))
        return FALSE;
    if (json_object_has_member(root, "parent") && json_object_get_null_member(root, "parent")) {
        if (manifest->depth != 0)
            return stasis_corrupt(error, "an image without parent has depth 0");
        return TRUE;
    }
    JsonObject *parent;
    const char *id, *digest;
    if (!stasis_json_object(root, "parent", &parent, error) ||
        !stasis_json_string(parent, "id", &id, error) ||
        !stasis_json_string(parent, "digest", &digest, error))
        return FALSE;
    if (!stasis_id_is_valid(id) || !is_digest(digest))
        return stasis_corrupt(error, "the parent's ID or digest is malformed");
    if (strcmp(id, manifest->info->id) >= 0)
        return stasis_corrupt(error, "the parent's ID is not older than its own");
    guint64 most = manifest->format == STASIS_FORMAT_VERSION ? STASIS_MAX_DEPTH : STASIS_MAX_HEIGHT;
    if (manifest->depth == 0 || manifest->depth > most)
        return stasis_corrupt(error, "depth %" G_GUINT64_FORMAT " is not 1 to %" G_GUINT64_FORMAT,
                              manifest->depth, most);
    manifest->info->parent = g_strdup(id);
    manifest->parent_digest = g_strdup(digest);
    return TRUE;
}

static gboolean parse_string(JsonObject *root, const char *name, char **ret, GError **error)
{
    const char *value;
    if (!stasis_json_string(root, name, &value, error))
        return FALSE;
    *ret = g_strdup(value);
    return TRUE;
}

static gboolean parse_cost(JsonObject *root, StasisCost *cost, GError **error)
{
    JsonObject *object;
    guint64 rounds;
    if (!stasis_json_object(root, "cost", &object, error) ||
        !stasis_json_uint(object, "pause_us", &cost->pause_us, error) ||
        !stasis_json_uint(object, "device_us", &cost->device_us, error) ||
        !stasis_json_uint(object, "ram_us", &cost->ram_us, error) ||
        !stasis_json_uint(object, "residual_pages", &cost->residual_pages, error) ||
        !stasis_json_uint(object, "faults", &cost->faults, error) ||
        !stasis_json_uint(object, "worst_stall_us", &cost->worst_stall_us, error) ||
        !stasis_json_uint(object, "total_us", &cost->total_us, error) ||
        !stasis_json_uint(object, "copied_bytes", &cost->copied_bytes, error) ||
        !stasis_json_uint(object, "rounds", &rounds, error))
        return FALSE;
    /* Images of earlier versions don't have it. */
    cost->protected_pages = stasis_json_uint_or(object, "protected_pages", 0);
    if (rounds > G_MAXUINT32)
        return stasis_corrupt(error, "cost.rounds is out of range");
    cost->rounds = (guint32)rounds;
    cost->disk_us = stasis_json_uint_or(object, "disk_us", 0);
    cost->disk_copied_bytes = stasis_json_uint_or(object, "disk_copied_bytes", 0);
    cost->frozen_us = stasis_json_uint_or(object, "frozen_us", 0);
    cost->deadlines_counted = json_object_has_member(object, "missed_deadlines");
    cost->missed_deadlines = stasis_json_uint_or(object, "missed_deadlines", 0);
    return TRUE;
}

/* Optional; a text for each device. */
static gboolean parse_suspended(JsonObject *root, StasisImageInfo *info, GError **error)
{
    if (!json_object_has_member(root, "suspended"))
        return TRUE;
    info->suspended = stasis_json_strings(root, "suspended", MAX_SUSPENDED, error);
    for (char **text = info->suspended; text != NULL && *text != NULL; text++)
        if (stasis_manifest_has_control(*text))
            return stasis_corrupt(error, "suspended is malformed");
    return info->suspended != NULL;
}

static gboolean parse_about(JsonObject *root, StasisImageInfo *info, GError **error)
{
    guint64 created_us, n_vcpus;
    if (!parse_string(root, "id", &info->id, error) ||
        !parse_string(root, "vm", &info->vm, error) ||
        !parse_string(root, "mode", &info->mode, error) ||
        !parse_string(root, "machine", &info->machine, error) ||
        !parse_string(root, "accel", &info->accel, error) ||
        !parse_string(root, "qemu_version", &info->qemu_version, error) ||
        !stasis_json_uint(root, "created_us", &created_us, error) ||
        !stasis_json_uint(root, "n_vcpus", &n_vcpus, error) ||
        !stasis_json_bool(root, "paused", &info->paused, error) ||
        !parse_suspended(root, info, error) || !parse_cost(root, &info->cost, error))
        return FALSE;
    if (!stasis_id_is_valid(info->id) || n_vcpus > G_MAXUINT32)
        return stasis_corrupt(error, "id or n_vcpus is malformed");
    info->quiesced = stasis_json_bool_or(root, "quiesced", FALSE);
    info->note = g_strdup(stasis_json_string_or(root, "note", NULL));
    /* In images that are older than the mark policies were told by their note. */
    info->by_policy = stasis_json_bool_or(root, "by_policy", g_strcmp0(info->note, "policy") == 0);
    info->created_us = (gint64)created_us;
    info->n_vcpus = (guint32)n_vcpus;
    return TRUE;
}

gboolean stasis_manifest_check_digest(const char *text, size_t len, char **ret_digest,
                                      GError **error)
{
    if (len < STASIS_DIGEST_TAIL_BYTES)
        return stasis_corrupt(error, "shorter than its digest line");
    size_t body_len = len - STASIS_DIGEST_TAIL_BYTES;
    g_autofree char *tail = NULL;
    *ret_digest = stasis_manifest_digest(text, body_len, &tail, error);
    if (*ret_digest == NULL)
        return FALSE;
    /* It must be what the bytes before it make it. */
    if (memcmp(text + body_len, tail, STASIS_DIGEST_TAIL_BYTES) != 0)
        return stasis_corrupt(error, "its digest line is not that of its contents (%.23s…)",
                              *ret_digest);
    return TRUE;
}

/* What it says of itself; whether that is so is stasis_seal_check()'s to find. */
static void note_seals(StasisManifest *manifest, const char *text, size_t len)
{
    StasisSealLines lines;
    stasis_seal_find_lines(text, len, &lines);
    if (manifest->seal_key[0] != '\0')
        manifest->info->encrypted_with = g_strdup(manifest->seal_key);
    if (lines.signature_over > 0)
        manifest->info->signed_by = g_strdup(lines.signature_key);
}

StasisManifest *stasis_manifest_parse(const char *text, size_t len, GError **error)
{
    g_autoptr(StasisManifest) manifest = stasis_manifest_new();
    if (!stasis_manifest_check_digest(text, len, &manifest->info->digest, error))
        return NULL;
    g_autoptr(GError) local = NULL;
    g_autoptr(JsonObject) root = stasis_json_parse_object(text, (gssize)len, &local);
    guint64 format;
    if (root == NULL) {
        stasis_corrupt(error, "%s", local->message);
        return NULL;
    }
    if (!stasis_seal_parse_member(root, STASIS_FORMAT_SEALED, &format, manifest->seal_key, error))
        return NULL;
    if (format < STASIS_FORMAT_VERSION || format > STASIS_FORMAT_NEWEST) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "format %" G_GUINT64_FORMAT ", this program knows %u to %u only", format,
                    STASIS_FORMAT_VERSION, STASIS_FORMAT_SEALED);
        return NULL;
    }
    manifest->format = (guint)format;
    manifest->info->disks_refer = format == STASIS_FORMAT_REFERS;
    if (!parse_about(root, manifest->info, error) || !parse_origin(root, manifest, error) ||
        !parse_parent(root, manifest, error) || !parse_ram(root, manifest, error) ||
        !parse_disks(root, manifest, error) || !parse_files(root, manifest, error))
        return NULL;
    manifest->info->of_domain = stasis_manifest_find_part(manifest, STASIS_PART_DOMAIN_XML) != NULL;
    manifest->info->stored_bytes = stasis_manifest_stored_bytes(manifest, len);
    note_seals(manifest, text, len);
    return g_steal_pointer(&manifest);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading manifest.json, the one file that says what an image is. It is JSON for people and for
 * programs, and its last member, "digest", stands on a line of its own and is the SHA-256 of all
 * bytes before that line. What follows those bytes is fixed, so each bit of the file counts.
 * The text is untrusted until its digest and then its members have been checked.
 */
#include <errno.h>
#include <string.h>

#include "base/fd.h"
#include "base/io.h"
#include "base/json.h"
#include "store/internal.h"
#include "store/manifest-text.h"

#define MAX_SUSPENDED 64u

static void clear_block(gpointer data)
{
    g_free((char *)((StasisImageBlock *)data)->name);
}

static void free_part(gpointer data)
{
    StasisFileRef *part = data;
    g_free(part->name);
    g_free(part);
}

StasisManifest *stasis_manifest_new(void)
{
    StasisManifest *manifest = g_new0(StasisManifest, 1);
    manifest->info = g_new0(StasisImageInfo, 1);
    manifest->format = STASIS_FORMAT_VERSION;
    manifest->n_data = 1;
    manifest->blocks = g_array_new(FALSE, TRUE, sizeof(StasisImageBlock));
    g_array_set_clear_func(manifest->blocks, clear_block);
    manifest->parts = g_ptr_array_new_with_free_func(free_part);
    return manifest;
}

void stasis_manifest_free(StasisManifest *manifest)
{
    if (manifest == NULL)
        return;
    stasis_image_info_free(manifest->info);
    g_free(manifest->parent_digest);
    g_free(manifest->origin);
    g_array_unref(manifest->blocks);
    g_free(manifest->index.name);
    g_ptr_array_unref(manifest->parts);
    g_free(manifest);
}

static gboolean has_control(const char *name)
{
    while (*name != '\0' && !g_ascii_iscntrl(*name))
        name++;
    return *name != '\0';
}

static gboolean has_block(const StasisManifest *manifest, const char *name, gboolean disk)
{
    for (guint i = 0; i < manifest->blocks->len; i++)
        if (stasis_manifest_block(manifest, i)->disk == disk &&
            strcmp(stasis_manifest_block(manifest, i)->name, name) == 0)
            return TRUE;
    return FALSE;
}

gboolean stasis_manifest_add_block(StasisManifest *manifest, const char *name, guint64 size_bytes,
                                   gboolean disk, GError **error)
{
    StasisImageInfo *info = manifest->info;
    const char *kind = disk ? "disk" : "RAM block";
    if (manifest->blocks->len >= STASIS_MAX_BLOCKS)
        return stasis_corrupt(error, "more than %u RAM blocks and disks", STASIS_MAX_BLOCKS);
    if (!disk && manifest->n_ram < manifest->blocks->len)
        return stasis_corrupt(error, "RAM block \"%.64s\" after a disk", name);
    if (*name == '\0' || strlen(name) > STASIS_MAX_NAME_BYTES || has_control(name) ||
        has_block(manifest, name, disk))
        return stasis_corrupt(error,
                              "%s \"%.64s\": name is empty, too long, not printable or not unique",
                              kind, name);
    guint64 room =
        disk ? STASIS_MAX_DISK_BYTES - info->disk_bytes : STASIS_MAX_RAM_BYTES - info->ram_bytes;
    if (size_bytes == 0 || size_bytes > room)
        return stasis_corrupt(error, "%s \"%s\": size %" G_GUINT64_FORMAT " out of range", kind,
                              name, size_bytes);
    StasisImageBlock block = { .name = g_strdup(name),
                               .size_bytes = size_bytes,
                               .n_pages = (size_bytes - 1) / STASIS_PAGE_BYTES + 1,
                               .disk = disk };
    g_array_append_val(manifest->blocks, block);
    manifest->n_pages += block.n_pages;
    *(disk ? &info->disk_bytes : &info->ram_bytes) += size_bytes;
    disk ? info->n_disks++ : manifest->n_ram++;
    return TRUE;
}

void stasis_manifest_count(StasisManifest *manifest, guint block, gboolean zero, guint64 n)
{
    StasisImageInfo *info = manifest->info;
    if (block < manifest->n_ram)
        *(zero ? &info->zero_pages : &info->data_pages) += n;
    else
        *(zero ? &info->disk_zero_pages : &info->disk_data_pages) += n;
}

guint64 stasis_manifest_known_pages(const StasisManifest *manifest)
{
    const StasisImageInfo *info = manifest->info;
    return info->data_pages + info->zero_pages + info->disk_data_pages + info->disk_zero_pages;
}

void stasis_manifest_copy_counts(StasisManifest *manifest, const StasisManifest *from)
{
    manifest->info->data_pages = from->info->data_pages;
    manifest->info->zero_pages = from->info->zero_pages;
    manifest->info->disk_data_pages = from->info->disk_data_pages;
    manifest->info->disk_zero_pages = from->info->disk_zero_pages;
}

gboolean stasis_part_name_is_valid(const char *name)
{
    static const char *const reserved[] = { "manifest.json", "index", "pages", NULL };
    size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.");
    return len > 0 && len <= 64 && name[len] == '\0' && name[0] != '.' &&
           !g_strv_contains(reserved, name) && !g_str_has_prefix(name, "pages.");
}

static gpointer make_names(gpointer unused)
{
    static char names[STASIS_MAX_DATA_FILES][12];
    g_strlcpy(names[0], "pages", sizeof(names[0]));
    for (guint i = 1; i < STASIS_MAX_DATA_FILES; i++)
        g_snprintf(names[i], sizeof(names[i]), "pages.%u", i);
    return names;
}

const char *stasis_data_file_name(guint number)
{
    static GOnce once = G_ONCE_INIT;
    const char(*names)[12] = g_once(&once, make_names, NULL);
    return number < STASIS_MAX_DATA_FILES ? names[number] : NULL;
}

const char *stasis_manifest_identity(const StasisManifest *manifest)
{
    return manifest->origin != NULL ? manifest->origin : manifest->info->digest;
}

guint64 stasis_manifest_live_bytes(const StasisManifest *manifest)
{
    guint64 sum = 0;
    for (guint i = 0; i < manifest->n_data; i++)
        sum += manifest->data[i].size - manifest->data[i].dead_bytes;
    return sum;
}

const StasisFileRef *stasis_manifest_find_part(const StasisManifest *manifest, const char *name)
{
    for (guint i = 0; i < manifest->parts->len; i++) {
        const StasisFileRef *part = g_ptr_array_index(manifest->parts, i);
        if (strcmp(part->name, name) == 0)
            return part;
    }
    return NULL;
}

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
    JsonArray *array;
    const char *text;
    if (!json_object_has_member(root, "suspended"))
        return TRUE;
    if (!stasis_json_array(root, "suspended", &array, error))
        return FALSE;
    g_autoptr(GStrvBuilder) builder = g_strv_builder_new();
    for (guint i = 0; i < json_array_get_length(array); i++) {
        if (!stasis_json_string_at(array, i, &text, error))
            return FALSE;
        if (i == MAX_SUSPENDED || has_control(text))
            return stasis_corrupt(error, "suspended is too long or malformed");
        g_strv_builder_add(builder, text);
    }
    info->suspended = g_strv_builder_end(builder);
    return TRUE;
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

gboolean stasis_manifest_check_seal(StasisStore *store, StasisManifest *manifest, const char *text,
                                    size_t len, GError **error)
{
    StasisSealChecks checks;
    if (!stasis_seal_check(store, text, len, manifest->seal_key, &checks, error))
        return FALSE;
    manifest->info->encryption_checked = checks.mac;
    manifest->info->signature_checked = checks.signature;
    return TRUE;
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
    manifest->info->stored_bytes = stasis_manifest_stored_bytes(manifest, len);
    note_seals(manifest, text, len);
    return g_steal_pointer(&manifest);
}

static StasisManifest *load_from(StasisStore *store, int dir_fd, const char *id, GError **error)
{
    gsize size;
    g_autofree char *text =
        stasis_store_read_text(dir_fd, "manifest.json", STASIS_MAX_MANIFEST_BYTES, &size, error);
    if (text == NULL)
        return NULL;
    g_autoptr(StasisManifest) manifest = stasis_manifest_parse(text, size, error);
    if (manifest != NULL && strcmp(manifest->info->id, id) != 0) {
        stasis_corrupt(error, "it is the manifest of image %s", manifest->info->id);
        return NULL;
    }
    if (manifest == NULL || !stasis_manifest_check_seal(store, manifest, text, size, error))
        return NULL;
    return g_steal_pointer(&manifest);
}

/* One look; *ret_moved when it failed because the image is being rewritten or deleted. */
static StasisManifest *try_load(StasisStore *store, const char *id, int *ret_dir_fd,
                                gboolean *ret_moved, GError **error)
{
    *ret_moved = FALSE;
    stasis_autofd int dir_fd =
        stasis_id_is_valid(id) ? stasis_store_open_dir(store->images_fd, id) : -1;
    if (dir_fd < 0 && (!stasis_id_is_valid(id) || errno == ENOENT)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                    "no image \"%.64s\" in store %s; checkpoint-list shows what is there", id,
                    store->path);
        return NULL;
    }
    if (dir_fd < 0) {
        stasis_set_errno(error, errno, "image %s: open its directory", id);
        return NULL;
    }
    StasisManifest *manifest = load_from(store, dir_fd, id, error);
    *ret_moved = manifest == NULL && !stasis_store_is_current(store, id, dir_fd);
    if (manifest == NULL)
        stasis_store_explain(store, id, "manifest.json: ", error);
    else if (ret_dir_fd != NULL)
        *ret_dir_fd = stasis_steal_fd(&dir_fd);
    return manifest;
}

StasisManifest *stasis_manifest_load(StasisStore *store, const char *id, int *ret_dir_fd,
                                     GError **error)
{
    for (guint tries = 0;; tries++) {
        g_autoptr(GError) local = NULL;
        gboolean moved;
        StasisManifest *manifest = try_load(store, id, ret_dir_fd, &moved, &local);
        if (manifest != NULL || !moved || tries == STASIS_LOOK_AGAIN) {
            if (manifest == NULL)
                g_propagate_error(error, g_steal_pointer(&local));
            return manifest;
        }
    }
}

gboolean stasis_manifest_check_parent(const StasisManifest *child, const StasisManifest *parent,
                                      GError **error)
{
    const char *id = child->info->id, *parent_id = parent->info->id;
    const char *identity = stasis_manifest_identity(parent);
    if (g_strcmp0(child->parent_digest, identity) != 0)
        return stasis_corrupt(error, "image %s: its parent %s has digest %.23s…, not %.23s…", id,
                              parent_id, identity, child->parent_digest);
    if (strcmp(child->seal_key, parent->seal_key) != 0)
        return stasis_corrupt(error, "image %s: its parent %s is not encrypted with the same key",
                              id, parent_id);
    if (child->depth <= parent->depth || child->blocks->len != parent->blocks->len ||
        child->n_ram != parent->n_ram)
        return stasis_corrupt(
            error, "image %s: depth, RAM blocks or disks do not fit its parent %s", id, parent_id);
    for (guint i = 0; i < child->blocks->len; i++) {
        const StasisImageBlock *a = stasis_manifest_block(child, i);
        const StasisImageBlock *b = stasis_manifest_block(parent, i);
        if (strcmp(a->name, b->name) != 0 || a->size_bytes != b->size_bytes)
            return stasis_corrupt(error, "image %s: %s \"%s\" is not its parent's", id,
                                  a->disk ? "disk" : "RAM block", a->name);
    }
    return TRUE;
}

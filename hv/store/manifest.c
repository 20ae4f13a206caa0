/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an image is, in memory: its blocks, files and counts, filled by whoever writes one
 * (writer.c, rebase.c) or read from manifest.json, of which the text is in manifest-read.c and
 * manifest-write.c. Which image may be whose parent is decided here, too.
 */
#include <errno.h>
#include <string.h>

#include "base/fd.h"
#include "base/io.h"
#include "store/internal.h"
#include "store/manifest-text.h"
#include "store/seal-manifest.h"

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

gboolean stasis_manifest_has_control(const char *text)
{
    while (*text != '\0' && !g_ascii_iscntrl(*text))
        text++;
    return *text != '\0';
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
    if (*name == '\0' || strlen(name) > STASIS_MAX_NAME_BYTES ||
        stasis_manifest_has_control(name) || has_block(manifest, name, disk))
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

static gpointer try_load(StasisStore *store, const char *id, gpointer ret, gboolean *ret_moved,
                         GError **error)
{
    int *ret_dir_fd = ret;
    stasis_autofd int dir_fd =
        stasis_id_is_valid(id) ? stasis_store_open_dir(store->images_fd, id) : -1;
    if (dir_fd < 0 && (!stasis_id_is_valid(id) || errno == ENOENT)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                    "no image \"%.64s\" in store %s; checkpoint-list shows what is there", id,
                    store->path);
        return NULL;
    }
    if (dir_fd < 0) {
        stasis_store_cant_open(error, errno, id);
        g_prefix_error(error, "image ");
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
    return stasis_store_look(store, id, try_load, ret_dir_fd, error);
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

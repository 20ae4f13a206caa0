/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is in a store: listing, looking up and deleting images. There is no catalogue on disk that
 * could disagree with the images: the directory images/ is it, and an image's name in it is the
 * one thing that a commit or a deletion changes, by one rename.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"
#include "store/cache.h"
#include "store/internal.h"

#define MAX_CANDIDATES 4u

char **stasis_store_list_ids(StasisStore *store, GError **error)
{
    g_auto(GStrv) names = stasis_store_list_names(store->images_fd);
    if (names == NULL) {
        stasis_set_errno(error, errno, "store %s: list images/", store->path);
        return NULL;
    }
    guint n = 0;
    for (guint i = 0; names[i] != NULL; i++) {
        char *name = names[i];
        if (stasis_id_is_valid(name))
            names[n++] = name;
        else
            g_free(name);
    }
    names[n] = NULL;
    return g_steal_pointer(&names);
}

void stasis_store_explain(StasisStore *store, const char *id, const char *what, GError **error)
{
    if (faccessat(store->images_fd, id, F_OK, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT) {
        g_prefix_error(error, "image %s: %s", id, what);
        return;
    }
    g_clear_error(error);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND, "image %s was deleted meanwhile", id);
}

GPtrArray *stasis_store_list(StasisStore *store, GError **error)
{
    g_auto(GStrv) ids = stasis_store_list_ids(store, error);
    if (ids == NULL)
        return NULL;
    GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify)stasis_image_info_free);
    for (guint i = 0; ids[i] != NULL; i++) {
        g_autoptr(StasisManifest) manifest = stasis_manifest_load(store, ids[i], NULL, NULL);
        if (manifest != NULL)
            g_ptr_array_add(list, g_steal_pointer(&manifest->info));
    }
    return list;
}

static char *ambiguous(const char *prefix, char **ids, guint first, guint n, GError **error)
{
    g_autoptr(GString) text = g_string_new(NULL);
    for (guint i = 0; i < n && i < MAX_CANDIDATES; i++)
        g_string_append_printf(text, "%s%s", i > 0 ? ", " : "", ids[first + i]);
    if (n > MAX_CANDIDATES)
        g_string_append_printf(text, " and %u more", n - MAX_CANDIDATES);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                "image \"%s\" is ambiguous: %s; give more of the ID", prefix, text->str);
    return NULL;
}

char *stasis_store_resolve(StasisStore *store, const char *id_or_prefix, GError **error)
{
    g_auto(GStrv) ids = stasis_store_list_ids(store, error);
    if (ids == NULL)
        return NULL;
    guint n_ids = g_strv_length(ids);
    if (strcmp(id_or_prefix, "latest") == 0 && n_ids > 0)
        return g_strdup(ids[n_ids - 1]);
    g_autofree char *prefix = g_ascii_strdown(id_or_prefix, -1);
    guint first = 0, n = 0;
    for (guint i = 0; *prefix != '\0' && i < n_ids; i++) {
        if (!g_str_has_prefix(ids[i], prefix))
            continue;
        if (n++ == 0)
            first = i;
    }
    if (n == 1)
        return g_strdup(ids[first]);
    if (n > 1)
        return ambiguous(id_or_prefix, ids, first, n, error);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                "no image \"%s\" in store %s; checkpoint-list shows what is there", id_or_prefix,
                store->path);
    return NULL;
}

StasisImageInfo *stasis_store_get_image(StasisStore *store, const char *id, GError **error)
{
    g_autoptr(StasisManifest) manifest = stasis_manifest_load(store, id, NULL, error);
    return manifest == NULL ? NULL : g_steal_pointer(&manifest->info);
}

/* An image whose own manifest is damaged can't be read with or without its parent, so it does not
 * hold the parent back. One that could not be looked at (too many files, a newer format) does. */
static gboolean check_childless(StasisStore *store, const char *id, GError **error)
{
    g_auto(GStrv) ids = stasis_store_list_ids(store, error);
    if (ids == NULL)
        return FALSE;
    for (guint i = 0; ids[i] != NULL; i++) {
        if (strcmp(ids[i], id) == 0)
            continue;
        g_autoptr(GError) local = NULL;
        g_autoptr(StasisManifest) manifest = stasis_manifest_load(store, ids[i], NULL, &local);
        if (manifest == NULL && !g_error_matches(local, STASIS_ERROR, STASIS_ERROR_CORRUPT) &&
            !g_error_matches(local, STASIS_ERROR, STASIS_ERROR_NOT_FOUND)) {
            g_propagate_prefixed_error(error, g_steal_pointer(&local),
                                       "image %s: not deleted, another may need it: ", id);
            return FALSE;
        }
        if (manifest == NULL || g_strcmp0(manifest->info->parent, id) != 0)
            continue;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "image %s can't be deleted: image %s is incremental to it; delete that first",
                    id, ids[i]);
        return FALSE;
    }
    return TRUE;
}

static gboolean delete_locked(StasisStore *store, int tmp_fd, const char *id, GError **error)
{
    if (faccessat(store->images_fd, id, F_OK, AT_SYMLINK_NOFOLLOW) < 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND, "no image %s in store %s", id,
                    store->path);
        return FALSE;
    }
    if (!check_childless(store, id, error))
        return FALSE;
    /* Out of the list in one step and for good, then the bytes: a crash in between leaves work for
     * the next writer, never half an image. */
    if (renameat(store->images_fd, id, tmp_fd, id) < 0 || fsync(store->images_fd) < 0)
        return stasis_set_errno(error, errno, "image %s: delete", id);
    fsync(tmp_fd);
    stasis_store_remove_dir(tmp_fd, id);
    return TRUE;
}

gboolean stasis_store_delete(StasisStore *store, const char *id, GError **error)
{
    if (!stasis_id_is_valid(id)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND, "\"%s\" is no image ID", id);
        return FALSE;
    }
    stasis_autofd int tmp_fd = -1;
    int lock_fd = stasis_store_lock(store, &tmp_fd, error);
    if (lock_fd < 0)
        return FALSE;
    gboolean ok = delete_locked(store, tmp_fd, id, error);
    if (ok)
        stasis_cache_remove(store, id);
    stasis_store_unlock(&lock_fd);
    return ok;
}

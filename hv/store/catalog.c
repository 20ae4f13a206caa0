/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is in a store: listing and looking up images. There is no catalogue on disk that could
 * disagree with the images: the directory images/ is it, and what a name in it stands for is the
 * one thing that a commit, a rebase or a deletion changes, by one rename.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"
#include "store/internal.h"
#include "store/listing.h"
#include "store/proc-image.h"

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

gboolean stasis_store_is_current(StasisStore *store, const char *id, int dir_fd)
{
    struct stat now, then;
    return fstat(dir_fd, &then) == 0 &&
           fstatat(store->images_fd, id, &now, AT_SYMLINK_NOFOLLOW) == 0 &&
           now.st_dev == then.st_dev && now.st_ino == then.st_ino;
}

gpointer stasis_store_look(StasisStore *store, const char *id, StasisLookFunc look, gpointer data,
                           GError **error)
{
    for (guint tries = 0;; tries++) {
        g_autoptr(GError) local = NULL;
        gboolean moved = FALSE;
        gpointer seen = look(store, id, data, &moved, &local);
        if (seen != NULL)
            return seen;
        if (!moved || tries == STASIS_LOOK_AGAIN) {
            g_propagate_error(error, g_steal_pointer(&local));
            return NULL;
        }
    }
}

GPtrArray *stasis_store_list(StasisStore *store, GError **error)
{
    return stasis_listing_once(&stasis_listing_images, store, error);
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

char *stasis_store_pick(StasisStore *store, char **ids, const char *id_or_prefix, GError **error)
{
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

char *stasis_store_resolve(StasisStore *store, const char *id_or_prefix, GError **error)
{
    g_auto(GStrv) ids = stasis_store_list_ids(store, error);
    g_autoptr(GError) local = NULL;
    g_autofree char *id = ids != NULL ? stasis_store_pick(store, ids, id_or_prefix, &local) : NULL;
    if (id != NULL || ids == NULL)
        return g_steal_pointer(&id);
    g_autofree char *other = strcmp(id_or_prefix, "latest") != 0
                                 ? stasis_store_resolve_process(store, id_or_prefix, NULL)
                                 : NULL;
    if (other == NULL)
        g_propagate_error(error, g_steal_pointer(&local));
    else
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                    "image %s is one of processes, not of a VM; proc-restore and proc-export are "
                    "for it",
                    other);
    return NULL;
}

StasisImageInfo *stasis_store_get_image(StasisStore *store, const char *id, GError **error)
{
    g_autoptr(StasisManifest) manifest = stasis_manifest_load(store, id, NULL, error);
    return manifest == NULL ? NULL : g_steal_pointer(&manifest->info);
}

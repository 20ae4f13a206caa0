/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening and making a store. A directory is a store when it has a stasis-store.json of a version
 * that we know; that file is made last, so a store is there whole or not at all. Opening writes
 * nothing, so that a store on read-only media can be read.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/io.h"
#include "base/json.h"
#include "store/internal.h"

#define DEFAULT_PATH "/var/lib/stasis"
#define STORE_FILE "stasis-store.json"
#define MAX_STORE_FILE_BYTES 4096u

static gboolean no_store(GError **error, const char *path, const char *why)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_NO_STORE,
                "no store at %s: %s; checkpoint-create makes one, --store or $STASIS_STORE names "
                "another",
                path, why);
    return FALSE;
}

/* @path may belong to something else: make a store only where nothing is but the beginnings of
 * one. */
static gboolean is_free(int dir_fd)
{
    g_auto(GStrv) names = stasis_store_list_names(dir_fd);
    static const char *const ours[] = { "images", "lock", "lost+found", "tmp", NULL };
    for (guint i = 0; names != NULL && names[i] != NULL; i++)
        if (!g_strv_contains(ours, names[i]) && !g_str_has_prefix(names[i], "." STORE_FILE))
            return FALSE;
    return names != NULL;
}

static gboolean write_store_file(int dir_fd, GError **error)
{
    g_autofree char *uuid = g_uuid_string_random();
    char text[128];
    int len = snprintf(text, sizeof(text), "{\n  \"format\": %u,\n  \"uuid\": \"%s\"\n}\n",
                       STASIS_FORMAT_VERSION, uuid);
    return stasis_write_file_at(dir_fd, STORE_FILE, text, (size_t)len, /* durable= */ TRUE, error);
}

static gboolean make_in(StasisStore *store, GError **error)
{
    if (mkdirat(store->dir_fd, "images", 0700) < 0 && errno != EEXIST) {
        g_autofree char *why = g_strdup_printf("make images/: %s", g_strerror(errno));
        return no_store(error, store->path, why);
    }
    /* Under the writer lock: two that make one store at once must not give it two UUIDs. */
    stasis_autofd int tmp_fd = -1;
    int lock_fd = stasis_store_lock(store, STASIS_STORE_LOCK_WAIT_MS, NULL, &tmp_fd, error);
    if (lock_fd < 0)
        return FALSE;
    gboolean ok = faccessat(store->dir_fd, STORE_FILE, F_OK, 0) == 0 ||
                  write_store_file(store->dir_fd, error);
    stasis_store_unlock(&lock_fd);
    return ok;
}

static gboolean make(StasisStore *store, GError **error)
{
    g_autofree char *parent = g_path_get_dirname(store->path);
    if (g_mkdir_with_parents(store->path, 0700) < 0)
        return no_store(error, store->path, g_strerror(errno));
    store->dir_fd = open(store->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (store->dir_fd < 0)
        return no_store(error, store->path, g_strerror(errno));
    if (faccessat(store->dir_fd, STORE_FILE, F_OK, 0) == 0)
        return TRUE;
    if (!is_free(store->dir_fd))
        return no_store(error, store->path,
                        "the directory holds other files, and none is made among them");
    if (!make_in(store, error))
        return FALSE;
    stasis_autofd int parent_fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (parent_fd >= 0)
        fsync(parent_fd);
    return TRUE;
}

static gboolean check(StasisStore *store, GError **error)
{
    if (store->dir_fd < 0)
        store->dir_fd = open(store->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (store->dir_fd < 0)
        return no_store(error, store->path, g_strerror(errno));
    if (faccessat(store->dir_fd, STORE_FILE, F_OK, 0) < 0)
        return no_store(error, store->path, "it has no " STORE_FILE);
    stasis_autofd int fd = stasis_store_open_file(store->dir_fd, STORE_FILE, NULL, NULL);
    char text[MAX_STORE_FILE_BYTES];
    ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof(text), 0);
    g_autoptr(JsonObject) object = n < 0 ? NULL : stasis_json_parse_object(text, n, NULL);
    guint64 format = object == NULL ? 0 : stasis_json_uint_or(object, "format", 0);
    if (format != STASIS_FORMAT_VERSION) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NO_STORE,
                    "store %s: " STORE_FILE " is %s; this program knows format %u only",
                    store->path, format == 0 ? "unreadable" : "of another format",
                    STASIS_FORMAT_VERSION);
        return FALSE;
    }
    store->images_fd = stasis_store_open_dir(store->dir_fd, "images");
    if (store->images_fd < 0)
        return no_store(error, store->path, "images/ can't be opened in it");
    return TRUE;
}

StasisStore *stasis_store_open(const char *path, StasisStoreFlags flags, GError **error)
{
    const char *from_env = g_getenv("STASIS_STORE");
    if (path == NULL || *path == '\0')
        path = from_env != NULL && *from_env != '\0' ? from_env : DEFAULT_PATH;
    g_autoptr(StasisStore) store = g_new0(StasisStore, 1);
    g_atomic_ref_count_init(&store->ref);
    store->path = g_canonicalize_filename(path, NULL);
    store->dir_fd = store->images_fd = -1;
    if ((flags & STASIS_STORE_CREATE) && !make(store, error))
        return NULL;
    if (!check(store, error))
        return NULL;
    return g_steal_pointer(&store);
}

StasisStore *stasis_store_ref(StasisStore *store)
{
    g_atomic_ref_count_inc(&store->ref);
    return store;
}

void stasis_store_unref(StasisStore *store)
{
    if (store == NULL || !g_atomic_ref_count_dec(&store->ref))
        return;
    stasis_close_fdp(&store->dir_fd);
    stasis_close_fdp(&store->images_fd);
    g_free(store->path);
    g_free(store);
}

const char *stasis_store_get_path(StasisStore *store)
{
    return store->path;
}

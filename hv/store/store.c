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

#include "base/fault.h"
#include "base/fd.h"
#include "base/io.h"
#include <stasis/seal.h>
#include "store/internal.h"

#define DEFAULT_PATH "/var/lib/stasis"
#define STORE_FILE "stasis-store.json"

static gboolean no_store(GError **error, const char *path, const char *why)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_NO_STORE,
                "no store at %s: %s; checkpoint-create makes one, --store or $STASIS_STORE names "
                "another",
                path, why);
    return FALSE;
}

static gboolean cannot_make(GError **error, const char *path, const char *why)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_NO_STORE,
                "no store can be made at %s: %s; --store or $STASIS_STORE names another place",
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

/* Of the keys that store->config has, and a new UUID if it has none. */
static gboolean write_store_file(StasisStore *store, GError **error)
{
    if (store->config.uuid[0] == '\0') {
        g_autofree char *uuid = g_uuid_string_random();
        g_strlcpy(store->config.uuid, uuid, sizeof(store->config.uuid));
    }
    g_autofree char *text = stasis_store_config_write(&store->config);
    return stasis_write_file_at(store->dir_fd, STORE_FILE, text, strlen(text), /* durable= */ TRUE,
                                error);
}

static gboolean is_store(StasisStore *store)
{
    return faccessat(store->dir_fd, STORE_FILE, F_OK, 0) == 0;
}

static gboolean make_in(StasisStore *store, GError **error)
{
    if (mkdirat(store->dir_fd, "images", 0700) < 0 && errno != EEXIST) {
        g_autofree char *why = g_strdup_printf("make images/: %s", g_strerror(errno));
        return cannot_make(error, store->path, why);
    }
    /* Under the writer lock: two that make one store at once must not give it two UUIDs. */
    stasis_autofd int tmp_fd = -1;
    int lock_fd = stasis_store_lock(store, STASIS_STORE_LOCK_WAIT_MS, NULL, &tmp_fd, error);
    if (lock_fd < 0)
        return FALSE;
    gboolean ok = is_store(store) ||
                  (stasis_fault(STASIS_FAULT_INIT_MADE, error) && write_store_file(store, error) &&
                   stasis_fault(STASIS_FAULT_INIT_WRITTEN, error));
    stasis_store_unlock(&lock_fd);
    return ok;
}

/* The last directory above @path that is there. */
static char *find_above(const char *path)
{
    char *dir = g_path_get_dirname(path);
    while (access(dir, F_OK) < 0 && strrchr(dir, '/') != dir) {
        char *above = g_path_get_dirname(dir);
        g_free(dir);
        dir = above;
    }
    return dir;
}

/* The directories above @path, up to @top, in which the next one below is new. */
static void sync_above(const char *path, const char *top)
{
    g_autofree char *dir = g_strdup(path);
    do {
        char *above = g_path_get_dirname(dir);
        g_free(dir);
        dir = above;
        stasis_autofd int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd >= 0)
            fsync(fd);
    } while (strlen(dir) > strlen(top));
}

static gboolean make(StasisStore *store, GError **error)
{
    g_autofree char *top = find_above(store->path);
    if (g_mkdir_with_parents(store->path, 0700) < 0)
        return cannot_make(error, store->path, g_strerror(errno));
    store->dir_fd = open(store->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (store->dir_fd < 0)
        return cannot_make(error, store->path, g_strerror(errno));
    if (is_store(store))
        return TRUE;
    if (!is_free(store->dir_fd))
        return cannot_make(error, store->path,
                           "the directory holds other files, and none is made among them");
    if (!make_in(store, error))
        return FALSE;
    sync_above(store->path, top);
    return TRUE;
}

static gboolean check(StasisStore *store, GError **error)
{
    if (store->dir_fd < 0)
        store->dir_fd = open(store->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (store->dir_fd < 0)
        return no_store(error, store->path, g_strerror(errno));
    if (!is_store(store))
        return no_store(error, store->path, "it has no " STORE_FILE);
    stasis_autofd int fd = stasis_store_open_file(store->dir_fd, STORE_FILE, NULL, NULL);
    char text[STASIS_MAX_STORE_FILE_BYTES];
    ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof(text), 0);
    g_autoptr(GError) local = NULL;
    if (!stasis_store_config_parse(text, n < 0 ? 0 : (gsize)n, &store->config, &local)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NO_STORE,
                    "store %s: " STORE_FILE " %s; this program knows formats %u and %u only",
                    store->path, local->message, STASIS_STORE_FORMAT, STASIS_STORE_FORMAT_SEALED);
        return FALSE;
    }
    store->images_fd = stasis_store_open_dir(store->dir_fd, "images");
    if (store->images_fd < 0)
        return no_store(error, store->path, "images/ can't be opened in it");
    return TRUE;
}

static gboolean names_keys(const StasisStore *store, StasisKeyKind kind, const char *id)
{
    return !stasis_keys_has_kind(store->keys, kind) ||
           stasis_keys_find(store->keys, kind, id) != NULL;
}

/* Is the store sealed with keys that are named? */
static gboolean check_keys(StasisStore *store, GError **error)
{
    const StasisKeyIds *ids = &store->config.keys;
    g_autofree char *there = NULL;
    if (names_keys(store, STASIS_KEY_SEAL, ids->encrypt) &&
        names_keys(store, STASIS_KEY_VERIFY, ids->sign))
        return TRUE;
    there = stasis_keys_describe(store->keys);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_KEY,
                "store %s is encrypted with %s and signed with %s, and the keys that are named are "
                "others (%s); name its key file, or make a store for these with store-init",
                store->path, ids->encrypt[0] != '\0' ? ids->encrypt : "no key",
                ids->sign[0] != '\0' ? ids->sign : "no key", there);
    return FALSE;
}

/* Not open yet, with the keys that are named. */
static StasisStore *store_new(const char *path, GError **error)
{
    const char *from_env = g_getenv("STASIS_STORE");
    g_autoptr(GError) local = NULL;
    if (path == NULL || *path == '\0')
        path = from_env != NULL && *from_env != '\0' ? from_env : DEFAULT_PATH;
    g_autoptr(StasisStore) store = g_new0(StasisStore, 1);
    g_atomic_ref_count_init(&store->ref);
    store->path = g_canonicalize_filename(path, NULL);
    store->dir_fd = store->images_fd = store->scratch_fd = -1;
    store->keys = stasis_keys_load(&local);
    if (local == NULL)
        return g_steal_pointer(&store);
    g_propagate_error(error, g_steal_pointer(&local));
    return NULL;
}

StasisStore *stasis_store_open(const char *path, StasisStoreFlags flags, GError **error)
{
    g_autoptr(StasisStore) store = store_new(path, error);
    gboolean as_keys_say =
        (flags & STASIS_STORE_AS_KEYS_SAY) && store != NULL && store->keys != NULL;
    /* A new one would not be sealed: then rather none. */
    if (store == NULL || ((flags & STASIS_STORE_CREATE) && !as_keys_say && !make(store, error)))
        return NULL;
    if (!check(store, error) || (as_keys_say && !check_keys(store, error)))
        return NULL;
    return g_steal_pointer(&store);
}

/* ---- sealed stores ---- */

/* The IDs of the first keys of the kinds in @what. */
static gboolean choose_keys(const StasisStore *store, StasisSealFlags what, StasisKeyIds *ret,
                            GError **error)
{
    StasisKeyIds ids = { "", "" };
    const StasisKey *seal = stasis_keys_first(store->keys, STASIS_KEY_SEAL);
    const StasisKey *sign = stasis_keys_first(store->keys, STASIS_KEY_SIGN);
    if (((what & STASIS_SEAL_ENCRYPT) && seal == NULL) ||
        ((what & STASIS_SEAL_SIGN) && sign == NULL)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_KEY,
                    "no key that %s is named; --key-file or $STASIS_KEY_FILE names key files, "
                    "store-key-generate makes one",
                    seal == NULL && (what & STASIS_SEAL_ENCRYPT) ? "encrypts" : "signs");
        return FALSE;
    }
    if (what & STASIS_SEAL_ENCRYPT)
        g_strlcpy(ids.encrypt, seal->id, sizeof(ids.encrypt));
    if (what & STASIS_SEAL_SIGN)
        g_strlcpy(ids.sign, sign->id, sizeof(ids.sign));
    *ret = ids;
    return TRUE;
}

/* A key that is named is a demand (check_keys()): such a store would be refused ever after. */
static gboolean check_asked_for(const StasisStore *store, StasisSealFlags what, GError **error)
{
    gboolean encrypt =
        !(what & STASIS_SEAL_ENCRYPT) && stasis_keys_first(store->keys, STASIS_KEY_SEAL) != NULL;
    gboolean sign =
        !(what & STASIS_SEAL_SIGN) && stasis_keys_has_kind(store->keys, STASIS_KEY_VERIFY);
    if (!encrypt && !sign)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                "the key files have a key that %s, and the store is not to use it; ask for that, "
                "too, or name a file without (store-key-generate --%s)",
                encrypt ? "encrypts" : "signs", encrypt ? "sign" : "encrypt");
    return FALSE;
}

StasisStore *stasis_store_init(const char *path, StasisSealFlags what, GError **error)
{
    g_autoptr(StasisStore) store = store_new(path, error);
    if (store == NULL || !choose_keys(store, what, &store->config.keys, error) ||
        !check_asked_for(store, what, error))
        return NULL;
    g_autofree char *file = g_build_filename(store->path, STORE_FILE, NULL);
    if (g_file_test(file, G_FILE_TEST_EXISTS)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "%s is a store already, and its images would not be sealed; make another",
                    store->path);
        return NULL;
    }
    StasisKeyIds wanted = store->config.keys;
    if (!make(store, error) || !check(store, error))
        return NULL;
    /* Somebody else's, made in the same moment, may be another. */
    if (strcmp(wanted.encrypt, store->config.keys.encrypt) == 0 &&
        strcmp(wanted.sign, store->config.keys.sign) == 0)
        return g_steal_pointer(&store);
    no_store(error, store->path, "another program made one there meanwhile");
    return NULL;
}

gboolean stasis_store_rekey(StasisStore *store, StasisKeyIds *ret, GError **error)
{
    StasisKeyIds ids, old = store->config.keys;
    StasisSealFlags what = (old.encrypt[0] != '\0' ? STASIS_SEAL_ENCRYPT : 0) |
                           (old.sign[0] != '\0' ? STASIS_SEAL_SIGN : 0);
    if (!choose_keys(store, what, &ids, error))
        return FALSE;
    stasis_autofd int tmp_fd = -1;
    int lock_fd = stasis_store_lock(store, STASIS_STORE_LOCK_WAIT_MS, NULL, &tmp_fd, error);
    if (lock_fd < 0)
        return FALSE;
    store->config.keys = ids;
    gboolean ok = write_store_file(store, error);
    if (!ok)
        store->config.keys = old;
    stasis_store_unlock(&lock_fd);
    if (ok)
        *ret = ids;
    return ok;
}

StasisKeyIds stasis_store_get_keys(StasisStore *store)
{
    return store->config.keys;
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
    stasis_close_fdp(&store->scratch_fd);
    stasis_keys_unref(store->keys);
    g_free(store->path);
    g_free(store);
}

const char *stasis_store_get_path(StasisStore *store)
{
    return store->path;
}

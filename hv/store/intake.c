/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images that come from another store, file by file: each in a directory of work.c, so that writers
 * go on meanwhile, and under the lock only to be given their places, oldest first. They keep their
 * IDs; one that the store has already must be the same.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/io.h"
#include "store/internal.h"

typedef struct {
    char *id;
    StasisWork work;
    StasisManifest *manifest; /* when it was checked */
    gboolean placed;
} Guest;

struct _StasisImageIntake {
    StasisStore *store;
    GPtrArray *guests; /* of Guest, oldest first */
};

static void guest_free(gpointer data)
{
    Guest *guest = data;
    stasis_work_close(&guest->work);
    stasis_manifest_free(guest->manifest);
    g_free(guest->id);
    g_free(guest);
}

StasisImageIntake *stasis_image_intake_new(StasisStore *store)
{
    StasisImageIntake *intake = g_new0(StasisImageIntake, 1);
    intake->store = stasis_store_ref(store);
    intake->guests = g_ptr_array_new_with_free_func(guest_free);
    return intake;
}

void stasis_image_intake_free(StasisImageIntake *intake)
{
    if (intake == NULL)
        return;
    g_ptr_array_unref(intake->guests);
    stasis_store_unref(intake->store);
    g_free(intake);
}

static Guest *find(StasisImageIntake *intake, const char *id)
{
    for (guint i = intake->guests->len; i > 0; i--) {
        Guest *guest = intake->guests->pdata[i - 1];
        if (strcmp(guest->id, id) == 0)
            return guest;
    }
    return NULL;
}

static Guest *find_or_make(StasisImageIntake *intake, const char *id, GError **error)
{
    Guest *guest = find(intake, id);
    if (guest != NULL)
        return guest;
    if (!stasis_id_is_valid(id)) {
        stasis_corrupt(error, "\"%.40s\" is no image's ID", id);
        return NULL;
    }
    if (stasis_id_is_ahead(id)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "image %s is of a time more than a day ahead of this machine's clock, and all "
                    "later images would have to sort behind it; set the clock, or leave that image",
                    id);
        return NULL;
    }
    guest = g_new0(Guest, 1);
    guest->id = g_strdup(id);
    guest->work.tmp_fd = guest->work.dir_fd = -1;
    if (!stasis_work_open(&guest->work, intake->store, error)) {
        guest_free(guest);
        return NULL;
    }
    g_ptr_array_add(intake->guests, guest);
    return guest;
}

/* Of the letters of parts (docs/format.md); those that an image's own files have are such, too. */
static gboolean is_name(const char *name)
{
    gsize n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.");
    return n >= 1 && n <= 64 && name[n] == '\0' && name[0] != '.';
}

static gboolean check_name(const char *name, GError **error)
{
    return is_name(name) || stasis_corrupt(error, "\"%.80s\" is no file of an image", name);
}

int stasis_image_intake_create(StasisImageIntake *intake, const char *id, const char *name,
                               GError **error)
{
    Guest *guest = check_name(name, error) ? find_or_make(intake, id, error) : NULL;
    return guest != NULL ? stasis_store_create_file(guest->work.dir_fd, name, error) : -1;
}

gboolean stasis_image_intake_link(StasisImageIntake *intake, const char *id, const char *name,
                                  const char *from_id, const char *from_name, GError **error)
{
    Guest *guest = check_name(name, error) ? find_or_make(intake, id, error) : NULL;
    const Guest *from = guest != NULL ? find(intake, from_id) : NULL;
    if (guest == NULL)
        return FALSE;
    if (from == NULL || !is_name(from_name))
        return stasis_corrupt(error, "image %s: %s is a link to what is not there", id, name);
    return linkat(from->work.dir_fd, from_name, guest->work.dir_fd, name, 0) == 0 ||
           stasis_set_errno(error, errno, "image %s: link %s", id, name);
}

/* ---- committing ---- */

/* It may be another guest. What is incremental to another is younger, so that was checked. */
static gboolean check_parent(StasisImageIntake *intake, const StasisManifest *manifest,
                             GError **error)
{
    const Guest *guest = find(intake, manifest->info->parent);
    if (guest != NULL && guest->manifest == NULL)
        return stasis_corrupt(error, "it is older than its parent %s", guest->id);
    if (guest != NULL)
        return stasis_manifest_check_parent(manifest, guest->manifest, error);
    g_autoptr(StasisManifest) parent =
        stasis_manifest_load(intake->store, manifest->info->parent, NULL, error);
    return parent != NULL && stasis_manifest_check_parent(manifest, parent, error);
}

/* Is all there, as its manifest says, and what it is incremental to known? What extents and parts
 * hold is checked by whoever reads them. */
static gboolean check_guest(StasisImageIntake *intake, Guest *guest, GError **error)
{
    gsize len;
    g_autofree char *text = stasis_store_read_text(guest->work.dir_fd, "manifest.json",
                                                   STASIS_MAX_MANIFEST_BYTES, &len, error);
    g_autoptr(StasisManifest) manifest =
        text != NULL ? stasis_manifest_parse(text, len, error) : NULL;
    if (manifest == NULL || !stasis_manifest_check_seal(intake->store, manifest, text, len, error))
        return FALSE;
    const StasisImageInfo *info = manifest->info;
    if (strcmp(info->id, guest->id) != 0)
        return stasis_corrupt(error, "its manifest is that of image %s", info->id);
    if ((info->parent != NULL && !check_parent(intake, manifest, error)) ||
        !stasis_layer_check_files(guest->work.dir_fd, manifest, error))
        return FALSE;
    guest->manifest = g_steal_pointer(&manifest);
    return TRUE;
}

static gboolean is_there(StasisImageIntake *intake, const StasisManifest *manifest, gboolean *ret,
                         GError **error)
{
    const char *id = manifest->info->id;
    g_autoptr(GError) local = NULL;
    g_autoptr(StasisManifest) present = stasis_manifest_load(intake->store, id, NULL, &local);
    if (present == NULL && g_error_matches(local, STASIS_ERROR, STASIS_ERROR_NOT_FOUND)) {
        *ret = FALSE;
        return TRUE;
    }
    if (present == NULL) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    *ret = TRUE;
    if (strcmp(stasis_manifest_identity(present), stasis_manifest_identity(manifest)) == 0)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "store %s has another image of that ID; import into another store",
                intake->store->path);
    return FALSE;
}

static void take_back(StasisImageIntake *intake)
{
    for (guint i = intake->guests->len; i > 0; i--) {
        Guest *guest = intake->guests->pdata[i - 1];
        if (guest->placed)
            renameat(intake->store->images_fd, guest->id, guest->work.tmp_fd, guest->work.name);
        guest->placed = FALSE;
    }
}

static gboolean place(StasisImageIntake *intake, Guest *guest, GPtrArray *placed, GError **error)
{
    gboolean present;
    if (!check_guest(intake, guest, error) || !is_there(intake, guest->manifest, &present, error)) {
        g_prefix_error(error, "image %s: ", guest->id);
        return FALSE;
    }
    if (present)
        return TRUE;
    if (fsync(guest->work.dir_fd) < 0 || fsync(guest->work.tmp_fd) < 0 ||
        stasis_rename_new(guest->work.tmp_fd, guest->work.name, intake->store->images_fd,
                          guest->id) < 0)
        return stasis_set_errno(error, errno, "rename to images/%s", guest->id);
    guest->placed = TRUE;
    g_ptr_array_add(placed, g_strdup(guest->id));
    return stasis_fault(STASIS_FAULT_BUNDLE_LISTING, error);
}

/* Out of tmp/ for good, and in images/. */
static gboolean settle(const StasisImageIntake *intake, int tmp_fd, GError **error)
{
    if (fsync(intake->store->images_fd) < 0 || fsync(tmp_fd) < 0)
        return stasis_set_errno(error, errno, "images: sync");
    return TRUE;
}

static gint by_id(gconstpointer a, gconstpointer b)
{
    const Guest *x = *(Guest *const *)a, *y = *(Guest *const *)b;
    return strcmp(x->id, y->id);
}

char **stasis_image_intake_commit(StasisImageIntake *intake, GCancellable *cancellable,
                                  GError **error)
{
    g_ptr_array_sort(intake->guests, by_id);
    if (!stasis_fault(STASIS_FAULT_BUNDLE_TAKEN, error))
        return NULL;
    stasis_autofd int tmp_fd = -1;
    int lock_fd =
        stasis_store_lock(intake->store, STASIS_STORE_LOCK_LONG_MS, cancellable, &tmp_fd, error);
    if (lock_fd < 0)
        return NULL;
    g_autoptr(GPtrArray) placed = g_ptr_array_new_with_free_func(g_free);
    gboolean ok = TRUE;
    for (guint i = 0; ok && i < intake->guests->len; i++)
        ok = place(intake, intake->guests->pdata[i], placed, error);
    ok = ok && settle(intake, tmp_fd, error);
    if (!ok)
        take_back(intake);
    stasis_store_unlock(&lock_fd);
    if (!ok)
        return NULL;
    for (guint i = 0; i < intake->guests->len; i++) {
        Guest *guest = intake->guests->pdata[i];
        if (guest->placed)
            g_clear_pointer(&guest->work.name, g_free); /* no more to be removed */
    }
    g_ptr_array_add(placed, NULL);
    return (char **)g_ptr_array_steal(placed, NULL);
}

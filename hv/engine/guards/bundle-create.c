/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A bundle's file has no name before all of it is on the disk (bundle-place.c). A draft is such a
 * file that images are copied to while the last of them is yet to be taken. What it is to hold in
 * the end is not known then, so bundle.json, which lies first, has room in it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>

#include "base/fault.h"
#include "base/io.h"
#include "base/options.h"
#include "engine/guards/bundle-draft.h"
#include "engine/guards/bundle-place.h"
#include "engine/guards/bundle-work.h"
#include "store/image.h"

#define MAX_TRIES 5 /* images that were folded or deleted under our hands */
#define DRAFT_ROOM ((guint64)256 << 10)

/* ---- drafts ---- */

struct _StasisBundleDraft {
    char *dir;
    StasisStore *store;
    StasisBundlePlace file;
    StasisBundleWork work;
    GThread *thread; /* or NULL: it has been waited for */
    GError *failed;
};

static gpointer copy_images(gpointer data)
{
    StasisBundleDraft *draft = data;
    stasis_bundle_write(&draft->work, &draft->failed);
    return NULL;
}

void stasis_bundle_draft_wait(StasisBundleDraft *draft)
{
    if (draft->thread != NULL)
        g_thread_join(g_steal_pointer(&draft->thread));
}

StasisBundleDraft *stasis_bundle_draft_new(StasisStore *store, const char *const *ids,
                                           const char *dir, GError **error)
{
    g_autoptr(StasisBundleDraft) draft = g_new0(StasisBundleDraft, 1);
    draft->dir = g_strdup(dir);
    draft->store = stasis_store_ref(store);
    if (!stasis_bundle_place_open(&draft->file, dir, error))
        return NULL;
    stasis_bundle_work_init(&draft->work, store, draft->file.fd, draft->file.direct_fd);
    draft->work.room = DRAFT_ROOM;
    if (!stasis_bundle_collect_images(&draft->work, ids, error))
        return NULL;
    draft->thread = g_thread_new("stasis-bundle", copy_images, draft);
    return stasis_fault(STASIS_FAULT_BUNDLE_DRAFTED, error) ? g_steal_pointer(&draft) : NULL;
}

void stasis_bundle_draft_free(StasisBundleDraft *draft)
{
    if (draft == NULL)
        return;
    stasis_bundle_draft_wait(draft);
    stasis_bundle_work_clear(&draft->work);
    stasis_bundle_place_clear(&draft->file);
    g_clear_error(&draft->failed);
    stasis_store_unref(draft->store);
    g_free(draft->dir);
    g_free(draft);
}

/* ---- together ---- */

static gboolean complete(StasisBundleWork *work, const char *const *ids,
                         const StasisBundleOptions *options, GCancellable *cancellable,
                         GError **error)
{
    work->cancellable = cancellable;
    return stasis_bundle_collect_rest(work, ids, options, error) &&
           stasis_bundle_collect_images(work, ids, error) && stasis_bundle_write(work, error) &&
           stasis_bundle_write_json(work, error);
}

static gboolean finish_draft(StasisBundleDraft *draft, const char *const *ids, const char *base,
                             const StasisBundleOptions *options, GCancellable *cancellable,
                             GError **error)
{
    stasis_bundle_draft_wait(draft);
    if (draft->failed != NULL) {
        g_propagate_error(error, g_steal_pointer(&draft->failed));
        return FALSE;
    }
    return complete(&draft->work, ids, options, cancellable, error) &&
           stasis_bundle_place_name(&draft->file, base, error);
}

static gboolean write_new(StasisStore *store, const char *const *ids, const char *dir,
                          const char *base, const StasisBundleOptions *options,
                          GCancellable *cancellable, GError **error)
{
    g_auto(StasisBundlePlace) file = { .dir_fd = -1, .fd = -1, .direct_fd = -1 };
    if (!stasis_bundle_place_open(&file, dir, error))
        return FALSE;
    if (faccessat(file.dir_fd, base, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return stasis_set_errno(error, EEXIST, "name a new file, or remove this one");
    gboolean done = FALSE;
    for (guint tries = 1; !done; tries++) {
        g_autoptr(GError) local = NULL;
        g_auto(StasisBundleWork) work;
        stasis_bundle_work_init(&work, store, file.fd, file.direct_fd);
        done = ftruncate(file.fd, 0) == 0 && complete(&work, ids, options, cancellable, &local);
        if (done ||
            (tries < MAX_TRIES && g_error_matches(local, STASIS_ERROR, STASIS_ERROR_FAILED)))
            continue;
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    return stasis_bundle_place_name(&file, base, error);
}

gboolean stasis_bundle_create(StasisStore *store, const char *const *ids, const char *path,
                              const StasisBundleOptions *given, GCancellable *cancellable,
                              GError **error)
{
    StasisBundleOptions own = STASIS_BUNDLE_OPTIONS_INIT;
    const StasisBundleOptions *options = stasis_own_options(&own, given, sizeof own);
    g_autofree char *dir = g_path_get_dirname(path), *base = g_path_get_basename(path);
    if (write_new(store, ids, dir, base, options, cancellable, error))
        return TRUE;
    g_prefix_error(error, "bundle %s: ", path);
    return FALSE;
}

/* What made a draft useless, if it was not that we are to stop, is seen again or was passing. */
gboolean stasis_bundle_draft_finish(StasisBundleDraft *draft, const char *const *ids,
                                    const char *name, const StasisBundleOptions *options,
                                    GCancellable *cancellable, GError **error)
{
    if (finish_draft(draft, ids, name, options, cancellable, NULL))
        return TRUE;
    g_autofree char *path = g_build_filename(draft->dir, name, NULL);
    return stasis_bundle_create(draft->store, ids, path, options, cancellable, error);
}

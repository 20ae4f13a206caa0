/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/guards/kept.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/io.h"
#include "engine/guards/bundle-place.h"

#define SUFFIX ".bundle"
#define PIECE ((gsize)1 << 20)
#define FIRST_PAUSE_US 1000000u
#define MAX_PAUSE_US 60000000u

char *stasis_kept_find(const char *memory_dir)
{
    g_autoptr(GDir) dir = g_dir_open(memory_dir, 0, NULL);
    for (const char *name; dir != NULL && (name = g_dir_read_name(dir)) != NULL;)
        if (name[0] != '.' && g_str_has_suffix(name, SUFFIX))
            return g_build_filename(memory_dir, name, NULL);
    return NULL;
}

/* A place that is too small says so before anything is written, where it can. */
static gboolean copy(int from, int to, guint64 size, GError **error)
{
    g_autofree guint8 *piece = g_malloc(PIECE);
    if (fallocate(to, 0, 0, (off_t)size) < 0 && errno != EOPNOTSUPP)
        return stasis_set_errno(error, errno, "make room for the bundle");
    for (guint64 done = 0, n; done < size; done += n) {
        n = MIN(PIECE, size - done);
        int r = stasis_pread_all(from, piece, n, (off_t)done);
        if (r == 0)
            r = stasis_pwrite_all(to, piece, n, (off_t)done);
        if (r < 0)
            return stasis_set_errno(error, -r, "copy the bundle");
    }
    return TRUE;
}

static gboolean move(const char *path, int from, const char *dir, GError **error)
{
    g_auto(StasisBundlePlace) place = { .dir_fd = -1, .fd = -1, .direct_fd = -1 };
    g_autofree char *name = g_path_get_basename(path);
    struct stat st;
    if (fstat(from, &st) < 0)
        return stasis_set_errno(error, errno, "%s", path);
    if (!stasis_bundle_place_open(&place, dir, error) ||
        !copy(from, place.fd, (guint64)st.st_size, error) ||
        !stasis_bundle_place_name(&place, name, error))
        return FALSE;
    unlink(path);
    return TRUE;
}

gboolean stasis_kept_move(StasisKept *kept, const char *dir, char **ret_path, GError **error)
{
    stasis_autofd int from = open(kept->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    gboolean taken = from < 0 && errno == ENOENT;
    if (from < 0 && !taken)
        stasis_set_errno(error, errno, "open %s", kept->path);
    if (!taken && (from < 0 || !move(kept->path, from, dir, error))) {
        guint64 pause_us = (guint64)FIRST_PAUSE_US << MIN(kept->n_failed, 6u);
        kept->n_failed++;
        kept->next_us = stasis_now_us() + MIN(pause_us, MAX_PAUSE_US);
        return FALSE;
    }
    g_autofree char *name = g_path_get_basename(kept->path);
    *ret_path = taken ? NULL : g_build_filename(dir, name, NULL);
    stasis_kept_clear(kept);
    return TRUE;
}

gboolean stasis_kept_is_due(const StasisKept *kept)
{
    return kept->path != NULL && stasis_now_us() >= kept->next_us;
}

void stasis_kept_clear(StasisKept *kept)
{
    g_free(kept->path);
    *kept = (StasisKept){ NULL };
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Entries that are moved between two directories of a store, which is how an image is listed,
 * exchanged for another and taken out again: known to be durable, or not moved at all.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/io.h"
#include "store/internal.h"

gboolean stasis_store_settle_move(int to_fd, int from_fd, StasisFault passed, const char *place,
                                  GError **error)
{
    if (!stasis_fault(passed, error))
        return FALSE;
    if (fsync(to_fd) < 0 || fsync(from_fd) < 0)
        return stasis_set_errno(error, errno, "%s: sync", place);
    return TRUE;
}

static gboolean cant_exchange(const char *place, const char *name, GError **error)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "%s: rename %s: the store's file system can't exchange two directories "
                "(RENAME_EXCHANGE of renameat2(2)), so no image of a chain can go but its newest; "
                "copy the store to another file system",
                place, name);
    return FALSE;
}

gboolean stasis_store_move(int from_fd, const char *from, int to_fd, const char *to, guint flags,
                           StasisFault passed, const char *place, GError **error)
{
    int r = flags == RENAME_NOREPLACE ? stasis_rename_new(from_fd, from, to_fd, to)
                                      : renameat2(from_fd, from, to_fd, to, flags);
    if (r < 0 && errno == EINVAL && flags == RENAME_EXCHANGE)
        return cant_exchange(place, to, error);
    if (r < 0)
        return stasis_set_errno(error, errno, "%s: rename %s", place, to);
    if (stasis_store_settle_move(to_fd, from_fd, passed, place, error))
        return TRUE;
    /* Not known to be durable: as it was. */
    renameat2(to_fd, to, from_fd, from, flags & RENAME_EXCHANGE);
    return FALSE;
}

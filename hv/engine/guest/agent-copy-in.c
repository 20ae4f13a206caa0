/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Into a guest: each file piece by piece, each piece behind the one before. What is copied is
 * walked by descriptors; links in it are not followed, but copied.
 */
#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"
#include "base/tree.h"
#include "engine/guest/agent-copy.h"

#define PIECE (56u << 10)
/* A path, the numbers, and the fields' heads. */
#define HEAD_ROOM (5u << 10)
G_STATIC_ASSERT(PIECE + HEAD_ROOM <= STASIS_AGENT_MAX_PAYLOAD);

typedef struct {
    const char *kind, *path;
    guint mode;
    guint64 offset;
    const void *bytes;
    guint32 n;
} Piece;

static gboolean put(StasisAgentCopy *copy, const Piece *piece, GError **error)
{
    static const guint32 room_bytes = STASIS_AGENT_MAX_PAYLOAD;
    g_autofree guint8 *room = g_malloc(room_bytes);
    StasisFieldWriter fields = { .payload = room, .room = room_bytes };
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_PATH, piece->path);
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_KIND, piece->kind);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_MODE, piece->mode);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_OFFSET, piece->offset);
    if (piece->n > 0)
        stasis_field_put(&fields, STASIS_AGENT_TAG_INPUT, piece->bytes, piece->n);
    StasisAgentWait wait = stasis_agent_copy_wait(copy);
    g_autoptr(GBytes) answer =
        stasis_agent_call(copy->agent, STASIS_AGENT_OP_FILE_WRITE, &fields, &wait, error);
    return answer != NULL && stasis_agent_copy_count(copy, piece->n, error);
}

/* A file that grows meanwhile is copied as far as it went at first: it has an end. */
static gboolean put_file(StasisAgentCopy *copy, int fd, const struct stat *st, const char *to,
                         GError **error)
{
    g_autofree guint8 *bytes = g_malloc(PIECE);
    guint64 size = (guint64)st->st_size, offset = 0;
    do {
        ssize_t n = pread(fd, bytes, MIN(size - offset, PIECE), (off_t)offset);
        if (n < 0)
            return stasis_set_errno(error, errno, "read");
        Piece piece = { "file", to, st->st_mode & 0777, offset, bytes, (guint32)n };
        if (!put(copy, &piece, error))
            return FALSE;
        offset += (guint64)n;
        size = n == 0 ? offset : size;
    } while (offset < size);
    copy->copied.n_files++;
    return TRUE;
}

/* By errno: has it vanished from the directory that is read, or become something else (a link, no
 * link any more, a socket)? That is counted. */
static gboolean skip_gone(StasisAgentCopy *copy, guint depth)
{
    gboolean gone =
        depth > 0 && (errno == ENOENT || errno == ELOOP || errno == EINVAL || errno == ENXIO);
    copy->copied.n_vanished += gone;
    return gone;
}

static gboolean put_link(StasisAgentCopy *copy, int dir_fd, const char *name, const char *to,
                         guint depth, GError **error)
{
    char target[4096];
    ssize_t n = readlinkat(dir_fd, name, target, sizeof target - 1);
    if (n < 0)
        return skip_gone(copy, depth) || stasis_set_errno(error, errno, "read link");
    copy->copied.n_links++;
    Piece piece = { "link", to, 0777, 0, target, (guint32)n };
    return put(copy, &piece, error);
}

static gboolean put_at(StasisAgentCopy *copy, int dir_fd, const char *name, int follow,
                       const char *to, guint depth, GError **error);

static gboolean put_directory(StasisAgentCopy *copy, int fd, const struct stat *st, const char *to,
                              guint depth, GError **error)
{
    Piece piece = { "directory", to, st->st_mode & 0777, 0, NULL, 0 };
    if (depth > STASIS_AGENT_COPY_DEPTH) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "more than %u directories in each other", STASIS_AGENT_COPY_DEPTH);
        return FALSE;
    }
    if (!put(copy, &piece, error))
        return FALSE;
    copy->copied.n_directories++;
    stasis_autofd int list_fd = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = list_fd >= 0 ? fdopendir(list_fd) : NULL;
    if (dir == NULL)
        return skip_gone(copy, depth) || stasis_set_errno(error, errno, "read directory");
    stasis_steal_fd(&list_fd);
    gboolean ok = TRUE;
    for (struct dirent *entry; ok;) {
        entry = stasis_next_entry(dir);
        if (entry == NULL) {
            ok = errno == 0 || stasis_set_errno(error, errno, "read directory");
            break;
        }
        g_autofree char *path = g_build_filename(to, entry->d_name, NULL);
        ok = put_at(copy, fd, entry->d_name, AT_SYMLINK_NOFOLLOW, path, depth + 1, error);
    }
    closedir(dir);
    return ok;
}

static gboolean is_copied(const struct stat *st)
{
    return S_ISREG(st->st_mode) || S_ISDIR(st->st_mode);
}

static gboolean leave_out(StasisAgentCopy *copy)
{
    copy->copied.n_left_out++;
    return TRUE;
}

/* @follow 0, or AT_SYMLINK_NOFOLLOW. */
static gboolean put_what(StasisAgentCopy *copy, int dir_fd, const char *name, int follow,
                         const char *to, guint depth, GError **error)
{
    struct stat st;
    if (fstatat(dir_fd, name, &st, follow) < 0)
        return skip_gone(copy, depth) || stasis_set_errno(error, errno, "look at it");
    if (S_ISLNK(st.st_mode))
        return put_link(copy, dir_fd, name, to, depth, error);
    if (!is_copied(&st))
        return leave_out(copy);
    stasis_autofd int fd =
        openat(dir_fd, name, O_RDONLY | O_NONBLOCK | O_CLOEXEC | (follow != 0 ? O_NOFOLLOW : 0));
    if (fd < 0 || fstat(fd, &st) < 0)
        return skip_gone(copy, depth) || stasis_set_errno(error, errno, "open");
    if (!is_copied(&st))
        return leave_out(copy);
    return S_ISDIR(st.st_mode) ? put_directory(copy, fd, &st, to, depth, error)
                               : put_file(copy, fd, &st, to, error);
}

static gboolean put_at(StasisAgentCopy *copy, int dir_fd, const char *name, int follow,
                       const char *to, guint depth, GError **error)
{
    if (put_what(copy, dir_fd, name, follow, to, depth, error))
        return TRUE;
    /* Of a path the deepest piece says enough. */
    if (depth > 0 && !g_str_has_prefix((*error)->message, "…/"))
        g_prefix_error(error, "…/%s: ", name);
    return FALSE;
}

gboolean stasis_agent_copy_in(StasisAgentCopy *copy, const char *path, const char *dir,
                              GError **error)
{
    g_autofree char *whole = g_canonicalize_filename(path, NULL);
    g_autofree char *name = g_path_get_basename(whole);
    g_autofree char *to = g_build_filename(dir, name, NULL);
    if (dir[0] != '/' || strcmp(name, "/") == 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "%s to %s: a file or a directory into an absolute directory of the guest is "
                    "meant",
                    path, dir);
        return FALSE;
    }
    Piece parent = { "directory", dir, 0755, 0, NULL, 0 };
    g_autoptr(GError) why = NULL;
    if (put(copy, &parent, &why) && put_at(copy, AT_FDCWD, whole, 0, to, 0, &why))
        return TRUE;
    g_propagate_prefixed_error(error, g_steal_pointer(&why), "copy %s: ", path);
    return FALSE;
}

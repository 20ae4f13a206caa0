/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Out of a guest. It is untrusted: it may list what is not there, for ever, and change its mind. So
 * all is made by descriptors of directories that were made before, no link is followed, what is
 * read has a limit, and so have the directories in each other and their entries.
 */
#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/entry.h"
#include "agent/file-read.h"
#include "base/fd.h"
#include "base/io.h"
#include "engine/guest/agent-copy.h"

#define PIECE (4u << 20)
#define DEFAULT_MAX_BYTES (G_GUINT64_CONSTANT(1) << 30)
#define MAX_ENTRIES 1000000u
/* Of a directory's list, as it comes: names, targets of links, numbers. */
#define MAX_LIST_BYTES (64u << 20)
/* Of all lists that are held. */
#define MAX_HELD_BYTES (24u << 20)

/* The agent refused: is what was listed not there any more, or something else by now? As in a guest
 * that is at work. Always FALSE, for whom it failed. */
static gboolean note_gone(StasisAgentCopy *copy)
{
    static const int errors[] = { ENOENT, ENOTDIR, EISDIR, ENXIO, ELOOP, ESTALE };
    for (guint i = 0; i < G_N_ELEMENTS(errors); i++)
        copy->gone |= stasis_agent_get_errno(copy->agent) == errors[i];
    return FALSE;
}

/* ---- a file ---- */

typedef struct {
    StasisAgentCopy *copy;
    int fd;
    guint64 offset;
} Sink;

static gboolean write_bytes(const guint8 *bytes, guint32 n, gpointer user_data, GError **error)
{
    Sink *sink = user_data;
    int r = stasis_pwrite_all(sink->fd, bytes, n, (off_t)sink->offset);
    if (r < 0)
        return stasis_set_errno(error, -r, "write");
    sink->offset += n;
    return stasis_agent_copy_count(sink->copy, n, error);
}

static gboolean has_room(const StasisAgentCopy *copy, GError **error)
{
    guint64 most = copy->options->max_bytes != 0 ? copy->options->max_bytes : DEFAULT_MAX_BYTES;
    if (copy->copied.size_bytes <= most)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "more than %" G_GUINT64_FORMAT " bytes, which is the limit", most);
    return FALSE;
}

static gboolean take_content(StasisAgentCopy *copy, const char *path, int fd, GError **error)
{
    Sink sink = { copy, fd, 0 };
    guint32 n;
    do {
        StasisAgentWait wait = stasis_agent_copy_wait(copy);
        if (!stasis_agent_file_read(copy->agent, path, sink.offset, PIECE, write_bytes, &sink, &n,
                                    &wait, error))
            return note_gone(copy);
        if (!has_room(copy, error))
            return FALSE;
    } while (n == PIECE);
    return TRUE;
}

/* Without a name, where the file system has such files: the draft of one who is killed is gone with
 * him. Elsewhere it is called @name. */
static int open_draft(int dir_fd, const char *name, gboolean *ret_named)
{
    int fd = openat(dir_fd, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
    *ret_named = fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT);
    return *ret_named
               ? openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600)
               : fd;
}

/* A link replaces nothing, a rename does: so the draft has a name for as long as that takes. */
static gboolean name_draft(int fd, int dir_fd, const char *draft, gboolean named, const char *name)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    return (named || linkat(AT_FDCWD, path, dir_fd, draft, AT_SYMLINK_FOLLOW) == 0) &&
           renameat(dir_fd, draft, dir_fd, name) == 0;
}

/* What was there stays till it is whole. */
static gboolean take_file(StasisAgentCopy *copy, const char *path, int dir_fd, const char *name,
                          guint mode, GError **error)
{
    struct stat st;
    gboolean named;
    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISREG(st.st_mode))
        return stasis_set_errno(error, EEXIST, "in its place is no file");
    g_autofree char *draft = g_strdup_printf(".stasis-%08x", g_random_int());
    stasis_autofd int fd = open_draft(dir_fd, draft, &named);
    if (fd < 0)
        return stasis_set_errno(error, errno, "make it");
    gboolean ok = take_content(copy, path, fd, error) &&
                  ((fchmod(fd, mode) == 0 && name_draft(fd, dir_fd, draft, named, name)) ||
                   stasis_set_errno(error, errno, "make it"));
    if (!ok)
        unlinkat(dir_fd, draft, 0);
    copy->copied.n_files += ok;
    return ok;
}

/* ---- directories ---- */

typedef struct {
    StasisAgentCopy *copy;
    GPtrArray *entries;
} Listing;

/* Those of directories in each other are held together. */
static gboolean hold(StasisAgentCopy *copy, const StasisAgentEntry *entry, GError **error)
{
    copy->listed_bytes +=
        sizeof *entry + strlen(entry->name) + (entry->target != NULL ? strlen(entry->target) : 0);
    if (copy->listed_bytes <= MAX_HELD_BYTES)
        return TRUE;
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                        "agent: directories of too many files");
    return FALSE;
}

static gboolean take_entry(const guint8 *fields, guint32 length, gpointer user_data, GError **error)
{
    const Listing *listing = user_data;
    GPtrArray *entries = listing->entries;
    StasisField field;
    for (guint32 at = 0; stasis_field_next(fields, length, &at, &field);) {
        if (field.tag != STASIS_AGENT_TAG_ENTRY)
            continue;
        StasisAgentEntry *entry = NULL;
        if (entries->len < STASIS_AGENT_MAX_ENTRIES)
            entry = stasis_agent_entry_read(field.value, field.length, /* named= */ TRUE, error);
        else
            g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                                "agent: a directory of too many files");
        if (entry == NULL)
            return FALSE;
        g_ptr_array_add(entries, entry);
        if (!hold(listing->copy, entry, error))
            return FALSE;
    }
    return TRUE;
}

static gint by_name(gconstpointer a, gconstpointer b)
{
    const StasisAgentEntry *x = *(const StasisAgentEntry *const *)a;
    const StasisAgentEntry *y = *(const StasisAgentEntry *const *)b;
    return strcmp(x->name, y->name);
}

/* What is at @path, and in *ret_entries what is in it. */
static StasisAgentEntry *list(StasisAgentCopy *copy, const char *path, GPtrArray **ret_entries,
                              GError **error)
{
    guint8 room[8192];
    guint64 id;
    gsize length;
    StasisFieldWriter fields = { .payload = room, .room = sizeof room };
    StasisAgentWait wait = stasis_agent_copy_wait(copy);
    g_autoptr(GPtrArray) entries =
        g_ptr_array_new_with_free_func((GDestroyNotify)stasis_agent_entry_free);
    Listing listing = { copy, entries };
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_PATH, path);
    if (!stasis_agent_begin(copy->agent, STASIS_AGENT_OP_FILE_LIST, &fields, &id, &wait, error))
        return NULL;
    g_autoptr(GBytes) last =
        stasis_agent_finish(copy->agent, id, take_entry, &listing, MAX_LIST_BYTES, &wait, error);
    if (last == NULL) {
        note_gone(copy);
        return NULL;
    }
    const guint8 *bytes = g_bytes_get_data(last, &length);
    if (!take_entry(bytes, (guint32)length, &listing, error))
        return NULL;
    g_ptr_array_sort(entries, by_name);
    *ret_entries = g_steal_pointer(&entries);
    return stasis_agent_entry_read(bytes, (guint32)length, /* named= */ FALSE, error);
}

static gboolean take_link(StasisAgentCopy *copy, int dir_fd, const StasisAgentEntry *entry,
                          GError **error)
{
    struct stat st;
    if (entry->target == NULL) {
        copy->copied.n_left_out++;
        return TRUE;
    }
    if (fstatat(dir_fd, entry->name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode))
        unlinkat(dir_fd, entry->name, 0);
    if (symlinkat(entry->target, dir_fd, entry->name) < 0)
        return stasis_set_errno(error, errno, "make a link");
    copy->copied.n_links++;
    return TRUE;
}

static gboolean take_directory(StasisAgentCopy *copy, const char *path, int dir_fd,
                               const char *name, guint mode, const GPtrArray *entries, guint depth,
                               GError **error);

static gboolean is_bounded(const StasisAgentCopy *copy, guint depth, GError **error)
{
    const StasisAgentCopied *c = &copy->copied;
    if (c->n_files + c->n_directories + c->n_links + c->n_left_out + c->n_vanished <= MAX_ENTRIES &&
        depth <= STASIS_AGENT_COPY_DEPTH)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "more than %u files, or %u directories in each other", MAX_ENTRIES,
                STASIS_AGENT_COPY_DEPTH);
    return FALSE;
}

static gboolean take_what(StasisAgentCopy *copy, const char *path, int dir_fd,
                          const StasisAgentEntry *entry, guint depth, GError **error)
{
    g_autoptr(GPtrArray) entries = NULL;
    if (entry->kind == 'f')
        return take_file(copy, path, dir_fd, entry->name, entry->mode, error);
    if (entry->kind == 'l')
        return take_link(copy, dir_fd, entry, error);
    if (entry->kind != 'd') {
        copy->copied.n_left_out++;
        return TRUE;
    }
    guint64 held = copy->listed_bytes;
    g_autoptr(StasisAgentEntry) self = list(copy, path, &entries, error);
    copy->gone |= self != NULL && self->kind != 'd';
    gboolean ok =
        self != NULL && self->kind == 'd' &&
        take_directory(copy, path, dir_fd, entry->name, entry->mode, entries, depth, error);
    copy->listed_bytes = held;
    return ok;
}

/* What vanishes is told, like tar does, and ends nothing. */
static gboolean take(StasisAgentCopy *copy, const char *path, int dir_fd,
                     const StasisAgentEntry *entry, guint depth, GError **error)
{
    g_autoptr(GError) why = NULL;
    if (!is_bounded(copy, depth, error))
        return FALSE;
    copy->gone = FALSE;
    if (take_what(copy, path, dir_fd, entry, depth, &why))
        return TRUE;
    if (copy->gone) {
        copy->gone = FALSE;
        copy->copied.n_vanished++;
        return has_room(copy, error); /* what was read of it counts */
    }
    g_propagate_error(error, g_steal_pointer(&why));
    return FALSE;
}

static gboolean take_directory(StasisAgentCopy *copy, const char *path, int dir_fd,
                               const char *name, guint mode, const GPtrArray *entries, guint depth,
                               GError **error)
{
    if (mkdirat(dir_fd, name, 0700) < 0 && errno != EEXIST)
        return stasis_set_errno(error, errno, "make it");
    stasis_autofd int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return stasis_set_errno(error, errno, "make it");
    copy->copied.n_directories++;
    fchmod(fd, mode | 0700); /* one that was there may be one that nothing can be put into */
    for (guint i = 0; i < entries->len; i++) {
        const StasisAgentEntry *entry = g_ptr_array_index(entries, i);
        g_autofree char *inner = g_build_filename(path, entry->name, NULL);
        if (!take(copy, inner, fd, entry, depth + 1, error)) {
            if (!g_str_has_prefix((*error)->message, "…/"))
                g_prefix_error(error, "…/%s: ", entry->name);
            return FALSE;
        }
    }
    return fchmod(fd, mode) == 0 || stasis_set_errno(error, errno, "set its mode");
}

/* The top is what it is for the guest: a link is followed there. */
static gboolean take_top(StasisAgentCopy *copy, const char *path, int dir_fd, const char *name,
                         GError **error)
{
    g_autoptr(GPtrArray) entries = NULL;
    g_autoptr(StasisAgentEntry) self = list(copy, path, &entries, error);
    if (self == NULL)
        return FALSE;
    if (self->kind == 'd')
        return take_directory(copy, path, dir_fd, name, self->mode, entries, 0, error);
    if (self->kind == 'f')
        return take_file(copy, path, dir_fd, name, self->mode, error);
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED, "it is no file and no directory");
    return FALSE;
}

gboolean stasis_agent_copy_out(StasisAgentCopy *copy, const char *path, const char *dir,
                               GError **error)
{
    g_autofree char *whole = path[0] == '/' ? g_canonicalize_filename(path, "/") : NULL;
    g_autofree char *name = whole != NULL ? g_path_get_basename(whole) : NULL;
    if (name == NULL || strcmp(name, "/") == 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "%s: an absolute path of the guest is meant, and not all of it", path);
        return FALSE;
    }
    stasis_autofd int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return stasis_set_errno(error, errno, "%s", dir);
    g_autoptr(GError) why = NULL;
    if (take_top(copy, whole, dir_fd, name, &why))
        return TRUE;
    g_propagate_prefixed_error(error, g_steal_pointer(&why), "copy %s: ", path);
    return FALSE;
}

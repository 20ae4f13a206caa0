/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A directory for stock CRIU out of an image of processes: its files alone, each checked. Where the
 * processes had POSIX message queues, which no tool of a system can make with their messages, a
 * small program that does lies beside them. The command by which it is restored is told.
 */
#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <stasis/process-image.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/halves.h"
#include "agent/mqueue.h"
#include "base/fd.h"
#include "base/io.h"
#include "base/tree.h"
#include "store/proc-image.h"
#include "vmm/libexec.h"

#define HELPER "stasis-mqueue"
#define FIRST_HALF 3u
#define MAX_HALVES 7u

typedef struct {
    char *aside; /* NULL once it has its name */
    int dir_fd, fd;
    StasisProcImageReader *reader;
    StasisProgress progress;
    StasisProgressFunc func;
    gpointer data;
    GCancellable *cancellable;
} Export;

static void export_clear(Export *e)
{
    stasis_clear_fd(&e->fd);
    stasis_clear_fd(&e->dir_fd);
    if (e->aside != NULL)
        stasis_remove_tree(e->aside);
    g_clear_pointer(&e->aside, g_free);
    g_clear_pointer(&e->reader, stasis_proc_image_reader_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Export, export_clear)

static gboolean write_piece(const StasisProcImageFile *file, guint64 offset, const guint8 *bytes,
                            gsize n, gpointer user_data, GError **error)
{
    Export *e = user_data;
    if (g_cancellable_set_error_if_cancelled(e->cancellable, error))
        return FALSE;
    int r = stasis_pwrite_all(e->fd, bytes, n, (off_t)offset);
    if (r < 0)
        return stasis_set_errno(error, -r, "write %s/%s", e->aside, file->name);
    e->progress.done_bytes += n;
    if (e->func != NULL)
        e->func(&e->progress, e->data);
    return TRUE;
}

static gboolean begin_file(Export *e, const char *name, int mode, GError **error)
{
    e->fd = openat(e->dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    return e->fd >= 0 || stasis_set_errno(error, errno, "create %s/%s", e->aside, name);
}

static gboolean end_file(Export *e, const char *name, GError **error)
{
    gboolean synced = fdatasync(e->fd) == 0;
    int saved = errno;
    stasis_clear_fd(&e->fd);
    return synced || stasis_set_errno(error, saved, "sync %s/%s", e->aside, name);
}

static gboolean export_file(Export *e, guint i, GError **error)
{
    const StasisProcImageFile *file = g_ptr_array_index(e->reader->files, i);
    return !stasis_proc_image_file_is_criu(file) ||
           (begin_file(e, file->name, 0600, error) &&
            stasis_proc_image_reader_read(e->reader, i, write_piece, e, error) &&
            end_file(e, file->name, error));
}

/* The program that makes message queues. */
static gboolean export_helper(Export *e, GError **error)
{
    g_autofree char *path = stasis_libexec_find("guest/" HELPER, "STASIS_GUEST_MQUEUE"),
                    *bytes = NULL;
    gsize n;
    if (path == NULL)
        path = stasis_libexec_find(HELPER, "STASIS_GUEST_MQUEUE");
    if (path == NULL) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                            HELPER " is not where the library is: install stasis as a whole");
        return FALSE;
    }
    if (!g_file_get_contents(path, &bytes, &n, error) || !begin_file(e, HELPER, 0700, error))
        return FALSE;
    int r = stasis_pwrite_all(e->fd, bytes, n, 0);
    if (r < 0)
        return stasis_set_errno(error, -r, "write %s/" HELPER, e->aside);
    return end_file(e, HELPER, error);
}

static gboolean make_aside(Export *e, const char *path, GError **error)
{
    e->aside = g_strconcat(path, ".XXXXXX", NULL);
    if (g_mkdtemp(e->aside) == NULL) {
        int saved = errno;
        stasis_set_errno(error, saved, "make %s", e->aside);
        g_clear_pointer(&e->aside, g_free);
        return FALSE;
    }
    e->dir_fd = open(e->aside, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return e->dir_fd >= 0 || stasis_set_errno(error, errno, "open %s", e->aside);
}

static gboolean give_name(Export *e, const char *path, GError **error)
{
    g_autofree char *parent = g_path_get_dirname(path);
    stasis_autofd int parent_fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (parent_fd < 0 || fsync(e->dir_fd) < 0)
        return stasis_set_errno(error, errno, "sync %s", e->aside);
    if (stasis_rename_new(AT_FDCWD, e->aside, AT_FDCWD, path) < 0)
        return stasis_set_errno(error, errno, "rename %s to %s", e->aside, path);
    g_clear_pointer(&e->aside, g_free);
    return fsync(parent_fd) == 0 || stasis_set_errno(error, errno, "sync %s", parent);
}

static gboolean has_file(const StasisProcImageReader *reader, const char *name)
{
    for (guint i = 0; i < reader->files->len; i++)
        if (strcmp(((StasisProcImageFile *)g_ptr_array_index(reader->files, i))->name, name) == 0)
            return TRUE;
    return FALSE;
}

/* What CRIU gets in the place of connections with one end in the image, as words for the command,
 * and the shell's words behind it that open them. A descriptor for each, since CRIU closes it; of
 * those a shell by POSIX can open by one digit. What is written there is lost, as where
 * proc-restore finds no log to connect to. FALSE when that can't be said. */
static gboolean describe_halves(const Export *e, GString *words, GString *redirections,
                                GError **error)
{
    g_autofree char *path = g_build_filename(e->aside, STASIS_HALVES_FILE, NULL), *text = NULL;
    if (!has_file(e->reader, STASIS_HALVES_FILE))
        return TRUE;
    if (!g_file_get_contents(path, &text, NULL, error))
        return FALSE;
    g_auto(GStrv) lines = g_strsplit(g_strchomp(text), "\n", MAX_HALVES + 1);
    for (guint i = 0; lines[i] != NULL; i++) {
        StasisHalfLine half;
        if (i == MAX_HALVES || !stasis_half_parse(lines[i], &half)) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                        "image %s: %s is damaged, or more than %u UNIX connections were cut, which "
                        "a shell can't hand to CRIU; take it to a guest with proc-restore",
                        e->reader->info->id, STASIS_HALVES_FILE, MAX_HALVES);
            return FALSE;
        }
        g_string_append_printf(words, " --inherit-fd 'fd[%u]:socket:[%" G_GUINT64_FORMAT "]'",
                               FIRST_HALF + i, half.ino);
        g_string_append_printf(redirections, " %u<>/dev/null", FIRST_HALF + i);
    }
    return TRUE;
}

/* Run where DIR is its directory. */
static char *make_command(const Export *e, GError **error)
{
    const StasisProcImageReader *reader = e->reader;
    g_autoptr(GString) words = g_string_new(NULL), redirections = g_string_new(NULL);
    if (!describe_halves(e, words, redirections, error))
        return NULL;
    return g_strdup_printf(
        "%s%scriu restore --images-dir DIR --restore-detached --manage-cgroups=ignore "
        "--file-locks --link-remap --ext-unix-sk --tcp-established%s%s%s",
        has_file(reader, STASIS_PROC_IMAGE_TMPFS) ? "tar -C / -xpf DIR/" STASIS_PROC_IMAGE_TMPFS
                                                    " && "
                                                  : "",
        has_file(reader, STASIS_MQUEUE_FILE) ? "DIR/" HELPER " DIR " : "",
        reader->info->shell_job ? " --shell-job" : "", words->str, redirections->str);
}

gboolean stasis_process_export(StasisStore *store, const char *id, const char *asked_path,
                               char **ret_command, StasisProgressFunc progress, gpointer user_data,
                               GCancellable *cancellable, GError **error)
{
    g_auto(Export) e = { .dir_fd = -1,
                         .fd = -1,
                         .func = progress,
                         .data = user_data,
                         .cancellable = cancellable,
                         .reader = stasis_proc_image_reader_open(store, id, error) };
    /* Without the slash that may be at the end of a directory's: others go before it. */
    g_autofree char *path = g_canonicalize_filename(asked_path, NULL);
    if (e.reader == NULL)
        return FALSE;
    e.progress = (StasisProgress){ "export", 0, e.reader->info->size_bytes };
    if (faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return stasis_set_errno(error, EEXIST, "%s", path);
    if (!make_aside(&e, path, error))
        return FALSE;
    for (guint i = 0; i < e.reader->files->len; i++)
        if (!export_file(&e, i, error))
            return FALSE;
    if (has_file(e.reader, STASIS_MQUEUE_FILE) && !export_helper(&e, error))
        return FALSE;
    g_autofree char *command = make_command(&e, error);
    if (command == NULL || !give_name(&e, path, error))
        return FALSE;
    if (ret_command != NULL)
        *ret_command = g_steal_pointer(&command);
    return TRUE;
}

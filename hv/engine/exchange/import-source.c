/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where an import reads from. The head of a `virsh save` file is read byte by byte as far as it
 * goes and no further, since what follows may be compressed: then it is for the stock program of
 * that compression, as it is for libvirt.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/io.h"
#include "engine/exchange/import-internal.h"

#define MAGIC_BYTES 16u
#define SAID_BYTES 200u

struct _StasisImportSource {
    int fd;       /* of the file */
    int own_fd;   /* the same if we opened it, else -1 */
    int plain_fd; /* where the stream is read: fd, or the pipe from the program */
    int pipe_fd;  /* that pipe, or -1 */
    GSubprocess *program;
    StasisSaveHead *head;
    guint8 *ahead; /* what was read of the stream to tell what it is */
    gsize ahead_pos, ahead_len;
    guint64 size_bytes, done_bytes;
    GCancellable *cancellable;
};

void stasis_import_source_free(StasisImportSource *source)
{
    if (source == NULL)
        return;
    if (source->program != NULL)
        g_subprocess_force_exit(source->program);
    g_clear_object(&source->program);
    stasis_close_fdp(&source->own_fd);
    stasis_close_fdp(&source->pipe_fd);
    stasis_save_head_free(source->head);
    g_free(source->ahead);
    g_clear_object(&source->cancellable);
    g_free(source);
}

const StasisSaveHead *stasis_import_source_get_head(StasisImportSource *source)
{
    return source->head;
}

guint64 stasis_import_source_get_size(StasisImportSource *source)
{
    return source->size_bytes;
}

guint64 stasis_import_source_get_done(StasisImportSource *source)
{
    off_t at = source->size_bytes != 0 ? lseek(source->fd, 0, SEEK_CUR) : -1;
    return at > 0 ? MIN((guint64)at, source->size_bytes) : source->done_bytes;
}

/* Wait for something to read, but not when it was called off. */
static gboolean wait_for_data(StasisImportSource *source, int fd, GError **error)
{
    GPollFD cancelled;
    gboolean can_wake = g_cancellable_make_pollfd(source->cancellable, &cancelled);
    struct pollfd fds[] = { { .fd = fd, .events = POLLIN },
                            { .fd = can_wake ? cancelled.fd : -1, .events = POLLIN } };
    int r;
    do
        r = poll(fds, G_N_ELEMENTS(fds), -1);
    while (r < 0 && errno == EINTR);
    if (can_wake)
        g_cancellable_release_fd(source->cancellable);
    if (g_cancellable_set_error_if_cancelled(source->cancellable, error))
        return FALSE;
    return r >= 0 || stasis_set_errno(error, errno, "cannot read it");
}

static gssize read_some(StasisImportSource *source, int fd, void *buf, gsize len, GError **error)
{
    ssize_t n;
    do {
        if (!wait_for_data(source, fd, error))
            return -1;
        n = read(fd, buf, len);
    } while (n < 0 && (errno == EINTR || errno == EAGAIN));
    if (n < 0)
        stasis_set_errno(error, errno, "cannot read it");
    else
        source->done_bytes += (guint64)n;
    return n;
}

/* Up to @len bytes of the file itself, fewer only at its end. -1 on error. */
static gssize read_head_bytes(StasisImportSource *source, guint8 *buf, gsize len, GError **error)
{
    gsize done = 0;
    while (done < len) {
        gssize n = read_some(source, source->fd, buf + done, len - done, error);
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        done += (gsize)n;
    }
    return (gssize)done;
}

/* The program that is to make the stream plain, reading where the file stands now. */
static gboolean start_program(StasisImportSource *source, GError **error)
{
    const char *name = stasis_save_program(source->head->compression);
    if (name == NULL)
        return TRUE;
    g_autoptr(GError) local = NULL;
    g_autoptr(GSubprocessLauncher) launcher =
        g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_STDERR_PIPE);
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return stasis_set_errno(error, errno, "pipe from %s", name);
    source->pipe_fd = source->plain_fd = ends[0];
    g_subprocess_launcher_take_stdout_fd(launcher, ends[1]);
    g_subprocess_launcher_take_stdin_fd(launcher, fcntl(source->fd, F_DUPFD_CLOEXEC, 3));
    source->program = g_subprocess_launcher_spawn(launcher, &local, name, "-dc", NULL);
    if (source->program != NULL)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "it is compressed with %s, which can't be run: %s", name, local->message);
    return FALSE;
}

/* At the end of what it gave: did it like what it was given? */
static gboolean check_program(StasisImportSource *source, GError **error)
{
    if (source->program == NULL)
        return TRUE;
    g_autoptr(GBytes) said = NULL;
    GInputStream *pipe = g_subprocess_get_stderr_pipe(source->program);
    said = g_input_stream_read_bytes(pipe, SAID_BYTES, source->cancellable, NULL);
    if (!g_subprocess_wait(source->program, source->cancellable, error))
        return FALSE;
    if (g_subprocess_get_successful(source->program))
        return TRUE;
    gsize len = 0;
    const char *text = said != NULL ? g_bytes_get_data(said, &len) : NULL;
    g_autofree char *words = g_strndup(text != NULL ? text : "", len);
    g_strdelimit(g_strstrip(words), "\r\n", ' ');
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "%s could not unpack it: %s",
                stasis_save_program(source->head->compression), words);
    return FALSE;
}

/* The rest of the head, whose first @n bytes are in ->ahead. */
static gboolean read_head(StasisImportSource *source, gsize n, GError **error)
{
    g_autofree guint8 *bytes = g_malloc0(STASIS_SAVE_HEADER_BYTES);
    memcpy(bytes, source->ahead, n);
    gsize more;
    gssize got = read_head_bytes(source, bytes + n, STASIS_SAVE_HEADER_BYTES - n, error);
    if (got < 0 || !stasis_save_get_data_size(bytes, &more, error))
        return FALSE;
    gsize len = STASIS_SAVE_HEADER_BYTES + more;
    bytes = g_realloc(bytes, len);
    got = read_head_bytes(source, bytes + STASIS_SAVE_HEADER_BYTES, more, error);
    if (got < 0)
        return FALSE;
    source->head = stasis_save_head_parse(bytes, STASIS_SAVE_HEADER_BYTES + (gsize)got, error);
    source->ahead_pos = source->ahead_len = 0;
    return source->head != NULL && start_program(source, error);
}

static gboolean open_file(StasisImportSource *source, const StasisImportOptions *options,
                          GError **error)
{
    struct stat st;
    if (options->path != NULL)
        source->own_fd = open(options->path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    source->fd = options->path != NULL ? source->own_fd : options->fd;
    if (source->fd < 0 || fstat(source->fd, &st) < 0)
        return stasis_set_errno(error, errno, "cannot open it");
    if (S_ISDIR(st.st_mode))
        return stasis_set_errno(error, EISDIR, "cannot read it");
    source->size_bytes = S_ISREG(st.st_mode) ? (guint64)st.st_size : 0;
    source->plain_fd = source->fd;
    return TRUE;
}

StasisImportSource *stasis_import_source_open(const StasisImportOptions *options,
                                              GCancellable *cancellable, GError **error)
{
    g_autoptr(StasisImportSource) source = g_new0(StasisImportSource, 1);
    source->fd = source->own_fd = source->plain_fd = source->pipe_fd = -1;
    source->cancellable = cancellable != NULL ? g_object_ref(cancellable) : NULL;
    if (!open_file(source, options, error))
        return NULL;
    source->ahead = g_malloc0(MAGIC_BYTES);
    gssize n = read_head_bytes(source, source->ahead, MAGIC_BYTES, error);
    if (n < 0)
        return NULL;
    source->ahead_len = (gsize)n;
    if (source->ahead_len == MAGIC_BYTES && stasis_save_is(source->ahead) &&
        !read_head(source, source->ahead_len, error))
        return NULL;
    return g_steal_pointer(&source);
}

gssize stasis_import_source_read(StasisImportSource *source, void *buf, gsize len, GError **error)
{
    if (source->ahead_pos < source->ahead_len) {
        gsize ahead = MIN(len, source->ahead_len - source->ahead_pos);
        memcpy(buf, source->ahead + source->ahead_pos, ahead);
        source->ahead_pos += ahead;
        return (gssize)ahead;
    }
    gssize n = read_some(source, source->plain_fd, buf, len, error);
    return n == 0 && !check_program(source, error) ? -1 : n;
}

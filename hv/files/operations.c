/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What can be asked of the file systems once they are mounted. The table is at the end. */
#include <errno.h>
#include <fcntl.h>
#include <json-glib/json-glib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"

/* The last error, as a status: what is not there is the caller's mistake. */
static FilesStatus fail_on(guestfs_h *g, const char *path)
{
    gboolean missing = guestfs_last_errno(g) == ENOENT || guestfs_last_errno(g) == ENOTDIR;
    return files_fail(g, missing ? FILES_NOT_FOUND : FILES_FAILED, path);
}

/* ---- list ---- */

static const char *type_name(gint64 mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
        return "file";
    case S_IFDIR:
        return "directory";
    case S_IFLNK:
        return "symlink";
    case S_IFBLK:
        return "block";
    case S_IFCHR:
        return "char";
    case S_IFIFO:
        return "fifo";
    default:
        return "socket";
    }
}

static void set_text(JsonObject *object, const char *name, const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);
    json_object_set_string_member(object, name, valid);
}

static void add_entry(guestfs_h *g, JsonArray *array, const char *path, const char *name,
                      const struct guestfs_statns *st)
{
    JsonObject *entry = json_object_new();
    set_text(entry, "name", name);
    json_object_set_string_member(entry, "type", type_name(st->st_mode));
    json_object_set_int_member(entry, "mode", st->st_mode & 07777);
    json_object_set_int_member(entry, "uid", st->st_uid);
    json_object_set_int_member(entry, "gid", st->st_gid);
    json_object_set_int_member(entry, "size_bytes", st->st_size);
    json_object_set_int_member(entry, "modified_us",
                               st->st_mtime_sec * G_USEC_PER_SEC + st->st_mtime_nsec / 1000);
    char *target = S_ISLNK(st->st_mode) ? guestfs_readlink(g, path) : NULL;
    if (target != NULL)
        set_text(entry, "target", target);
    free(target);
    json_array_add_object_element(array, entry);
}

/* Those in directory @path, in the order that libguestfs sorts them in. */
static FilesStatus add_directory(guestfs_h *g, JsonArray *array, const char *path)
{
    char **names = guestfs_ls(g, path);
    struct guestfs_statns_list *list = names != NULL ? guestfs_lstatnslist(g, path, names) : NULL;
    FilesStatus status = list != NULL ? FILES_OK : fail_on(g, path);
    for (guint i = 0; names != NULL && names[i] != NULL; i++) {
        g_autofree char *child = g_build_filename(path, names[i], NULL);
        /* st_ino is -1 for what went away, which can't be here. */
        if (list != NULL && i < list->len && list->val[i].st_ino != -1)
            add_entry(g, array, child, names[i], &list->val[i]);
        free(names[i]);
    }
    free(names);
    if (list != NULL)
        guestfs_free_statns_list(list);
    return status;
}

static FilesStatus list(guestfs_h *g, const FilesOptions *options, char **arguments)
{
    const char *path = arguments[0];
    g_autoptr(JsonArray) array = json_array_new();
    FilesStatus status = FILES_OK;
    if (guestfs_is_dir_opts(g, path, GUESTFS_IS_DIR_OPTS_FOLLOWSYMLINKS, 1, -1) > 0) {
        status = add_directory(g, array, path);
    } else {
        struct guestfs_statns *st = guestfs_lstatns(g, path);
        if (st == NULL)
            return fail_on(g, path);
        add_entry(g, array, path, path, st);
        guestfs_free_statns(st);
    }
    if (status != FILES_OK)
        return status;
    g_autoptr(JsonNode) node = json_node_init_array(json_node_alloc(), array);
    g_autofree char *text = json_to_string(node, FALSE);
    return puts(text) >= 0 && fflush(stdout) == 0 ? FILES_OK : FILES_FAILED;
}

/* ---- the content of files ---- */

/* From a pipe to stdout: libguestfs would open that anew, and cut a file off that it is. */
static gpointer pump(gpointer data)
{
    int fd = GPOINTER_TO_INT(data);
    static char buffer[65536];
    gboolean ok = TRUE;
    ssize_t n;
    while ((n = read(fd, buffer, sizeof buffer)) != 0) {
        if (n < 0 && errno != EINTR)
            return GINT_TO_POINTER(FALSE);
        for (ssize_t done = 0, part; ok && done < n; done += part) {
            part = write(STDOUT_FILENO, buffer + done, (size_t)(n - done));
            if (part < 0 && errno == EINTR)
                part = 0;
            ok = part >= 0;
        }
    }
    return GINT_TO_POINTER(ok);
}

static FilesStatus print_file(guestfs_h *g, const char *path)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return FILES_FAILED;
    g_autofree char *to = g_strdup_printf("/proc/self/fd/%d", ends[1]);
    GThread *thread = g_thread_new("pump", pump, GINT_TO_POINTER(ends[0]));
    int r = guestfs_download(g, path, to);
    FilesStatus status = r == 0 ? FILES_OK : fail_on(g, path);
    close(ends[1]);
    gboolean written = GPOINTER_TO_INT(g_thread_join(thread));
    close(ends[0]);
    if (written || status != FILES_OK)
        return status;
    fprintf(stderr, "%s: can't be written to where it is to go\n", path);
    return FILES_FAILED;
}

static FilesStatus cat_one(guestfs_h *g, const char *path)
{
    int is_file = guestfs_is_file_opts(g, path, GUESTFS_IS_FILE_OPTS_FOLLOWSYMLINKS, 1, -1);
    if (is_file == 0 && guestfs_exists(g, path) > 0) {
        fprintf(stderr, "%s: no regular file\n", path);
        return FILES_USAGE;
    }
    return print_file(g, path);
}

/* All that can be, one after the other. */
static FilesStatus cat(guestfs_h *g, const FilesOptions *options, char **arguments)
{
    FilesStatus first = FILES_OK;
    for (guint i = 0; arguments[i] != NULL; i++) {
        FilesStatus status = cat_one(g, arguments[i]);
        if (first == FILES_OK)
            first = status;
    }
    return first;
}

static FilesStatus copy_out(guestfs_h *g, const FilesOptions *options, char **arguments)
{
    if (guestfs_exists(g, arguments[0]) == 0) {
        fprintf(stderr, "%s: no such file or directory\n", arguments[0]);
        return FILES_NOT_FOUND;
    }
    return guestfs_copy_out(g, arguments[0], arguments[1]) == 0 ? FILES_OK
                                                                : fail_on(g, arguments[0]);
}

/* ---- mount ---- */

/* Serves the directory until it is unmounted; "ready" on stdout, then nobody hears us any more. */
static FilesStatus mount(guestfs_h *g, const FilesOptions *options, char **arguments)
{
    g_autofree char *fuse = g_strdup_printf("fsname=%s:%d", options->label, (int)getpid());
    if (guestfs_mount_local(g, arguments[0], GUESTFS_MOUNT_LOCAL_READONLY, 1,
                            GUESTFS_MOUNT_LOCAL_OPTIONS, fuse, -1) < 0)
        return files_fail(g, FILES_FAILED, arguments[0]);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (puts("ready") < 0 || fflush(stdout) != 0 || null < 0) {
        guestfs_umount_local(g, -1);
        return FILES_FAILED;
    }
    dup2(null, STDOUT_FILENO);
    dup2(null, STDERR_FILENO);
    return guestfs_mount_local_run(g) == 0 ? FILES_OK : FILES_FAILED;
}

const FilesOperation files_operations[] = {
    { "list", 1, FALSE, list },
    { "cat", 1, TRUE, cat },
    { "copy-out", 2, FALSE, copy_out },
    { "mount", 1, FALSE, mount },
    { "install", 3, FALSE, files_install },
    { NULL },
};

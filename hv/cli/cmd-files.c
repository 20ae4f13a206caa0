/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files in the disks of an image. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "output.h"
#include "table.h"

#define MAX_JSON_CONTENT ((off_t)16 << 20)

static StasisFilesOptions files_options(const CliCall *call)
{
    StasisFilesOptions options = STASIS_FILES_OPTIONS_INIT;
    options.filesystem = cli_text(call, "filesystem");
    options.disk = cli_text(call, "disk-file");
    return options;
}

/* What every command on an image's files has said when it went well. */
static gboolean done(CliCall *call, const char *key, const char *value)
{
    JsonObject *object = json_object_new();
    cli_json_set_string(object, key, value);
    cli_take_object(call, object);
    return TRUE;
}

/* ---- file-ls ---- */

static JsonObject *file_to_json(const StasisFileInfo *file)
{
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "name", file->name);
    cli_json_set_string(object, "type", file->type);
    cli_json_set_uint(object, "mode", file->mode);
    cli_json_set_uint(object, "uid", file->uid);
    cli_json_set_uint(object, "gid", file->gid);
    cli_json_set_uint(object, "size_bytes", file->size_bytes);
    json_object_set_int_member(object, "modified_us", file->modified_us);
    cli_json_set_string(object, "target", file->target);
    return object;
}

static void print_long(const GPtrArray *files)
{
    g_autoptr(CliTable) table = cli_table_new("llrrrll");
    for (guint i = 0; i < files->len; i++) {
        const StasisFileInfo *file = g_ptr_array_index(files, i);
        g_autofree char *mode = g_strdup_printf("%04o", file->mode);
        g_autofree char *uid = g_strdup_printf("%u", file->uid);
        g_autofree char *gid = g_strdup_printf("%u", file->gid);
        g_autofree char *size = g_strdup_printf("%" G_GUINT64_FORMAT, file->size_bytes);
        g_autofree char *time = cli_format_time(file->modified_us);
        g_autofree char *name = file->target != NULL
                                    ? g_strdup_printf("%s -> %s", file->name, file->target)
                                    : g_strdup(file->name);
        cli_table_add(table, file->type, mode, uid, gid, size, time, name);
    }
    cli_table_print(table, 0);
}

static gboolean file_ls(CliCall *call, GError **error)
{
    StasisFilesOptions options = files_options(call);
    g_autoptr(StasisStore) store = cli_open_store(call, STASIS_STORE_EXISTING, error);
    if (store == NULL)
        return FALSE;
    const char *path = call->args[1] != NULL ? call->args[1] : "/";
    g_autoptr(GPtrArray) files =
        stasis_files_list(store, call->args[0], &options, path, call->cancellable, error);
    if (files == NULL)
        return FALSE;
    JsonArray *array = json_array_new();
    for (guint i = 0; i < files->len; i++) {
        const StasisFileInfo *file = g_ptr_array_index(files, i);
        json_array_add_object_element(array, file_to_json(file));
        g_autofree char *shown = cli_printable(file->name);
        if (!call->json && !cli_flag(call, "long"))
            puts(shown);
    }
    if (!call->json && cli_flag(call, "long"))
        print_long(files);
    cli_take_array(call, array);
    return TRUE;
}

/* ---- file-cat, file-copy-out ---- */

/* With --json the file is a string in the result, so there is an end to its size. */
static gboolean take_content(CliCall *call, int fd, GError **error)
{
    off_t size = lseek(fd, 0, SEEK_END);
    if (size < 0 || size > MAX_JSON_CONTENT) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                            "the file is too large to be shown as JSON; see file-copy-out");
        return FALSE;
    }
    g_autofree guchar *content = g_malloc((gsize)size + 1);
    if (pread(fd, content, (size_t)size, 0) != size) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                            "the file can't be read back");
        return FALSE;
    }
    g_autofree char *text = g_base64_encode(content, (gsize)size);
    JsonObject *object = json_object_new();
    JsonArray *paths = json_array_new();
    for (char **path = call->args + 1; *path != NULL; path++) {
        g_autofree char *valid = g_utf8_make_valid(*path, -1);
        json_array_add_string_element(paths, valid);
    }
    cli_json_set_string(object, "path", call->args[1]);
    json_object_set_array_member(object, "paths", paths);
    cli_json_set_string(object, "content_base64", text);
    cli_take_object(call, object);
    return TRUE;
}

static gboolean file_cat(CliCall *call, GError **error)
{
    StasisFilesOptions options = files_options(call);
    g_autoptr(StasisStore) store = cli_open_store(call, STASIS_STORE_EXISTING, error);
    if (store == NULL)
        return FALSE;
    int fd = call->json ? memfd_create("stasis-file", MFD_CLOEXEC) : STDOUT_FILENO;
    gboolean ok =
        stasis_files_read(store, call->args[0], &options, (const char *const *)call->args + 1, fd,
                          call->cancellable, error);
    /* Of several those that are there, too. */
    if (call->json && (ok || call->args[2] != NULL))
        ok = take_content(call, fd, ok ? error : NULL) && ok;
    if (call->json)
        close(fd);
    return ok;
}

static gboolean file_copy_out(CliCall *call, GError **error)
{
    StasisFilesOptions options = files_options(call);
    const char *path = call->args[1], *dest = call->args[2];
    g_autoptr(StasisStore) store = cli_open_store(call, STASIS_STORE_EXISTING, error);
    if (store == NULL || !stasis_files_copy_out(store, call->args[0], &options, path, dest,
                                                call->cancellable, error))
        return FALSE;
    g_autofree char *name = g_path_get_basename(path);
    g_autofree char *copy = g_build_filename(dest, name, NULL);
    return done(call, "copy", copy);
}

/* ---- mount, umount ---- */

static gboolean mount_files(CliCall *call, GError **error)
{
    StasisFilesOptions options = files_options(call);
    g_autoptr(StasisStore) store = cli_open_store(call, STASIS_STORE_EXISTING, error);
    return store != NULL &&
           stasis_files_mount(store, call->args[0], &options, call->args[1], call->cancellable,
                              error) &&
           done(call, "directory", call->args[1]);
}

static gboolean umount_files(CliCall *call, GError **error)
{
    return stasis_files_unmount(call->args[0], call->cancellable, error) &&
           done(call, "directory", call->args[0]);
}

#define IMAGE_ARGUMENT                                                                  \
    {                                                                                   \
        "ID", CLI_ONE, CLI_IMAGE, "image: its ID, a unique prefix of it, or \"latest\"" \
    }
#define COMMON_OPTIONS                                                                        \
    { "filesystem", 0, CLI_TEXT, "DEVICE",                                                    \
      "look at this file system alone, \"/dev/sda2\" (default: what the guest mounts)" },     \
        { "disk-file",   0, CLI_FILE, "FILE", "a raw disk to look at instead of the image's", \
          .hidden = TRUE },                                                                   \
    {                                                                                         \
        NULL                                                                                  \
    }
#define HOW                                                                                       \
    "The disks are looked at by libguestfs, in a small VM of its own that takes some seconds to " \
    "start; nothing is written to them. Paths are as the guest has them, with all that it mounts."

static const CliArgument ls_arguments[] = {
    IMAGE_ARGUMENT,
    { "PATH", CLI_OPTIONAL, CLI_TEXT, "directory or file in the guest (default: /)" },
    { NULL },
};
static const CliOption ls_options[] = {
    { "long", 'l', CLI_FLAG, NULL, "type, mode, owner, group, size and time of change too" },
    COMMON_OPTIONS,
};
static const CliExample ls_examples[] = {
    { "file-ls latest /var/log -l", "What was in the guest's /var/log at that instant" },
    { NULL },
};
const CliCommand cli_cmd_file_ls = {
    .group = "files",
    .name = "file-ls",
    .summary = "list files in an image's disks",
    .description = "List the files in a directory, as the disks were at the image's instant. " HOW,
    .arguments = ls_arguments,
    .options = ls_options,
    .examples = ls_examples,
    .handler = file_ls,
};

static const CliArgument cat_arguments[] = {
    IMAGE_ARGUMENT,
    { "PATH", CLI_SOME, CLI_TEXT, "file in the guest" },
    { NULL },
};
static const CliOption common_options[] = { COMMON_OPTIONS };
static const CliExample cat_examples[] = {
    { "file-cat latest /etc/fstab", "Print a file of the guest" },
    { NULL },
};
const CliCommand cli_cmd_file_cat = {
    .group = "files",
    .name = "file-cat",
    .summary = "print files in an image's disks",
    .description = "Print files, one after the other, as the disks were at the image's instant. "
                   "Those that can't be read are named at the end. " HOW,
    .arguments = cat_arguments,
    .options = common_options,
    .examples = cat_examples,
    .handler = file_cat,
};

static const CliArgument copy_arguments[] = {
    IMAGE_ARGUMENT,
    { "PATH", CLI_ONE, CLI_TEXT, "file or directory in the guest" },
    { "DEST", CLI_ONE, CLI_DIR, "directory of this host to put it into" },
    { NULL },
};
static const CliExample copy_examples[] = {
    { "file-copy-out latest /home/data .", "Get a directory back, with all that is in it" },
    { NULL },
};
const CliCommand cli_cmd_file_copy_out = {
    .group = "files",
    .name = "file-copy-out",
    .summary = "copy files out of an image's disks",
    .description =
        "Copy a file, or a directory with all that is in it, into a directory of this host, as the "
        "disks were at the image's instant. Owners and modes are kept where the user may do "
        "that, links as links; device nodes, sockets and pipes are left out, and set-ID bits "
        "removed. A directory that is there is added to, a file or a link replaced. " HOW,
    .arguments = copy_arguments,
    .options = common_options,
    .examples = copy_examples,
    .handler = file_copy_out,
};

static const CliArgument mount_arguments[] = {
    IMAGE_ARGUMENT,
    { "DIR", CLI_ONE, CLI_DIR, "directory of this host that they are to be seen in" },
    { NULL },
};
static const CliExample mount_examples[] = {
    { "mount latest /mnt", "Look around in the guest's files" },
    { NULL },
};
const CliCommand cli_cmd_mount = {
    .group = "files",
    .name = "mount",
    .summary = "show the files in an image's disks in a directory",
    .description = "Show the file systems, as the disks were at the image's instant, in a "
                   "directory of this host, read-only, until stasis umount. " HOW,
    .arguments = mount_arguments,
    .options = common_options,
    .examples = mount_examples,
    .handler = mount_files,
};

static const CliArgument umount_arguments[] = {
    { "DIR", CLI_ONE, CLI_DIR, "directory given to stasis mount" },
    { NULL },
};
static const CliExample umount_examples[] = {
    { "umount /mnt", "End what mount began" },
    { NULL },
};
const CliCommand cli_cmd_umount = {
    .group = "files",
    .name = "umount",
    .summary = "take back what mount shows",
    .description = "Unmount the directory and end the process that served it.",
    .arguments = umount_arguments,
    .examples = umount_examples,
    .handler = umount_files,
};

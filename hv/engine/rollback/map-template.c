/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU opens the file of a memory back end for reading and writing, even to map it privately, and
 * gives memory back (virtio-balloon, virtio-mem) by punching holes into that file: with a private
 * mapping of a shared file that would be everybody's memory. So each descriptor of a template is
 * replaced by a read-only one: we hand ours in over QMP and have a thread of QEMU run dup3(2). Then
 * a discard fails, QEMU says so in its log, and the guest's page keeps its content.
 */
#include "engine/rollback/map-template.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/io.h"
#include "track/inject.h"

#define FDNAME "stasis-template"

static gboolean is_same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* The access mode of descriptor @fd of @pid, or -1. */
static int access_mode(pid_t pid, int fd)
{
    char path[64], text[256] = "";
    snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", (int)pid, fd);
    g_autofree char *read = NULL;
    if (!g_file_get_contents(path, &read, NULL, NULL))
        return -1;
    const char *flags = strstr(read, "flags:");
    if (flags == NULL || sscanf(flags, "flags: %255s", text) != 1)
        return -1;
    return (int)(strtoul(text, NULL, 8) & O_ACCMODE);
}

/* Descriptors of @pid for @file, by access mode. Element type: int. */
static GArray *find_descriptors(pid_t pid, const struct stat *file, gboolean writable)
{
    GArray *found = g_array_new(FALSE, FALSE, sizeof(int));
    g_autofree char *dir_path = g_strdup_printf("/proc/%d/fd", (int)pid);
    g_autoptr(GDir) dir = g_dir_open(dir_path, 0, NULL);
    for (const char *name; dir != NULL && (name = g_dir_read_name(dir)) != NULL;) {
        g_autofree char *path = g_build_filename(dir_path, name, NULL);
        struct stat st;
        int fd = atoi(name);
        if (stat(path, &st) == 0 && is_same(&st, file) &&
            (access_mode(pid, fd) != O_RDONLY) == writable)
            g_array_append_val(found, fd);
    }
    return found;
}

typedef struct {
    GArray *writable;
    int readonly;
} Swap;

static gboolean swap_descriptors(StasisInject *inject, gpointer user_data, GError **error)
{
    const Swap *swap = user_data;
    for (guint i = 0; i < swap->writable->len; i++) {
        int fd = g_array_index(swap->writable, int, i);
        const unsigned long args[6] = { (unsigned long)swap->readonly, (unsigned long)fd,
                                        O_CLOEXEC };
        long r = stasis_inject_syscall(inject, SYS_dup3, args);
        if (r < 0)
            return stasis_set_errno(error, (int)-r,
                                    "RAM template: make QEMU's descriptor read-only");
    }
    return TRUE;
}

static gboolean fd_command(StasisQmp *qmp, const char *command, int fd, GError **error)
{
    g_autoptr(JsonObject) name = json_object_new();
    json_object_set_string_member(name, "fdname", FDNAME);
    g_autoptr(JsonNode) answer = stasis_qmp_execute(qmp, command, name, fd, 0, error);
    return answer != NULL;
}

static gboolean protect_block(const StasisTemplateBlock *block, StasisQmp *qmp, pid_t pid,
                              GError **error)
{
    struct stat file;
    if (fstat(block->fd, &file) < 0)
        return stasis_set_errno(error, errno, "%s", block->path);
    g_autoptr(GArray) writable = find_descriptors(pid, &file, TRUE);
    if (writable->len == 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "%s: QEMU does not map it: it was replaced meanwhile; try again", block->path);
        return FALSE;
    }
    if (!fd_command(qmp, "getfd", block->fd, error))
        return FALSE;
    g_autoptr(GArray) readonly = find_descriptors(pid, &file, FALSE);
    Swap swap = { writable, readonly->len > 0 ? g_array_index(readonly, int, 0) : -1 };
    gboolean ok = stasis_inject(pid, swap_descriptors, &swap, error);
    return fd_command(qmp, "closefd", -1, ok ? error : NULL) && ok;
}

gboolean stasis_template_protect(const StasisTemplate *templates, StasisQmp *qmp, pid_t pid,
                                 GError **error)
{
    for (guint i = 0; i < templates->blocks->len; i++)
        if (!protect_block(g_ptr_array_index(templates->blocks, i), qmp, pid, error))
            return FALSE;
    return TRUE;
}

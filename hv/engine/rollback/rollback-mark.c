/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/rollback/rollback-mark.h"

#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"
#include "base/json.h"
#include "vmm/registry.h"

#define MARK_FILE "rollback.json"
#define MAX_MARK_BYTES 65536u

void stasis_rollback_mark_free(StasisRollbackMark *mark)
{
    if (mark == NULL)
        return;
    g_free(mark->image);
    g_free(mark->store);
    g_free(mark);
}

char *stasis_rollback_mark_path(const char *vm_name, GError **error)
{
    g_autofree char *dir = stasis_vm_dir(vm_name, error);
    return dir != NULL ? g_build_filename(dir, MARK_FILE, NULL) : NULL;
}

static int open_dir(const char *vm_name, GError **error)
{
    g_autofree char *dir = stasis_vm_dir(vm_name, error);
    if (dir == NULL)
        return -1;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        stasis_set_errno(error, errno, "open %s", dir);
    return fd;
}

gboolean stasis_rollback_mark_set(const char *vm_name, const char *image, const char *store,
                                  GError **error)
{
    stasis_autofd int dir_fd = open_dir(vm_name, error);
    if (dir_fd < 0)
        return FALSE;
    g_autoptr(JsonObject) object = json_object_new();
    json_object_set_string_member(object, "image", image);
    json_object_set_string_member(object, "store", store);
    g_autofree char *text = stasis_json_to_text(object, FALSE);
    return stasis_write_file_at(dir_fd, MARK_FILE, text, strlen(text), FALSE, error);
}

StasisRollbackMark *stasis_rollback_mark_get(const char *vm_name)
{
    stasis_autofd int dir_fd = open_dir(vm_name, NULL);
    if (dir_fd < 0 || faccessat(dir_fd, MARK_FILE, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
        return NULL;
    gsize len;
    g_autofree char *text = stasis_read_file_at(dir_fd, MARK_FILE, MAX_MARK_BYTES, &len, NULL);
    g_autoptr(JsonObject) object =
        text != NULL ? stasis_json_parse_object(text, (gssize)len, NULL) : NULL;
    StasisRollbackMark *mark = g_new0(StasisRollbackMark, 1);
    mark->image = g_strdup(object != NULL ? stasis_json_string_or(object, "image", "") : "");
    mark->store = g_strdup(object != NULL ? stasis_json_string_or(object, "store", "") : "");
    return mark;
}

gboolean stasis_rollback_mark_clear(const char *vm_name, GError **error)
{
    g_autofree char *path = stasis_rollback_mark_path(vm_name, error);
    if (path == NULL)
        return FALSE;
    return unlink(path) == 0 || errno == ENOENT ||
           stasis_set_errno(error, errno, "remove %s", path);
}

gboolean stasis_rollback_check_whole(const char *vm_name, GError **error)
{
    g_autoptr(StasisRollbackMark) mark = stasis_rollback_mark_get(vm_name);
    if (mark == NULL)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                "VM %s is half rolled back to image %s: `stasis rollback %s` completes it, or "
                "`stasis kill` it and `stasis restore` the image",
                vm_name, mark->image, vm_name);
    return FALSE;
}

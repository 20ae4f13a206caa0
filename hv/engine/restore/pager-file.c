/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/restore/pager-file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>

#include "base/fd.h"
#include "base/io.h"
#include "base/json.h"

#define TASK_FILE "pager.json"
#define MAX_TASK_BYTES (1u << 20)

void stasis_pager_task_free(StasisPagerTask *task)
{
    if (task == NULL)
        return;
    g_free(task->store_path);
    g_free(task->image);
    g_clear_pointer(&task->blocks, g_array_unref);
    g_free(task);
}

static int open_dir(const char *vm_name, GError **error)
{
    g_autofree char *path = stasis_vm_dir(vm_name, error);
    if (path == NULL)
        return -1;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        stasis_set_errno(error, errno, "open %s", path);
    return fd;
}

static gboolean parse_block(JsonArray *array, guint i, GArray *blocks, GError **error)
{
    JsonObject *object;
    guint64 image_block;
    StasisPagerBlock block;
    if (!stasis_json_object_at(array, i, &object, error) ||
        !stasis_json_uint(object, "image_block", &image_block, error) ||
        !stasis_json_uint(object, "hva", &block.hva, error) ||
        !stasis_json_uint(object, "size_bytes", &block.size_bytes, error) ||
        !stasis_json_uint(object, "page_bytes", &block.page_bytes, error))
        return FALSE;
    block.image_block = (guint)image_block;
    block.view_hva = stasis_json_uint_or(object, "view_hva", 0);
    g_array_append_val(blocks, block);
    return TRUE;
}

static StasisPagerTask *parse(const char *text, gsize len, GError **error)
{
    g_autoptr(JsonObject) root = stasis_json_parse_object(text, (gssize)len, error);
    g_autoptr(StasisPagerTask) task = g_new0(StasisPagerTask, 1);
    task->blocks = g_array_new(FALSE, FALSE, sizeof(StasisPagerBlock));
    const char *store, *image;
    guint64 pid;
    JsonArray *blocks;
    if (root == NULL || !stasis_json_uint(root, "pid", &pid, error) ||
        !stasis_json_uint(root, "start_time", &task->start_time, error) ||
        !stasis_json_string(root, "store", &store, error) ||
        !stasis_json_string(root, "image", &image, error) ||
        !stasis_json_array(root, "blocks", &blocks, error))
        return NULL;
    for (guint i = 0; i < json_array_get_length(blocks); i++)
        if (!parse_block(blocks, i, task->blocks, error))
            return NULL;
    task->with_memory = stasis_json_bool_or(root, "with_memory", FALSE);
    task->pid = (pid_t)pid;
    task->store_path = g_strdup(store);
    task->image = g_strdup(image);
    return g_steal_pointer(&task);
}

StasisPagerTask *stasis_pager_task_load(const char *vm_name, GError **error)
{
    stasis_autofd int dir = open_dir(vm_name, error);
    gsize len;
    g_autofree char *text =
        dir >= 0 ? stasis_read_file_at(dir, TASK_FILE, MAX_TASK_BYTES, &len, error) : NULL;
    return text != NULL ? parse(text, len, error) : NULL;
}

gboolean stasis_pager_task_save(const StasisPagerTask *task, const char *vm_name, GError **error)
{
    g_autoptr(JsonObject) root = json_object_new();
    json_object_set_int_member(root, "pid", task->pid);
    json_object_set_int_member(root, "start_time", (gint64)task->start_time);
    json_object_set_string_member(root, "store", task->store_path);
    json_object_set_string_member(root, "image", task->image);
    json_object_set_boolean_member(root, "with_memory", task->with_memory);
    JsonArray *blocks = json_array_new();
    for (guint i = 0; i < task->blocks->len; i++) {
        const StasisPagerBlock *block = &g_array_index(task->blocks, StasisPagerBlock, i);
        JsonObject *object = json_object_new();
        json_object_set_int_member(object, "image_block", block->image_block);
        json_object_set_int_member(object, "hva", (gint64)block->hva);
        json_object_set_int_member(object, "size_bytes", (gint64)block->size_bytes);
        json_object_set_int_member(object, "page_bytes", (gint64)block->page_bytes);
        json_object_set_int_member(object, "view_hva", (gint64)block->view_hva);
        json_array_add_object_element(blocks, object);
    }
    json_object_set_array_member(root, "blocks", blocks);
    g_autofree char *text = stasis_json_to_text(root, TRUE);
    stasis_autofd int dir = open_dir(vm_name, error);
    return dir >= 0 && stasis_write_file_at(dir, TASK_FILE, text, strlen(text), FALSE, error);
}

gboolean stasis_pager_task_remove(const char *vm_name, GError **error)
{
    stasis_autofd int dir = open_dir(vm_name, error);
    if (dir < 0)
        return FALSE;
    if (unlinkat(dir, TASK_FILE, 0) < 0 && errno != ENOENT)
        return stasis_set_errno(error, errno, "remove " TASK_FILE);
    unlinkat(dir, "pager.progress", 0);
    return TRUE;
}

gboolean stasis_pager_is_loading(const char *vm_name)
{
    stasis_autofd int dir = open_dir(vm_name, NULL);
    return dir >= 0 && faccessat(dir, TASK_FILE, F_OK, 0) == 0;
}

int stasis_pager_lock(const char *vm_name)
{
    stasis_autofd int dir = open_dir(vm_name, NULL);
    stasis_autofd int fd =
        dir >= 0 ? openat(dir, "pager.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
        return -1;
    return stasis_steal_fd(&fd);
}

void stasis_pager_set_progress(const char *vm_name, guint64 done_bytes, guint64 total_bytes)
{
    stasis_autofd int dir = open_dir(vm_name, NULL);
    g_autofree char *text =
        g_strdup_printf("%" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT "\n", done_bytes, total_bytes);
    if (dir >= 0)
        stasis_write_file_at(dir, "pager.progress", text, strlen(text), FALSE, NULL);
}

gboolean stasis_pager_get_progress(const char *vm_name, guint64 *ret_done, guint64 *ret_total)
{
    stasis_autofd int dir = open_dir(vm_name, NULL);
    g_autofree char *text =
        dir >= 0 ? stasis_read_file_at(dir, "pager.progress", 256, NULL, NULL) : NULL;
    return text != NULL && sscanf(text, "%" G_GINT64_MODIFIER "u %" G_GINT64_MODIFIER "u", ret_done,
                                  ret_total) == 2;
}

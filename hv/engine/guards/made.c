/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/guards/made.h"

#include <errno.h>
#include <fcntl.h>
#include <stasis/maintenance.h>
#include <string.h>

#include "base/fd.h"
#include "base/io.h"

#define PREFIX "made-"
#define MAX_LIST_BYTES (16u << 20)
#define STORE_CHARS 16

/* ---- the list: an ID a line; one that was written by half, the disk being full, is none ---- */

/* One for each store and note; NULL: they are known by their note. Free with g_free(). */
static char *list_of(const StasisMemory *memory, StasisStore *store, const char *note)
{
    const char *path = stasis_store_get_path(store);
    if (memory == NULL || stasis_memory_has(memory, store))
        return NULL;
    g_autofree char *sum = g_compute_checksum_for_string(G_CHECKSUM_SHA256, path, -1);
    return g_strdup_printf(PREFIX "%s-%.*s", note, STORE_CHARS, sum);
}

static int open_dir(const StasisMemory *memory, GError **error)
{
    int fd = open(memory->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        stasis_set_errno(error, errno, "%s", memory->dir);
    return fd;
}

static GHashTable *read_list(int dir_fd, const char *name)
{
    gsize len = 0;
    GHashTable *ids = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autofree char *text = stasis_read_file_at(dir_fd, name, MAX_LIST_BYTES, &len, NULL);
    g_auto(GStrv) lines = g_strsplit(text != NULL ? text : "", "\n", -1);
    for (char **line = lines; *line != NULL; line++)
        if (**line != '\0')
            g_hash_table_add(ids, g_strdup(*line));
    return ids;
}

static gboolean write_list(int dir_fd, const char *name, const GPtrArray *ids, GError **error)
{
    g_autoptr(GString) text = g_string_new(NULL);
    for (guint i = ids->len; i > 0; i--)
        g_string_append_printf(text, "%s\n", (const char *)ids->pdata[i - 1]);
    return stasis_write_file_at(dir_fd, name, text->str, text->len, /* durable= */ FALSE, error);
}

static gboolean add_to_list(const StasisMemory *memory, const char *name, const char *id,
                            GError **error)
{
    /* The line before may be half of one. */
    g_autofree char *line = g_strconcat("\n", id, "\n", NULL);
    stasis_autofd int dir_fd = open_dir(memory, error);
    if (dir_fd < 0)
        return FALSE;
    stasis_autofd int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    int r = fd >= 0 ? stasis_write_all(fd, line, strlen(line)) : -errno;
    return r == 0 || stasis_set_errno(error, -r, "%s/%s", memory->dir, name);
}

gboolean stasis_made_note(const StasisMemory *memory, StasisStore *store, const char *note,
                          const char *id, GError **error)
{
    const char *const ids[] = { id, NULL };
    g_autofree char *name = list_of(memory, store, note);
    if (name == NULL || add_to_list(memory, name, id, error))
        return TRUE;
    stasis_store_delete_images(store, ids, NULL, NULL, NULL, NULL);
    return FALSE;
}

gboolean stasis_made_prune(const StasisMemory *memory, StasisStore *store, const char *vm_name,
                           const char *note, guint n_keep, GError **error)
{
    g_autofree char *name = list_of(memory, store, note);
    stasis_autofd int dir_fd = name != NULL ? open_dir(memory, error) : -1;
    if (name != NULL && dir_fd < 0)
        return FALSE;
    g_autoptr(GHashTable) made = name != NULL ? read_list(dir_fd, name) : NULL;
    g_autoptr(GPtrArray) images = stasis_store_list(store, error);
    g_autoptr(GPtrArray) going = g_ptr_array_new(), staying = g_ptr_array_new();
    if (images == NULL)
        return FALSE;
    for (guint i = images->len; i > 0; i--) {
        const StasisImageInfo *info = images->pdata[i - 1];
        if (g_strcmp0(info->vm, vm_name) == 0 && g_strcmp0(info->note, note) == 0 &&
            (made == NULL || g_hash_table_contains(made, info->id)))
            g_ptr_array_add(staying->len < n_keep ? staying : going, info->id);
    }
    if (going->len > 0) {
        g_ptr_array_add(going, NULL);
        if (!stasis_store_delete_images(store, (const char *const *)going->pdata, NULL, NULL, NULL,
                                        error))
            return FALSE;
    }
    return name == NULL || write_list(dir_fd, name, staying, error);
}

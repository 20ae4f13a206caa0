/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/transactions/transaction-file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"
#include "base/json.h"

#define NAME "transaction.json"
#define MAX_BYTES 65536u

void stasis_transaction_file_free(StasisTransactionFile *file)
{
    if (file == NULL)
        return;
    g_free(file->image);
    g_free(file->store);
    g_free(file->uri);
    g_free(file);
}

gboolean stasis_transaction_file_set(const char *dir, const StasisTransactionFile *file,
                                     GError **error)
{
    stasis_autofd int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return stasis_set_errno(error, errno, "open %s", dir);
    g_autoptr(JsonObject) object = json_object_new();
    json_object_set_string_member(object, "image", file->image);
    json_object_set_string_member(object, "store", file->store);
    stasis_json_set_uint(object, "pid", (guint64)file->pid);
    stasis_json_set_uint(object, "start_time", file->start_time);
    if (file->uri != NULL)
        json_object_set_string_member(object, "uri", file->uri);
    json_object_set_boolean_member(object, "in_memory", file->in_memory);
    g_autofree char *text = stasis_json_to_text(object, FALSE);
    return stasis_write_file_at(dir_fd, NAME, text, strlen(text), /* durable= */ FALSE, error);
}

gboolean stasis_transaction_file_exists(const char *dir)
{
    g_autofree char *path = g_build_filename(dir, NAME, NULL);
    return access(path, F_OK) == 0;
}

StasisTransactionFile *stasis_transaction_file_get(const char *dir, GError **error)
{
    stasis_autofd int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0 || !stasis_transaction_file_exists(dir))
        return NULL;
    gsize len;
    g_autofree char *text = stasis_read_file_at(dir_fd, NAME, MAX_BYTES, &len, error);
    g_autoptr(JsonObject) object =
        text != NULL ? stasis_json_parse_object(text, (gssize)len, error) : NULL;
    const char *image, *store;
    if (object == NULL || !stasis_json_string(object, "image", &image, error) ||
        !stasis_json_string(object, "store", &store, error)) {
        g_prefix_error(error, "%s/" NAME ": ", dir);
        return NULL;
    }
    StasisTransactionFile *file = g_new0(StasisTransactionFile, 1);
    file->image = g_strdup(image);
    file->store = g_strdup(store);
    file->pid = (pid_t)stasis_json_uint_or(object, "pid", 0);
    file->start_time = stasis_json_uint_or(object, "start_time", 0);
    file->uri = g_strdup(stasis_json_string_or(object, "uri", NULL));
    file->in_memory = stasis_json_bool_or(object, "in_memory", FALSE);
    return file;
}

gboolean stasis_transaction_file_remove(const char *dir, GError **error)
{
    g_autofree char *path = g_build_filename(dir, NAME, NULL);
    return unlink(path) == 0 || errno == ENOENT ||
           stasis_set_errno(error, errno, "remove %s", path);
}

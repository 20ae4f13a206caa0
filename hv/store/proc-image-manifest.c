/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The manifest of an image of processes, to text and back. It ends as that of a VM's image does. */
#include "store/proc-image-manifest.h"

#include <string.h>

#include "base/json.h"
#include "store/internal.h"
#include "store/manifest-text.h"
#include "store/proc-image-file.h"
#include "store/proc-image-pages.h"

void stasis_proc_image_file_free(StasisProcImageFile *file)
{
    g_free(file->name);
    g_free(file->sha256);
    g_free(file->map);
    g_free(file->mac);
    g_free(file);
}

void stasis_image_process_free(StasisImageProcess *process)
{
    g_free(process->name);
    g_free(process);
}

void stasis_process_image_info_free(StasisProcessImageInfo *info)
{
    if (info == NULL)
        return;
    g_free(info->id);
    g_free(info->digest);
    g_free(info->vm);
    g_free(info->note);
    g_free(info->parent);
    g_free(info->criu);
    g_free(info->kernel);
    g_free(info->encrypted_with);
    g_free(info->signed_by);
    g_clear_pointer(&info->processes, g_ptr_array_unref);
    g_free(info);
}

gboolean stasis_proc_image_file_name_is_valid(const char *name)
{
    gsize n = strlen(name);
    gboolean good = n >= 1 && n <= 64 && name[0] != '.' && strcmp(name, "manifest.json") != 0;
    for (gsize i = 0; good && i < n; i++)
        good = g_ascii_isalnum(name[i]) || strchr("._-", name[i]) != NULL;
    return good;
}

gboolean stasis_proc_image_file_is_criu(const StasisProcImageFile *file)
{
    return !g_str_has_suffix(file->name, ".json") &&
           !g_str_has_suffix(file->name, STASIS_PROC_PAGES_SUFFIX) &&
           !g_str_has_suffix(file->name, STASIS_PROC_MAP_SUFFIX);
}

/* ---- writing ---- */

static void set_cost(JsonObject *root, const StasisProcessCost *cost)
{
    JsonObject *object = json_object_new();
    stasis_json_set_uint(object, "pause_us", cost->pause_us);
    stasis_json_set_uint(object, "image_us", cost->image_us);
    stasis_json_set_uint(object, "fork_us", cost->fork_us);
    stasis_json_set_uint(object, "dump_us", cost->dump_us);
    stasis_json_set_uint(object, "total_us", cost->total_us);
    json_object_set_object_member(root, "cost", object);
}

static void set_processes(JsonObject *root, const GPtrArray *processes)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < processes->len; i++) {
        const StasisImageProcess *process = g_ptr_array_index(processes, i);
        JsonObject *object = json_object_new();
        stasis_json_set_uint(object, "pid", process->pid);
        stasis_json_set_uint(object, "ppid", process->ppid);
        stasis_json_set_uint(object, "start", process->start);
        stasis_json_set_string(object, "name", process->name);
        json_array_add_object_element(array, object);
    }
    json_object_set_array_member(root, "processes", array);
}

static void set_files(JsonObject *root, const GPtrArray *files)
{
    JsonObject *all = json_object_new();
    for (guint i = 0; i < files->len; i++) {
        const StasisProcImageFile *file = g_ptr_array_index(files, i);
        JsonObject *object = json_object_new();
        stasis_json_set_uint(object, "size", file->size);
        if (file->mac != NULL)
            stasis_json_set_string(object, "mac", file->mac);
        else
            stasis_json_set_string(object, "sha256", file->sha256);
        if (file->map != NULL)
            stasis_json_set_string(object, "map", file->map);
        json_object_set_object_member(all, file->name, object);
    }
    json_object_set_object_member(root, "files", all);
}

char *stasis_proc_image_manifest_write(const StasisProcessImageInfo *info, const GPtrArray *files,
                                       const StasisSeals *seals, GError **error)
{
    g_autoptr(JsonObject) root = json_object_new();
    stasis_seal_set_member(
        root, info->parent != NULL ? STASIS_PROCESS_FORMAT_PAGES : STASIS_PROCESS_FORMAT,
        STASIS_PROCESS_FORMAT_SEALED, info->encrypted_with != NULL ? info->encrypted_with : "");
    if (info->parent != NULL)
        stasis_json_set_string(root, "parent", info->parent);
    stasis_json_set_string(root, "kind", "processes");
    stasis_json_set_string(root, "id", info->id);
    stasis_json_set_string(root, "vm", info->vm);
    if (info->note != NULL)
        stasis_json_set_string(root, "note", info->note);
    else
        json_object_set_null_member(root, "note");
    stasis_json_set_uint(root, "created_us", (guint64)MAX(info->created_us, 0));
    stasis_json_set_string(root, "criu", info->criu);
    stasis_json_set_string(root, "kernel", info->kernel);
    json_object_set_boolean_member(root, "shell_job", info->shell_job);
    json_object_set_boolean_member(root, "direct", info->direct);
    json_object_set_boolean_member(root, "session", info->session);
    json_object_set_boolean_member(root, "by_policy", info->by_policy);
    stasis_json_set_uint(root, "n_trees", MAX(info->n_trees, 1));
    set_cost(root, &info->cost);
    set_processes(root, info->processes);
    set_files(root, files);
    return stasis_manifest_close(root, seals, error);
}

/* ---- reading ---- */

static gboolean parse_string(JsonObject *object, const char *name, char **ret, GError **error)
{
    const char *value;
    if (!stasis_json_string(object, name, &value, error))
        return FALSE;
    *ret = g_strdup(value);
    return TRUE;
}

static gboolean parse_cost(JsonObject *root, StasisProcessCost *cost, GError **error)
{
    JsonObject *object;
    return stasis_json_object(root, "cost", &object, error) &&
           stasis_json_uint(object, "pause_us", &cost->pause_us, error) &&
           stasis_json_uint(object, "image_us", &cost->image_us, error) &&
           stasis_json_uint(object, "fork_us", &cost->fork_us, error) &&
           stasis_json_uint(object, "dump_us", &cost->dump_us, error) &&
           stasis_json_uint(object, "total_us", &cost->total_us, error);
}

static gboolean parse_process(JsonArray *array, guint i, GPtrArray *processes, GError **error)
{
    JsonObject *object;
    guint64 pid, ppid;
    g_autoptr(StasisImageProcess) process = g_new0(StasisImageProcess, 1);
    if (!stasis_json_object_at(array, i, &object, error) ||
        !stasis_json_uint(object, "pid", &pid, error) ||
        !stasis_json_uint(object, "ppid", &ppid, error) ||
        !stasis_json_uint(object, "start", &process->start, error) ||
        !parse_string(object, "name", &process->name, error))
        return FALSE;
    if (pid < 1 || pid > G_MAXINT32 || ppid > G_MAXINT32 || strlen(process->name) > 64)
        return stasis_corrupt(error, "process %u is none", i);
    process->pid = (guint)pid;
    process->ppid = (guint)ppid;
    g_ptr_array_add(processes, g_steal_pointer(&process));
    return TRUE;
}

static gboolean parse_processes(JsonObject *root, StasisProcessImageInfo *info, GError **error)
{
    JsonArray *array;
    if (!stasis_json_array(root, "processes", &array, error))
        return FALSE;
    guint n = json_array_get_length(array);
    if (n < 1 || n > STASIS_MAX_PROCESSES)
        return stasis_corrupt(error, "%u processes; 1 to %u can be", n, STASIS_MAX_PROCESSES);
    info->processes = g_ptr_array_new_with_free_func((GDestroyNotify)stasis_image_process_free);
    for (guint i = 0; i < n; i++)
        if (!parse_process(array, i, info->processes, error))
            return FALSE;
    return TRUE;
}

static gboolean add_size(StasisProcessImageInfo *info, const StasisProcImageFile *file,
                         GError **error)
{
    gboolean shared = g_str_has_suffix(file->name, STASIS_PROC_PAGES_SUFFIX) &&
                      strcmp(file->name, STASIS_PROC_PAGES_OWN) != 0;
    const guint64 most = G_MAXINT64 / 2; /* sealed, it is no more than twice that */
    if (file->size > most || file->size > most - info->size_bytes || info->stored_bytes > most)
        return stasis_corrupt(error, "sizes beyond all bounds");
    if (stasis_proc_image_file_is_criu(file))
        info->size_bytes += file->size;
    if (file->map == NULL && !shared)
        info->stored_bytes +=
            stasis_proc_file_stored_bytes(file->size, info->encrypted_with != NULL);
    return TRUE;
}

static gboolean parse_file(JsonObject *files, const char *name, StasisProcessImageInfo *info,
                           GPtrArray *array, GError **error)
{
    JsonObject *object;
    const char *sum;
    guint64 size;
    if (!stasis_proc_image_file_name_is_valid(name))
        return stasis_corrupt(error, "a file is called \"%.80s\"", name);
    if (!stasis_json_object(files, name, &object, error) ||
        !stasis_json_uint(object, "size", &size, error))
        return FALSE;
    const char *map = stasis_json_string_or(object, "map", NULL);
    gboolean is_mac = map != NULL && info->encrypted_with != NULL;
    if (!stasis_json_string(object, is_mac ? "mac" : "sha256", &sum, error))
        return FALSE;
    if (map != NULL && (info->parent == NULL || !stasis_proc_image_file_name_is_valid(map) ||
                        !g_str_has_suffix(map, STASIS_PROC_MAP_SUFFIX)))
        return stasis_corrupt(error, "%s: its map is none", name);
    if (!stasis_digest_hex_is_valid(sum))
        return stasis_corrupt(error, "%s: its digest is none", name);
    StasisProcImageFile *file = g_new0(StasisProcImageFile, 1);
    file->name = g_strdup(name);
    file->size = size;
    *(is_mac ? &file->mac : &file->sha256) = g_strdup(sum);
    file->map = g_strdup(map);
    g_ptr_array_add(array, file);
    return add_size(info, file, error);
}

static gint by_name(gconstpointer a, gconstpointer b)
{
    return strcmp((*(const StasisProcImageFile *const *)a)->name,
                  (*(const StasisProcImageFile *const *)b)->name);
}

static GPtrArray *parse_files(JsonObject *root, StasisProcessImageInfo *info, GError **error)
{
    JsonObject *files;
    if (!stasis_json_object(root, "files", &files, error))
        return NULL;
    g_autoptr(GList) names = json_object_get_members(files);
    g_autoptr(GPtrArray) array =
        g_ptr_array_new_with_free_func((GDestroyNotify)stasis_proc_image_file_free);
    if (g_list_length(names) > STASIS_MAX_PROCESS_FILES) {
        stasis_corrupt(error, "more than %u files", STASIS_MAX_PROCESS_FILES);
        return NULL;
    }
    for (GList *name = names; name != NULL; name = name->next) {
        if (!parse_file(files, name->data, info, array, error))
            return NULL;
    }
    g_ptr_array_sort(array, by_name);
    info->n_files = array->len;
    return g_steal_pointer(&array);
}

/* Members that images did not have at first. */
static gboolean parse_shape(JsonObject *root, StasisProcessImageInfo *info, GError **error)
{
    guint64 n_trees = 1;
    if (json_object_has_member(root, "session") &&
        !stasis_json_bool(root, "session", &info->session, error))
        return FALSE;
    if (json_object_has_member(root, "n_trees") &&
        !stasis_json_uint(root, "n_trees", &n_trees, error))
        return FALSE;
    /* And a parent, if there are several. */
    if (n_trees < 1 || n_trees + (n_trees > 1) > info->processes->len)
        return stasis_corrupt(error, "%" G_GUINT64_FORMAT " trees of %u processes", n_trees,
                              info->processes->len);
    info->n_trees = (guint)n_trees;
    return TRUE;
}

static gboolean parse_about(JsonObject *root, StasisProcessImageInfo *info, GError **error)
{
    guint64 format, created_us;
    const char *kind;
    char key[STASIS_KEY_ID];
    if (!stasis_seal_parse_member(root, STASIS_PROCESS_FORMAT_SEALED, &format, key, error) ||
        !stasis_json_string(root, "kind", &kind, error))
        return FALSE;
    if (format < STASIS_PROCESS_FORMAT || format > STASIS_PROCESS_FORMAT_PAGES ||
        strcmp(kind, "processes") != 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "kind \"%.32s\" of format %" G_GUINT64_FORMAT
                    ", this program knows \"processes\" of formats up to %u",
                    kind, format, STASIS_PROCESS_FORMAT_SEALED);
        return FALSE;
    }
    info->encrypted_with = key[0] != '\0' ? g_strdup(key) : NULL;
    if (!parse_string(root, "id", &info->id, error) ||
        !parse_string(root, "vm", &info->vm, error) ||
        !parse_string(root, "criu", &info->criu, error) ||
        !parse_string(root, "kernel", &info->kernel, error) ||
        !stasis_json_uint(root, "created_us", &created_us, error) ||
        !stasis_json_bool(root, "shell_job", &info->shell_job, error) ||
        !parse_cost(root, &info->cost, error) || !parse_processes(root, info, error) ||
        !parse_shape(root, info, error))
        return FALSE;
    if (!stasis_id_is_valid(info->id))
        return stasis_corrupt(error, "id is malformed");
    info->parent = format == STASIS_PROCESS_FORMAT
                       ? NULL
                       : g_strdup(stasis_json_string_or(root, "parent", NULL));
    if (info->parent != NULL ? !stasis_id_is_valid(info->parent) : format > STASIS_PROCESS_FORMAT)
        return stasis_corrupt(error, "parent is malformed");
    info->note = g_strdup(stasis_json_string_or(root, "note", NULL));
    info->created_us = (gint64)created_us;
    info->direct = stasis_json_bool_or(root, "direct", FALSE);
    /* Before there was a mark a policy knew its images by their note. */
    info->by_policy =
        stasis_json_bool_or(root, "by_policy", g_strcmp0(info->note, "policy-watch") == 0);
    return TRUE;
}

StasisProcessImageInfo *stasis_proc_image_manifest_parse(const char *text, gsize len,
                                                         GPtrArray **ret_files, GError **error)
{
    g_autoptr(StasisProcessImageInfo) info = g_new0(StasisProcessImageInfo, 1);
    if (!stasis_manifest_check_digest(text, len, &info->digest, error))
        return NULL;
    g_autoptr(GError) local = NULL;
    g_autoptr(JsonObject) root = stasis_json_parse_object(text, (gssize)len, &local);
    if (root == NULL) {
        stasis_corrupt(error, "%s", local->message);
        return NULL;
    }
    g_autoptr(GPtrArray) files =
        parse_about(root, info, error) ? parse_files(root, info, error) : NULL;
    if (files == NULL)
        return NULL;
    StasisSealLines lines;
    stasis_seal_find_lines(text, len, &lines);
    info->signed_by = lines.signature_over > 0 ? g_strdup(lines.signature_key) : NULL;
    *ret_files = g_steal_pointer(&files);
    return g_steal_pointer(&info);
}

gboolean stasis_proc_image_manifest_check_seal(StasisStore *store, StasisProcessImageInfo *info,
                                               const char *text, gsize len, GError **error)
{
    StasisSealChecks checks;
    const char *key = info->encrypted_with != NULL ? info->encrypted_with : "";
    if (!stasis_seal_check(store, text, len, key, &checks, error))
        return FALSE;
    info->encryption_checked = checks.mac;
    info->signature_checked = checks.signature;
    return TRUE;
}

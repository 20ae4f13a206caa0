/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "web/api.h"

#include <stasis/error.h>
#include <stasis/version.h>
#include <stasis/vm.h>
#include <string.h>

#include "base/json.h"
#include "store/proc-image.h"
#include "web/graph.h"

/* Consumes @object. */
static char *to_text(JsonObject *object)
{
    char *text = stasis_json_to_text(object, FALSE);
    json_object_unref(object);
    return text;
}

static void set_text(JsonObject *object, const char *name, const char *text)
{
    if (text != NULL)
        stasis_json_set_string(object, name, text);
    else
        json_object_set_null_member(object, name);
}

/* ---- an image, as the picture needs it ---- */

static JsonObject *image_to_json(const StasisImageInfo *info)
{
    JsonObject *object = json_object_new();
    stasis_json_set_string(object, "id", info->id);
    stasis_json_set_string(object, "kind", info->ram_bytes > 0 ? "vm" : "devices");
    stasis_json_set_string(object, "vm", info->vm);
    set_text(object, "parent", info->parent);
    set_text(object, "note", info->note);
    set_text(object, "mode", info->mode);
    json_object_set_int_member(object, "created_us", info->created_us);
    json_object_set_boolean_member(object, "paused", info->paused);
    stasis_json_set_uint(object, "ram_bytes", info->ram_bytes);
    stasis_json_set_uint(object, "data_pages", info->data_pages);
    stasis_json_set_uint(object, "zero_pages", info->zero_pages);
    stasis_json_set_uint(object, "stored_bytes", info->stored_bytes);
    stasis_json_set_uint(object, "pause_us", info->cost.pause_us);
    stasis_json_set_uint(object, "worst_stall_us", info->cost.worst_stall_us);
    stasis_json_set_uint(object, "residual_pages", info->cost.residual_pages);
    stasis_json_set_uint(object, "copied_bytes", info->cost.copied_bytes);
    stasis_json_set_uint(object, "total_us", info->cost.total_us);
    return object;
}

static JsonObject *process_image_to_json(const StasisProcessImageInfo *info)
{
    JsonObject *object = json_object_new();
    stasis_json_set_string(object, "id", info->id);
    stasis_json_set_string(object, "kind", "processes");
    stasis_json_set_string(object, "vm", info->vm);
    set_text(object, "parent", info->parent);
    set_text(object, "note", info->note);
    stasis_json_set_string(object, "mode", info->direct ? "direct" : "fork");
    json_object_set_int_member(object, "created_us", info->created_us);
    stasis_json_set_uint(object, "stored_bytes", info->stored_bytes);
    stasis_json_set_uint(object, "pause_us", info->cost.pause_us);
    stasis_json_set_uint(object, "total_us", info->cost.total_us);
    stasis_json_set_uint(object, "n_processes", info->processes->len);
    return object;
}

static void describe_store(JsonObject *object, StasisWebModel *model,
                           const StasisWebSnapshot *snapshot)
{
    stasis_json_set_string(object, "store", stasis_web_model_path(model));
    stasis_json_set_string(object, "stasis", stasis_version());
    json_object_set_boolean_member(object, "there", snapshot->there);
    set_text(object, "problem", snapshot->problem);
}

char *stasis_web_api_images(StasisWebModel *model)
{
    const StasisWebSnapshot *snapshot = stasis_web_model_look(model);
    JsonObject *object = json_object_new();
    JsonArray *array = json_array_new();
    for (guint i = 0; i < snapshot->images->len; i++)
        json_array_add_object_element(array, image_to_json(snapshot->images->pdata[i]));
    for (guint i = 0; i < snapshot->processes->len; i++)
        json_array_add_object_element(array, process_image_to_json(snapshot->processes->pdata[i]));
    describe_store(object, model, snapshot);
    json_object_set_array_member(object, "images", array);
    return to_text(object);
}

/* ---- VMs ---- */

typedef struct {
    guint n_images, n_process_images;
    guint64 stored_bytes;
    gint64 last_us;
    gboolean known; /* it runs, or did lately */
} Vm;

static Vm *vm_of(GHashTable *vms, const char *name)
{
    Vm *vm = g_hash_table_lookup(vms, name);
    if (vm == NULL) {
        vm = g_new0(Vm, 1);
        g_hash_table_insert(vms, g_strdup(name), vm);
    }
    return vm;
}

static GHashTable *sum_up(const StasisWebSnapshot *snapshot)
{
    GHashTable *vms = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_auto(GStrv) known = stasis_vm_list_names(NULL);
    for (char **name = known; name != NULL && *name != NULL; name++)
        vm_of(vms, *name)->known = TRUE;
    for (guint i = 0; i < snapshot->images->len; i++) {
        const StasisImageInfo *info = snapshot->images->pdata[i];
        Vm *vm = vm_of(vms, info->vm);
        vm->n_images++;
        vm->stored_bytes += info->stored_bytes;
        vm->last_us = MAX(vm->last_us, info->created_us);
    }
    for (guint i = 0; i < snapshot->processes->len; i++) {
        const StasisProcessImageInfo *info = snapshot->processes->pdata[i];
        Vm *vm = vm_of(vms, info->vm);
        vm->n_process_images++;
        vm->stored_bytes += info->stored_bytes;
        vm->last_us = MAX(vm->last_us, info->created_us);
    }
    return vms;
}

char *stasis_web_api_vms(StasisWebModel *model)
{
    const StasisWebSnapshot *snapshot = stasis_web_model_look(model);
    JsonObject *object = json_object_new();
    JsonArray *array = json_array_new();
    g_autoptr(GHashTable) vms = sum_up(snapshot);
    g_autoptr(GList) names =
        g_list_sort(g_hash_table_get_keys(vms), (GCompareFunc)(void (*)(void))strcmp);
    for (GList *l = names; l != NULL; l = l->next) {
        const Vm *vm = g_hash_table_lookup(vms, l->data);
        JsonObject *member = json_object_new();
        stasis_json_set_string(member, "name", l->data);
        json_object_set_boolean_member(member, "known", vm->known);
        stasis_json_set_uint(member, "images", vm->n_images);
        stasis_json_set_uint(member, "process_images", vm->n_process_images);
        stasis_json_set_uint(member, "stored_bytes", vm->stored_bytes);
        json_object_set_int_member(member, "last_us", vm->last_us);
        json_array_add_object_element(array, member);
    }
    describe_store(object, model, snapshot);
    json_object_set_array_member(object, "vms", array);
    return to_text(object);
}

/* ---- one image ---- */

static JsonArray *disks_to_json(const GPtrArray *disks)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < disks->len; i++) {
        const StasisDiskInfo *disk = disks->pdata[i];
        JsonObject *object = json_object_new();
        stasis_json_set_string(object, "name", disk->name);
        stasis_json_set_uint(object, "size_bytes", disk->size_bytes);
        stasis_json_set_uint(object, "stored_bytes", disk->stored_bytes);
        json_array_add_object_element(array, object);
    }
    return array;
}

static JsonObject *describe_image(StasisStore *store, const char *id, GError **error)
{
    g_autoptr(StasisImageInfo) info = stasis_store_get_image(store, id, error);
    g_autoptr(GPtrArray) disks = info != NULL ? stasis_store_get_disks(store, id, error) : NULL;
    if (disks == NULL)
        return NULL;
    JsonObject *object = image_to_json(info);
    set_text(object, "machine", info->machine);
    set_text(object, "accel", info->accel);
    set_text(object, "qemu_version", info->qemu_version);
    set_text(object, "digest", info->digest);
    stasis_json_set_uint(object, "n_vcpus", info->n_vcpus);
    json_object_set_boolean_member(object, "quiesced", info->quiesced);
    stasis_json_set_uint(object, "device_us", info->cost.device_us);
    stasis_json_set_uint(object, "ram_us", info->cost.ram_us);
    stasis_json_set_uint(object, "disk_us", info->cost.disk_us);
    stasis_json_set_uint(object, "frozen_us", info->cost.frozen_us);
    stasis_json_set_uint(object, "faults", info->cost.faults);
    if (info->cost.deadlines_counted)
        stasis_json_set_uint(object, "missed_deadlines", info->cost.missed_deadlines);
    stasis_json_set_uint(object, "protected_pages", info->cost.protected_pages);
    stasis_json_set_uint(object, "rounds", info->cost.rounds);
    json_object_set_array_member(object, "disks", disks_to_json(disks));
    return object;
}

static JsonObject *describe_process_image(StasisStore *store, const char *id, GError **error)
{
    g_autoptr(StasisProcessImageInfo) info = stasis_store_get_process(store, id, error);
    if (info == NULL)
        return NULL;
    JsonObject *object = process_image_to_json(info);
    JsonArray *array = json_array_new();
    for (guint i = 0; i < info->processes->len; i++) {
        const StasisImageProcess *process = info->processes->pdata[i];
        JsonObject *member = json_object_new();
        stasis_json_set_uint(member, "pid", process->pid);
        stasis_json_set_uint(member, "ppid", process->ppid);
        stasis_json_set_string(member, "name", process->name);
        json_array_add_object_element(array, member);
    }
    set_text(object, "criu", info->criu);
    set_text(object, "kernel", info->kernel);
    set_text(object, "digest", info->digest);
    stasis_json_set_uint(object, "size_bytes", info->size_bytes);
    stasis_json_set_uint(object, "dump_us", info->cost.dump_us);
    json_object_set_array_member(object, "processes", array);
    return object;
}

static gboolean is_process_image(const StasisWebSnapshot *snapshot, const char *id)
{
    for (guint i = 0; i < snapshot->processes->len; i++)
        if (strcmp(((StasisProcessImageInfo *)snapshot->processes->pdata[i])->id, id) == 0)
            return TRUE;
    return FALSE;
}

char *stasis_web_api_image(StasisWebModel *model, const char *id, GError **error)
{
    const StasisWebSnapshot *snapshot = stasis_web_model_look(model);
    StasisStore *store = stasis_web_model_store(model, error);
    if (store == NULL)
        return NULL;
    JsonObject *object = is_process_image(snapshot, id) ? describe_process_image(store, id, error)
                                                        : describe_image(store, id, error);
    return object != NULL ? to_text(object) : NULL;
}

/* ---- who belongs together ---- */

static gboolean take_piece(const StasisProcImageFile *file, guint64 offset, const guint8 *bytes,
                           gsize n, gpointer text, GError **error)
{
    if (offset + n > STASIS_WEB_MAX_BOUNDARY) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "larger than %u bytes",
                    STASIS_WEB_MAX_BOUNDARY);
        return FALSE;
    }
    g_byte_array_append(text, bytes, (guint)n);
    return TRUE;
}

char *stasis_web_api_graph(StasisWebModel *model, const char *id, GError **error)
{
    StasisStore *store = stasis_web_model_store(model, error);
    g_autoptr(StasisProcImageReader) reader =
        store != NULL ? stasis_proc_image_reader_open(store, id, error) : NULL;
    if (reader == NULL)
        return NULL;
    g_autoptr(GByteArray) text = g_byte_array_new();
    for (guint i = 0; i < reader->files->len; i++) {
        const StasisProcImageFile *file = reader->files->pdata[i];
        if (strcmp(file->name, "boundary.json") != 0)
            continue;
        g_autoptr(JsonObject) graph = NULL;
        if (stasis_proc_image_reader_read(reader, i, take_piece, text, error))
            graph = stasis_web_graph_parse((const char *)text->data, text->len, error);
        if (graph == NULL)
            g_prefix_error(error, "image %s: boundary.json: ", id);
        return graph != NULL ? to_text(g_steal_pointer(&graph)) : NULL;
    }
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                "image %s has no boundary.json: which processes belong together was not kept", id);
    return NULL;
}

char *stasis_web_api_error(const char *code, const char *message)
{
    JsonObject *object = json_object_new(), *error = json_object_new();
    stasis_json_set_string(error, "code", code);
    stasis_json_set_string(error, "message", message);
    json_object_set_object_member(object, "error", error);
    return to_text(object);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The devices of images: what they are, and what of their state changed between two. */
#include <stdio.h>
#include <string.h>

#include "image.h"
#include "output.h"
#include "table.h"

/* ---- device-list ---- */

void cli_print_devices(const GPtrArray *devices, guint indent)
{
    g_autoptr(CliTable) table = cli_table_new("lrrr");
    cli_table_add(table, "NAME", "INSTANCE", "VERSION", "BYTES");
    for (guint i = 0; i < devices->len; i++) {
        const StasisDeviceInfo *device = devices->pdata[i];
        g_autofree char *instance = g_strdup_printf("%u", device->instance);
        g_autofree char *version = g_strdup_printf("%u", device->version);
        g_autofree char *size = g_strdup_printf("%" G_GUINT64_FORMAT, device->size_bytes);
        cli_table_add(table, device->name, instance, version, size);
    }
    cli_table_print(table, indent);
}

JsonArray *cli_devices_to_json(const GPtrArray *devices)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < devices->len; i++) {
        const StasisDeviceInfo *device = devices->pdata[i];
        JsonObject *object = json_object_new();
        cli_json_set_string(object, "name", device->name);
        cli_json_set_uint(object, "instance", device->instance);
        cli_json_set_uint(object, "version", device->version);
        cli_json_set_uint(object, "size_bytes", device->size_bytes);
        json_array_add_object_element(array, object);
    }
    return array;
}

static GPtrArray *of_image(CliCall *call, GError **error)
{
    g_autoptr(StasisStore) store = cli_open_store(call, STASIS_STORE_EXISTING, error);
    g_autofree char *id = store != NULL ? stasis_store_resolve(store, call->args[0], error) : NULL;
    return id != NULL ? stasis_store_get_devices(store, id, error) : NULL;
}

static GPtrArray *of_vm(CliCall *call, GError **error)
{
    guint64 pause_us = 0;
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    GPtrArray *devices =
        vm != NULL ? stasis_vm_get_devices(vm, &pause_us, call->cancellable, error) : NULL;
    if (devices != NULL && pause_us > 0 && cli_flag(call, "verbose")) {
        g_autofree char *pause = cli_format_us(pause_us);
        cli_note(call, "%s was stopped for %s", call->args[0], pause);
    }
    return devices;
}

/* What is neither is an image that is not there, as a rule. */
static gboolean list(CliCall *call, GError **error)
{
    g_autoptr(GError) no_image = NULL, no_vm = NULL;
    g_autoptr(GPtrArray) devices = of_image(call, &no_image);
    gboolean unknown = g_error_matches(no_image, STASIS_ERROR, STASIS_ERROR_NOT_FOUND) ||
                       g_error_matches(no_image, STASIS_ERROR, STASIS_ERROR_NO_STORE);
    if (devices == NULL && unknown)
        devices = of_vm(call, &no_vm);
    if (devices == NULL) {
        gboolean tell_vm = no_vm != NULL &&
                           !g_error_matches(no_vm, STASIS_ERROR, STASIS_ERROR_NOT_FOUND) &&
                           !g_error_matches(no_vm, STASIS_ERROR, STASIS_ERROR_USAGE);
        GError **told = tell_vm ? &no_vm : &no_image;
        g_propagate_error(error, g_steal_pointer(told));
        return FALSE;
    }
    if (call->json)
        cli_take_array(call, cli_devices_to_json(devices));
    else
        cli_print_devices(devices, 0);
    return TRUE;
}

static const CliArgument list_arguments[] = {
    { "ID|NAME", CLI_ONE, CLI_IMAGE,
      "image: its ID, a unique prefix of it, or \"latest\"; or the name of a running VM" },
    { NULL },
};
static const CliExample list_examples[] = {
    { "device-list latest", "Whose state is in the newest image" },
    { "device-list web", "The devices of a VM as they are" },
    { NULL },
};
const CliCommand cli_cmd_device_list = {
    .group = "device",
    .name = "device-list",
    .summary = "list the devices of an image, or of a running VM",
    .description =
        "List the emulated devices whose suspend state is in an image, virtual CPUs and "
        "interrupt controllers among them, as QEMU names them.\n\n"
        "With a VM's name, its devices as they are. QEMU tells of their state only while "
        "the VM stands still, so it is stopped for a millisecond or two (--verbose says "
        "for how long).",
    .arguments = list_arguments,
    .examples = list_examples,
    .handler = list,
};

/* ---- device-diff ---- */

static const char *state_name(StasisDeviceState state)
{
    static const char *const names[] = {
        [STASIS_DEVICE_SAME] = "same",       [STASIS_DEVICE_CHANGED] = "changed",
        [STASIS_DEVICE_RESIZED] = "resized", [STASIS_DEVICE_ADDED] = "added",
        [STASIS_DEVICE_REMOVED] = "removed",
    };
    return names[state];
}

static JsonNode *fields_to_json(const GPtrArray *fields)
{
    if (fields == NULL)
        return json_node_new(JSON_NODE_NULL);
    JsonArray *array = json_array_new();
    for (guint i = 0; i < fields->len; i++) {
        const StasisFieldChange *change = fields->pdata[i];
        JsonObject *object = json_object_new();
        cli_json_set_string(object, "path", change->path);
        cli_json_set_string(object, "type", change->type);
        cli_json_set_uint(object, "offset", change->offset);
        cli_json_set_uint(object, "size_bytes", change->size_bytes);
        cli_json_set_string(object, "before", change->before);
        cli_json_set_string(object, "after", change->after);
        json_array_add_object_element(array, object);
    }
    JsonNode *node = json_node_new(JSON_NODE_ARRAY);
    json_node_take_array(node, array);
    return node;
}

static JsonArray *changes_to_json(const GPtrArray *changes)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < changes->len; i++) {
        const StasisDeviceChange *change = changes->pdata[i];
        JsonObject *object = json_object_new();
        cli_json_set_string(object, "name", change->name);
        cli_json_set_uint(object, "instance", change->instance);
        cli_json_set_string(object, "state", state_name(change->state));
        cli_json_set_uint(object, "before_bytes", change->before_bytes);
        cli_json_set_uint(object, "after_bytes", change->after_bytes);
        cli_json_set_uint(object, "changed_bytes", change->changed_bytes);
        json_object_set_member(object, "fields", fields_to_json(change->fields));
        json_array_add_object_element(array, object);
    }
    return array;
}

static char *describe_change(const StasisDeviceChange *change)
{
    if (change->state == STASIS_DEVICE_RESIZED)
        return g_strdup_printf("%" G_GUINT64_FORMAT " bytes, now %" G_GUINT64_FORMAT,
                               change->before_bytes, change->after_bytes);
    if (change->state != STASIS_DEVICE_CHANGED)
        return g_strdup("");
    return g_strdup_printf("%" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT " bytes",
                           change->changed_bytes, change->after_bytes);
}

static void add_fields(CliTable *table, const GPtrArray *fields)
{
    for (guint i = 0; fields != NULL && i < fields->len; i++) {
        const StasisFieldChange *change = fields->pdata[i];
        g_autofree char *path = g_strdup_printf("  %s", change->path);
        g_autofree char *values = g_strdup_printf("%s -> %s", change->before, change->after);
        cli_table_add(table, path, "", change->type, values);
    }
}

/* The number of those that are not the same. */
static guint print_changes(const GPtrArray *changes, gboolean all)
{
    guint n = 0;
    g_autoptr(CliTable) table = cli_table_new("lrll");
    cli_table_add(table, "DEVICE", "INSTANCE", "STATE", "CHANGE");
    for (guint i = 0; i < changes->len; i++) {
        const StasisDeviceChange *change = changes->pdata[i];
        n += change->state != STASIS_DEVICE_SAME;
        if (change->state == STASIS_DEVICE_SAME && !all)
            continue;
        g_autofree char *instance = g_strdup_printf("%u", change->instance);
        g_autofree char *what = describe_change(change);
        cli_table_add(table, change->name, instance, state_name(change->state), what);
        add_fields(table, change->fields);
    }
    if (n > 0 || all)
        cli_table_print(table, 0);
    return n;
}

static gboolean diff(CliCall *call, GError **error)
{
    StasisDeviceDiffOptions options = STASIS_DEVICE_DIFF_OPTIONS_INIT;
    options.fields = cli_flag(call, "fields");
    g_autoptr(StasisStore) store = cli_open_store(call, STASIS_STORE_EXISTING, error);
    g_autofree char *a = store != NULL ? stasis_store_resolve(store, call->args[0], error) : NULL;
    g_autofree char *b = a != NULL ? stasis_store_resolve(store, call->args[1], error) : NULL;
    g_autoptr(GPtrArray) changes =
        b != NULL ? stasis_store_compare_devices(store, a, b, &options, call->cancellable, error)
                  : NULL;
    if (changes == NULL)
        return FALSE;
    if (call->json)
        cli_take_array(call, changes_to_json(changes));
    else if (print_changes(changes, cli_flag(call, "all")) == 0)
        cli_note(call, "all %u devices are the same in both", changes->len);
    return TRUE;
}

static const CliArgument diff_arguments[] = {
    { "BEFORE", CLI_ONE, CLI_IMAGE, "image: its ID, a unique prefix of it, or \"latest\"" },
    { "AFTER", CLI_ONE, CLI_IMAGE, "another one" },
    { NULL },
};
static const CliOption diff_options[] = {
    { "fields", 'f', CLI_FLAG, NULL, "also which fields, by QEMU's own names (starts a QEMU)" },
    { "all", 'a', CLI_FLAG, NULL, "also devices that are the same in both" },
    { NULL },
};
static const CliExample diff_examples[] = {
    { "device-diff 0198 latest --fields", "Which registers of which devices changed" },
    { NULL },
};
const CliCommand cli_cmd_device_diff = {
    .group = "device",
    .name = "device-diff",
    .summary = "show which devices changed between two images",
    .description =
        "Compare the suspend state of the devices in two images, as a rule of one VM. --fields "
        "names "
        "the fields that changed, with their values in hexadecimal: QEMU says what they are only "
        "in "
        "a whole migration stream, so one is started for it, paused, with the second image loaded, "
        "which takes as long as a restore. A device whose state has another size is told by its "
        "size alone.",
    .arguments = diff_arguments,
    .options = diff_options,
    .examples = diff_examples,
    .handler = diff,
};

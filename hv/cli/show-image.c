/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images of VMs, as people and programs see them. */
#include "image.h"
#include "output.h"
#include "table.h"

static JsonObject *cost_to_json(const StasisCost *cost)
{
    JsonObject *object = json_object_new();
    cli_json_set_uint(object, "pause_us", cost->pause_us);
    cli_json_set_uint(object, "device_us", cost->device_us);
    cli_json_set_uint(object, "ram_us", cost->ram_us);
    cli_json_set_uint(object, "residual_pages", cost->residual_pages);
    cli_json_set_uint(object, "protected_pages", cost->protected_pages);
    cli_json_set_uint(object, "faults", cost->faults);
    cli_json_set_uint(object, "worst_stall_us", cost->worst_stall_us);
    cli_json_set_uint(object, "total_us", cost->total_us);
    cli_json_set_uint(object, "copied_bytes", cost->copied_bytes);
    cli_json_set_uint(object, "rounds", cost->rounds);
    cli_json_set_uint(object, "disk_us", cost->disk_us);
    cli_json_set_uint(object, "disk_copied_bytes", cost->disk_copied_bytes);
    cli_json_set_uint(object, "frozen_us", cost->frozen_us);
    if (cost->deadlines_counted)
        cli_json_set_uint(object, "missed_deadlines", cost->missed_deadlines);
    else
        json_object_set_null_member(object, "missed_deadlines");
    return object;
}

/* {device, address, driver, method} of each "NAME ADDRESS DRIVER METHOD". */
static JsonArray *suspended_to_json(const StasisImageInfo *info)
{
    static const char *const names[] = { "device", "address", "driver", "method" };
    JsonArray *array = json_array_new();
    for (char **text = info->suspended; text != NULL && *text != NULL; text++) {
        g_auto(GStrv) words = g_strsplit(*text, " ", G_N_ELEMENTS(names));
        JsonObject *object = json_object_new();
        for (guint i = 0; i < G_N_ELEMENTS(names); i++)
            cli_json_set_string(object, names[i], i < g_strv_length(words) ? words[i] : NULL);
        json_array_add_object_element(array, object);
    }
    return array;
}

JsonObject *cli_image_to_json(const StasisImageInfo *info)
{
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "id", info->id);
    cli_json_set_string(object, "parent", info->parent);
    cli_json_set_string(object, "digest", info->digest);
    cli_json_set_string(object, "vm", info->vm);
    cli_json_set_string(object, "note", info->note);
    json_object_set_boolean_member(object, "by_policy", info->by_policy);
    cli_json_set_string(object, "mode", info->mode);
    cli_json_set_string(object, "machine", info->machine);
    cli_json_set_string(object, "accel", info->accel);
    cli_json_set_string(object, "qemu_version", info->qemu_version);
    json_object_set_int_member(object, "created_us", info->created_us);
    cli_json_set_string(object, "kind", "vm");
    cli_json_set_uint(object, "ram_bytes", info->ram_bytes);
    cli_json_set_uint(object, "data_pages", info->data_pages);
    cli_json_set_uint(object, "zero_pages", info->zero_pages);
    cli_json_set_uint(object, "n_disks", info->n_disks);
    cli_json_set_uint(object, "disk_bytes", info->disk_bytes);
    cli_json_set_uint(object, "disk_data_pages", info->disk_data_pages);
    cli_json_set_uint(object, "disk_zero_pages", info->disk_zero_pages);
    cli_json_set_uint(object, "stored_bytes", info->stored_bytes);
    cli_json_set_uint(object, "n_vcpus", info->n_vcpus);
    json_object_set_boolean_member(object, "paused", info->paused);
    json_object_set_boolean_member(object, "quiesced", info->quiesced);
    json_object_set_boolean_member(object, "disks_refer", info->disks_refer);
    json_object_set_array_member(object, "suspended", suspended_to_json(info));
    cli_json_set_string(object, "encrypted_with", info->encrypted_with);
    cli_json_set_string(object, "signed_by", info->signed_by);
    json_object_set_boolean_member(object, "encryption_checked", info->encryption_checked);
    json_object_set_boolean_member(object, "signature_checked", info->signature_checked);
    json_object_set_object_member(object, "cost", cost_to_json(&info->cost));
    return object;
}

G_GNUC_PRINTF(3, 4)
static void add_line(CliTable *table, const char *key, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    g_autofree char *value = g_strdup_vprintf(format, ap);
    va_end(ap);
    cli_table_add(table, key, value);
}

static void add_cost(CliTable *table, const StasisCost *cost)
{
    g_autofree char *pause = cli_format_us(cost->pause_us);
    g_autofree char *device = cli_format_us(cost->device_us);
    g_autofree char *stall = cli_format_us(cost->worst_stall_us);
    g_autofree char *total = cli_format_us(cost->total_us);
    g_autofree char *copied = cli_format_bytes(cost->copied_bytes);
    if (cost->disk_us > 0) {
        g_autofree char *disks = cli_format_us(cost->disk_us);
        add_line(table, "Pause:", "%s, of it %s for the devices and %s for the disks", pause,
                 device, disks);
    } else {
        add_line(table, "Pause:", "%s, of it %s for the devices", pause, device);
    }
    add_line(table, "Residual:",
             "%" G_GUINT64_FORMAT " pages, of them %" G_GUINT64_FORMAT
             " protected and copied after the pause",
             cost->residual_pages, cost->protected_pages);
    add_line(table, "Writes that waited:", "%" G_GUINT64_FORMAT ", at most %s", cost->faults,
             stall);
    add_line(table, "Copied:", "%s in %u rounds before the pause, and in it or after", copied,
             cost->rounds);
    add_line(table, "Took:", "%s", total);
    if (cost->deadlines_counted)
        add_line(table, "Deadlines missed:", "%" G_GUINT64_FORMAT " meanwhile, as the guest counts",
                 cost->missed_deadlines);
}

void cli_add_seal(CliTable *table, const char *label, const char *key, gboolean checked)
{
    if (key != NULL)
        add_line(table, label, "with key %s%s", key,
                 checked ? ", checked" : ", not checked: its key is not there");
}

void cli_print_image(const StasisImageInfo *info)
{
    g_autofree char *created = cli_format_time(info->created_us);
    g_autofree char *ram = cli_format_bytes(info->ram_bytes);
    g_autofree char *stored = cli_format_bytes(info->stored_bytes);
    g_autoptr(CliTable) table = cli_table_new("ll");
    cli_table_add(table, "ID:", info->id);
    cli_table_add(table, "VM:", info->vm);
    cli_table_add(table, "Created:", created);
    if (info->note != NULL)
        cli_table_add(table, "Note:", info->note);
    if (info->parent != NULL)
        add_line(table, "Kind:", "incremental to %s", info->parent);
    else if (info->ram_bytes == 0)
        add_line(table, "Kind:", "devices only, no memory (device-restore)");
    else
        add_line(table, "Kind:", "full");
    cli_table_add(table, "Mode:", info->mode);
    add_line(table, "Machine:", "%s under %s, QEMU %s, %u vCPU%s, %s when the image was taken",
             info->machine, info->accel, info->qemu_version, info->n_vcpus,
             info->n_vcpus == 1 ? "" : "s", info->paused ? "paused" : "running");
    if (info->quiesced) {
        g_autofree char *frozen = cli_format_us(info->cost.frozen_us);
        add_line(table, "Quiesced:", "yes: the guest's file systems were frozen, for %s", frozen);
    }
    for (char **device = info->suspended; device != NULL && *device != NULL; device++) {
        g_autofree char *shown = cli_printable(*device);
        add_line(table, "Suspended:", "%s", shown);
    }
    cli_add_seal(table, "Encrypted:", info->encrypted_with, info->encryption_checked);
    cli_add_seal(table, "Signed:", info->signed_by, info->signature_checked);
    cli_table_add(table, "RAM:", ram);
    add_line(table, "Stored:",
             "%s: %" G_GUINT64_FORMAT " pages with data; %" G_GUINT64_FORMAT " known to be zero",
             stored, info->data_pages, info->zero_pages);
    add_cost(table, &info->cost);
    cli_table_add(table, "Digest:", info->digest);
    cli_table_print(table, 0);
}

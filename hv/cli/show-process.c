/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images of processes, as people and programs see them. */
#include <stdio.h>

#include "image.h"
#include "output.h"
#include "table.h"

#define SHOWN_ID 13 /* characters of an ID in a list */

static JsonArray *processes_to_json(const GPtrArray *processes)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < processes->len; i++) {
        const StasisImageProcess *process = processes->pdata[i];
        JsonObject *object = json_object_new();
        cli_json_set_uint(object, "pid", process->pid);
        cli_json_set_uint(object, "ppid", process->ppid);
        cli_json_set_uint(object, "start", process->start);
        cli_json_set_string(object, "name", process->name);
        json_array_add_object_element(array, object);
    }
    return array;
}

JsonObject *cli_process_image_to_json(const StasisProcessImageInfo *info)
{
    JsonObject *object = json_object_new(), *cost = json_object_new();
    cli_json_set_string(object, "kind", "processes");
    cli_json_set_string(object, "id", info->id);
    cli_json_set_string(object, "digest", info->digest);
    cli_json_set_string(object, "vm", info->vm);
    cli_json_set_string(object, "parent", info->parent);
    cli_json_set_string(object, "note", info->note);
    cli_json_set_string(object, "criu", info->criu);
    cli_json_set_string(object, "kernel", info->kernel);
    json_object_set_int_member(object, "created_us", info->created_us);
    json_object_set_boolean_member(object, "shell_job", info->shell_job);
    json_object_set_boolean_member(object, "direct", info->direct);
    json_object_set_boolean_member(object, "session", info->session);
    json_object_set_boolean_member(object, "by_policy", info->by_policy);
    cli_json_set_uint(object, "n_trees", info->n_trees);
    cli_json_set_uint(object, "n_files", info->n_files);
    cli_json_set_uint(object, "size_bytes", info->size_bytes);
    cli_json_set_uint(object, "stored_bytes", info->stored_bytes);
    cli_json_set_string(object, "encrypted_with", info->encrypted_with);
    cli_json_set_string(object, "signed_by", info->signed_by);
    json_object_set_boolean_member(object, "encryption_checked", info->encryption_checked);
    json_object_set_boolean_member(object, "signature_checked", info->signature_checked);
    json_object_set_array_member(object, "processes", processes_to_json(info->processes));
    cli_json_set_uint(cost, "pause_us", info->cost.pause_us);
    cli_json_set_uint(cost, "image_us", info->cost.image_us);
    cli_json_set_uint(cost, "fork_us", info->cost.fork_us);
    cli_json_set_uint(cost, "dump_us", info->cost.dump_us);
    cli_json_set_uint(cost, "total_us", info->cost.total_us);
    json_object_set_object_member(object, "cost", cost);
    return object;
}

void cli_print_process_images(const GPtrArray *images)
{
    if (images->len == 0)
        return;
    puts("\nProcesses:");
    g_autoptr(CliTable) table = cli_table_new("lllrrrll");
    cli_table_add(table, "ID", "VM", "CREATED", "NUMBER", "PAUSE", "STORED", "FIRST", "NOTE");
    for (guint i = 0; i < images->len; i++) {
        const StasisProcessImageInfo *info = images->pdata[i];
        const StasisImageProcess *root = info->processes->pdata[info->n_trees > 1];
        g_autofree char *id = g_strdup_printf("%.*s", SHOWN_ID, info->id);
        g_autofree char *created = cli_format_time(info->created_us);
        g_autofree char *number = g_strdup_printf("%u", info->processes->len - (info->n_trees > 1));
        g_autofree char *pause = cli_format_us(info->cost.pause_us);
        g_autofree char *stored = cli_format_bytes(info->stored_bytes);
        g_autofree char *name = cli_printable(root->name);
        g_autofree char *first = g_strdup_printf("%s (%u)", name, root->pid);
        cli_table_add(table, id, info->vm, created, number, pause, stored, first, info->note);
    }
    cli_table_print(table, 0);
}

static void print_processes(const GPtrArray *processes)
{
    puts("\nProcesses:");
    g_autoptr(CliTable) table = cli_table_new("rrl");
    cli_table_add(table, "PID", "PARENT", "NAME");
    for (guint i = 0; i < processes->len; i++) {
        const StasisImageProcess *process = processes->pdata[i];
        g_autofree char *pid = g_strdup_printf("%u", process->pid);
        g_autofree char *ppid = g_strdup_printf("%u", process->ppid);
        g_autofree char *name = cli_printable(process->name);
        cli_table_add(table, pid, ppid, name);
    }
    cli_table_print(table, 2);
}

void cli_print_process_image(const StasisProcessImageInfo *info)
{
    g_autofree char *created = cli_format_time(info->created_us);
    g_autofree char *bytes = cli_format_bytes(info->stored_bytes);
    g_autofree char *stored = g_strdup_printf("%s in %u files", bytes, info->n_files);
    g_autofree char *pause = cli_format_us(info->cost.pause_us);
    g_autofree char *fork = cli_format_us(info->cost.fork_us);
    g_autofree char *dump = cli_format_us(info->cost.dump_us);
    g_autofree char *total = cli_format_us(info->cost.total_us);
    g_autofree char *took =
        info->direct ? g_strdup_printf("%s, of it %s for CRIU's work in the VM itself", total, dump)
                     : g_strdup_printf("%s, of it %s for the fork and %s for CRIU's work", total,
                                       fork, dump);
    g_autofree char *kernel = cli_printable(info->kernel);
    g_autofree char *criu = cli_printable(info->criu);
    g_autoptr(CliTable) table = cli_table_new("ll");
    cli_table_add(table, "ID:", info->id);
    cli_table_add(table, "VM:", info->vm);
    cli_table_add(table, "Created:", created);
    if (info->note != NULL)
        cli_table_add(table, "Note:", info->note);
    cli_table_add(table, "Kind:", "processes");
    cli_table_add(table, "CRIU:", criu);
    cli_table_add(table, "Kernel:", kernel);
    cli_add_seal(table, "Encrypted:", info->encrypted_with, info->encryption_checked);
    cli_add_seal(table, "Signed:", info->signed_by, info->signature_checked);
    cli_table_add(table, "Stored:", stored);
    cli_table_add(table, "Pause:", pause);
    cli_table_add(table, "Took:", took);
    cli_table_add(table, "Digest:", info->digest);
    cli_table_print(table, 0);
    print_processes(info->processes);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdio.h>

#include "output.h"
#include "table.h"

static const CliArgument name_only[] = {
    { "NAME", CLI_ONE, CLI_VM, "name of the VM" },
    { NULL },
};

static JsonObject *vm_to_json(const StasisVmInfo *info)
{
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "name", info->name);
    json_object_set_int_member(object, "pid", info->pid);
    cli_json_set_string(object, "state", info->state);
    cli_json_set_string(object, "accel", info->accel);
    cli_json_set_string(object, "accel_reason", info->accel_reason);
    cli_json_set_string(object, "machine", info->machine);
    cli_json_set_string(object, "qemu_version", info->qemu_version);
    cli_json_set_uint(object, "n_vcpus", info->n_vcpus);
    cli_json_set_uint(object, "ram_bytes", info->ram_bytes);
    cli_json_set_string(object, "qmp_path", info->qmp_path);
    cli_json_set_string(object, "connect", info->connect);
    cli_json_set_string(object, "domain", info->domain);
    cli_json_set_string(object, "uuid", info->uuid);
    cli_json_set_string(object, "console_path", info->console_path);
    cli_json_set_string(object, "tracker", info->tracker);
    cli_json_set_string(object, "kvm_log", info->kvm_log);
    cli_json_set_string(object, "kvm_log_missing", info->kvm_log_missing);
    cli_json_set_string(object, "tracked_since", info->tracked_since);
    cli_json_set_string(object, "disk_dir", info->disk_dir);
    cli_json_set_string(object, "rolling_back_to", info->rolling_back_to);
    json_object_set_boolean_member(object, "loading", info->loading);
    json_object_set_boolean_member(object, "prepared", info->prepared);
    JsonArray *blocks = json_array_new();
    for (guint i = 0; i < info->n_blocks; i++) {
        JsonObject *block = json_object_new();
        cli_json_set_string(block, "name", info->blocks[i].name);
        cli_json_set_uint(block, "size_bytes", info->blocks[i].size_bytes);
        cli_json_set_uint(block, "page_bytes", info->blocks[i].page_bytes);
        cli_json_set_string(block, "backing", info->blocks[i].backing);
        json_array_add_object_element(blocks, block);
    }
    json_object_set_array_member(object, "blocks", blocks);
    return object;
}

gboolean cli_show_started(CliCall *call, StasisVm *vm, GError **error)
{
    const char *name = stasis_vm_get_name(vm);
    if (!call->json) {
        g_autofree char *shown = cli_printable(name);
        puts(shown);
        return TRUE;
    }
    /* The VM is there whatever its description says: a failure to get that is no failure. */
    g_autoptr(StasisVmInfo) info = stasis_vm_get_info(vm, NULL);
    JsonObject *object = info != NULL ? vm_to_json(info) : json_object_new();
    cli_json_set_string(object, "name", name);
    cli_take_object(call, object);
    return TRUE;
}

/* "tcg (why)"; NULL when not known. */
static char *describe_accel(const StasisVmInfo *info)
{
    if (info->accel == NULL || info->accel_reason == NULL)
        return g_strdup(info->accel);
    /* A reason that names the accelerator itself stands alone. */
    if (g_str_has_prefix(info->accel_reason, info->accel))
        return g_strdup(info->accel_reason);
    return g_strdup_printf("%s: %s", info->accel, info->accel_reason);
}

/* What makes a bare VM known says nothing of libvirt's. */
static gboolean check_bare(CliCall *call, const char *instead, GError **error)
{
    if (cli_text(call, "connect") == NULL)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "%s is for VMs without libvirt; %s",
                call->command->name, instead);
    return FALSE;
}

static gboolean run(CliCall *call, GError **error)
{
    if (!check_bare(call, "virsh start starts a domain, stasis prepare prepares it", error))
        return FALSE;
    StasisRunOptions options = STASIS_RUN_OPTIONS_INIT;
    options.accel = cli_text(call, "accel");
    options.paused = cli_flag(call, "paused");
    options.no_shim = cli_flag(call, "no-shim");
    options.agent = cli_flag(call, "agent");
    g_autoptr(StasisVm) vm = stasis_vm_run(
        call->args[0], &options, (const char *const *)call->args + 1, call->cancellable, error);
    if (vm == NULL)
        return FALSE;
    g_autoptr(StasisVmInfo) info = stasis_vm_get_info(vm, NULL);
    g_autofree char *accel = info != NULL ? describe_accel(info) : NULL;
    if (accel != NULL)
        cli_note(call, "%s: accelerator %s", info->name, accel);
    return cli_show_started(call, vm, error);
}

static gboolean attach(CliCall *call, GError **error)
{
    if (!check_bare(call, "with --connect every domain is known already", error))
        return FALSE;
    g_autoptr(StasisVm) vm =
        stasis_vm_attach(call->args[0], cli_text(call, "qmp"), call->cancellable, error);
    return vm != NULL && cli_show_started(call, vm, error);
}

/* What --json shows of a command that leaves nothing to tell: the VM's name. */
static gboolean done_with(CliCall *call)
{
    if (!call->json)
        return TRUE;
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "name", call->args[0]);
    cli_take_object(call, object);
    return TRUE;
}

static gboolean detach(CliCall *call, GError **error)
{
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    return vm != NULL && stasis_vm_detach(vm, call->cancellable, error) && done_with(call);
}

static gboolean pause_vm(CliCall *call, GError **error)
{
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    return vm != NULL && stasis_vm_pause(vm, error) && done_with(call);
}

static gboolean resume_vm(CliCall *call, GError **error)
{
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    return vm != NULL && stasis_vm_resume(vm, error) && done_with(call);
}

static gboolean kill_vm(CliCall *call, GError **error)
{
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    if (vm == NULL)
        return FALSE;
    return (cli_flag(call, "remove-disks") ? stasis_vm_kill_with_disks : stasis_vm_kill)(vm,
                                                                                         error) &&
           done_with(call);
}

static gboolean list(CliCall *call, GError **error)
{
    const char *uri = cli_connection(call);
    g_autoptr(GPtrArray) vms =
        uri != NULL ? stasis_vm_list_domains(uri, error) : stasis_vm_list(error);
    if (vms == NULL)
        return FALSE;
    g_autoptr(CliTable) table = cli_table_new("lrlllrrl");
    JsonArray *array = call->json ? json_array_new() : NULL;
    cli_table_add(table, "NAME", "PID", "STATE", "ACCEL", "MACHINE", "VCPUS", "RAM", "TRACKER");
    for (guint i = 0; i < vms->len; i++) {
        const StasisVmInfo *info = vms->pdata[i];
        if (array != NULL) {
            json_array_add_object_element(array, vm_to_json(info));
            continue;
        }
        g_autofree char *pid = info->pid > 0 ? g_strdup_printf("%d", (int)info->pid) : NULL;
        g_autofree char *vcpus = info->n_vcpus > 0 ? g_strdup_printf("%u", info->n_vcpus) : NULL;
        g_autofree char *ram = info->ram_bytes > 0 ? cli_format_bytes(info->ram_bytes) : NULL;
        cli_table_add(table, info->name, pid, info->state, info->accel, info->machine, vcpus, ram,
                      info->tracker);
    }
    if (array != NULL)
        cli_take_array(call, array);
    else
        cli_table_print(table, 0);
    return TRUE;
}

static void show_blocks(const StasisVmInfo *info)
{
    if (info->n_blocks == 0)
        return;
    puts("\nRAM blocks:");
    g_autoptr(CliTable) table = cli_table_new("lrrl");
    cli_table_add(table, "NAME", "SIZE", "PAGE", "BACKING");
    for (guint i = 0; i < info->n_blocks; i++) {
        const StasisRamBlockInfo *block = &info->blocks[i];
        g_autofree char *size = cli_format_bytes(block->size_bytes);
        g_autofree char *page = cli_format_bytes(block->page_bytes);
        cli_table_add(table, block->name, size, page, block->backing);
    }
    cli_table_print(table, 2);
}

static void add_if(CliTable *table, const char *key, const char *value)
{
    if (value != NULL)
        cli_table_add(table, key, value);
}

static gboolean info_vm(CliCall *call, GError **error)
{
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    g_autoptr(StasisVmInfo) info = vm != NULL ? stasis_vm_get_info(vm, error) : NULL;
    if (info == NULL)
        return FALSE;
    if (call->json) {
        cli_take_object(call, vm_to_json(info));
        return TRUE;
    }
    g_autofree char *pid = g_strdup_printf("%d", (int)info->pid);
    g_autofree char *vcpus = g_strdup_printf("%u", info->n_vcpus);
    g_autofree char *ram = cli_format_bytes(info->ram_bytes);
    g_autofree char *accel = describe_accel(info);
    g_autoptr(CliTable) table = cli_table_new("ll");
    cli_table_add(table, "Name:", info->name);
    g_autofree char *half = NULL;
    if (info->rolling_back_to != NULL)
        half = g_strdup_printf("half rolled back to %s; `stasis rollback %s` completes it",
                               info->rolling_back_to, info->name);
    add_if(table, "State:", half != NULL ? half : info->state);
    cli_table_add(table, "PID:", pid);
    add_if(table, "Accelerator:", accel);
    add_if(table, "Machine:", info->machine);
    add_if(table, "QEMU:", info->qemu_version);
    cli_table_add(table, "vCPUs:", vcpus);
    cli_table_add(table, "RAM:", ram);
    cli_table_add(table, "RAM in place:", info->loading ? "no, loading on demand" : "all");
    cli_table_add(table, "Started by:",
                  info->connect != NULL ? "libvirt"
                  : info->prepared      ? "stasis"
                                        : "others, attached");
    add_if(table, "Connection:", info->connect);
    if (g_strcmp0(info->domain, info->name) != 0)
        add_if(table, "Domain:", info->domain);
    add_if(table, "UUID:", info->uuid);
    g_autofree char *kind = NULL;
    if (info->kvm_log != NULL && g_strcmp0(info->tracker, "kvm-log") == 0)
        kind = g_strdup_printf("%s (%s)", info->tracker, info->kvm_log);
    add_if(table, "Tracker:", kind != NULL ? kind : info->tracker);
    add_if(table, "No KVM log:", info->kvm_log_missing);
    add_if(table, "Tracked since:", info->tracked_since);
    add_if(table, "QMP socket:", info->qmp_path);
    add_if(table, "Console log:", info->console_path);
    add_if(table, "Disks:", info->disk_dir);
    cli_table_print(table, 0);
    show_blocks(info);
    return TRUE;
}

static const CliArgument run_arguments[] = {
    { "NAME", CLI_ONE, CLI_TEXT, "name to know the VM by: letters, digits and ._-" },
    { "QEMU", CLI_BEHIND, CLI_ARGV, "the QEMU system emulator and its options" },
    { NULL },
};
static const CliOption run_options[] = {
    { "accel", 0, CLI_CHOICE, "auto|kvm|tcg",
      "accelerator (default: auto, KVM where it runs this guest)" },
    { "paused", 0, CLI_FLAG, NULL, "leave the machine paused at its first instruction" },
    { "agent", 0, CLI_FLAG, NULL, "give the machine a port to the agent in the guest" },
    { "no-shim", 0, CLI_FLAG, NULL, "preload nothing into QEMU: no tracking by KVM's own log" },
    { NULL },
};
static const CliExample run_examples[] = {
    { "run vm1 -- qemu-system-x86_64 -m 1G -kernel vmlinuz -append console=ttyS0",
      "Boot a kernel; its console goes to the log that `stasis console vm1` shows" },
    { NULL },
};
const CliCommand cli_cmd_run = {
    .group = "vm",
    .name = "run",
    .summary = "start QEMU prepared for checkpoints",
    .description =
        "Start the QEMU command line behind \"--\" in the background as VM NAME, with what "
        "checkpoints need: a QMP socket, RAM in a memfd, an accelerator that works here, and the "
        "console's output in a file unless the command line uses the serial port itself. What "
        "the command line says itself is kept. Prints the name, and on stderr which accelerator "
        "was taken and why.",
    .arguments = run_arguments,
    .options = run_options,
    .examples = run_examples,
    .handler = run,
};

static const CliArgument attach_arguments[] = {
    { "NAME", CLI_ONE, CLI_TEXT, "name to know the VM by: letters, digits and ._-" },
    { NULL },
};
static const CliOption attach_options[] = {
    { "qmp", 0, CLI_FILE, "SOCKET", "QMP socket of the QEMU, with no other client connected",
      .required = TRUE },
    { NULL },
};
static const CliExample attach_examples[] = {
    { "attach db --qmp /run/vm/db.qmp",
      "Adopt a QEMU that was started with -qmp unix:/run/vm/db.qmp,server=on,wait=off" },
    { NULL },
};
const CliCommand cli_cmd_attach = {
    .group = "vm",
    .name = "attach",
    .summary = "adopt a running QEMU by its QMP socket",
    .description =
        "Make a QEMU that is already running known as NAME. It need not be prepared in any way, "
        "and may run as another user and sandboxed. One whose memory can't be followed (VFIO, "
        "vhost-user, memory encryption) is refused by name before anything is touched.",
    .arguments = attach_arguments,
    .options = attach_options,
    .examples = attach_examples,
    .handler = attach,
};

static const CliExample detach_examples[] = {
    { "detach db", "Let go of an adopted QEMU" },
    { NULL },
};
const CliCommand cli_cmd_detach = {
    .group = "vm",
    .name = "detach",
    .summary = "forget a VM and leave its QEMU running",
    .description = "Take back everything that was put into the QEMU process (descriptors, write "
                   "protection), and forget the name. The machine runs on.",
    .arguments = name_only,
    .examples = detach_examples,
    .handler = detach,
};

static const CliExample list_examples[] = {
    { "list", "Every VM known on this host" },
    { NULL },
};
const CliCommand cli_cmd_list = {
    .group = "vm",
    .name = "list",
    .summary = "list the VMs known on this host",
    .description = "List every VM that is known by name on this host. One whose QEMU ended is "
                   "listed once as \"gone\" and then forgotten.",
    .examples = list_examples,
    .handler = list,
};

static const CliExample info_examples[] = {
    { "info vm1", "State, accelerator, sockets and RAM blocks" },
    { NULL },
};
const CliCommand cli_cmd_info = {
    .group = "vm",
    .name = "info",
    .summary = "describe a VM and its RAM blocks",
    .description = "Show a VM's state, machine, accelerator and why it was taken, dirty tracker, "
                   "sockets, and every RAM block with its size and backing.",
    .arguments = name_only,
    .examples = info_examples,
    .handler = info_vm,
};

static const CliExample pause_examples[] = {
    { "pause vm1", "Stop the virtual CPUs" },
    { NULL },
};
const CliCommand cli_cmd_pause = {
    .group = "vm",
    .name = "pause",
    .summary = "stop a VM's virtual CPUs",
    .description = "Stop the machine where it is. A paused VM can be checkpointed, and stays "
                   "paused.",
    .arguments = name_only,
    .examples = pause_examples,
    .handler = pause_vm,
};

static const CliExample resume_examples[] = {
    { "resume vm1", "Let it run again" },
    { NULL },
};
const CliCommand cli_cmd_resume = {
    .group = "vm",
    .name = "resume",
    .summary = "let a paused VM run",
    .description = "Start the virtual CPUs of a VM that was paused, or that was started or "
                   "restored with --paused.",
    .arguments = name_only,
    .examples = resume_examples,
    .handler = resume_vm,
};

static const CliOption kill_options[] = {
    { "remove-disks", 0, CLI_FLAG, NULL,
      "also remove the disks that restore made for it (a clone's are removed in any case)" },
    { NULL },
};
static const CliExample kill_examples[] = {
    { "kill vm1", "End it as if its power was cut" },
    { NULL },
};
const CliCommand cli_cmd_kill = {
    .group = "vm",
    .name = "kill",
    .summary = "end a VM's QEMU process",
    .description = "Send SIGTERM to the QEMU process, SIGKILL after 5 seconds, and forget the "
                   "VM. The guest is not asked to shut down. Its images stay, and so do its disks.",
    .arguments = name_only,
    .options = kill_options,
    .examples = kill_examples,
    .handler = kill_vm,
};

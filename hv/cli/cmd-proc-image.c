/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images of processes: taking, restoring, exporting; showing them is in show-process.c. */
#include <stdio.h>
#include <unistd.h>

#include "image.h"
#include "output.h"
#include "proc.h"
#include "progress.h"

/* ---- checkpoint ---- */

#define MAX_BOUNDARY_MS 60000u

static void describe_cost(CliCall *call, const StasisProcessImageInfo *info)
{
    g_autofree char *pause = cli_format_us(info->cost.pause_us);
    g_autofree char *image = cli_format_us(info->cost.image_us);
    g_autofree char *fork = cli_format_us(info->cost.fork_us);
    g_autofree char *dump = cli_format_us(info->cost.dump_us);
    g_autofree char *total = cli_format_us(info->cost.total_us);
    g_autofree char *stored = cli_format_bytes(info->stored_bytes);
    if (info->direct) {
        cli_note(call, "%u process%s, %s in %u files; they stood still for %s; CRIU %s, %s in all",
                 info->processes->len, info->processes->len == 1 ? "" : "es", stored, info->n_files,
                 pause, dump, total);
        return;
    }
    cli_note(call,
             "%u process%s, %s in %u files; pause %s; image of the VM %s, fork %s, CRIU %s, %s in "
             "all",
             info->processes->len, info->processes->len == 1 ? "" : "es", stored, info->n_files,
             pause, image, fork, dump, total);
}

/* What would be taken, and nothing else. */
static gboolean show_plan(CliCall *call, const StasisGuestBoundary *boundary)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < boundary->n_members; i++) {
        const StasisGuestProcess *process = &boundary->processes[i];
        JsonObject *object = json_object_new();
        cli_process_to_json(object, process);
        json_array_add_object_element(array, object);
        if (!call->json)
            printf("%u\t%s\n", process->pid, process->comm);
    }
    cli_take_array(call, array);
    cli_boundary_note_counting(call, boundary);
    return TRUE;
}

static gboolean take(CliCall *call, StasisVm *vm, StasisProcessCheckpointOptions *options,
                     GError **error)
{
    CliProgress progress = cli_progress_new(call);
    options->progress = cli_progress_show;
    options->progress_data = &progress;
    g_autoptr(StasisStore) store = cli_open_store(call, STASIS_STORE_CREATE, error);
    g_autoptr(StasisProcessImageInfo) info =
        store != NULL ? stasis_process_checkpoint(vm, store, options, call->cancellable, error)
                      : NULL;
    cli_progress_end(&progress);
    if (info == NULL)
        return FALSE;
    if (call->json)
        cli_take_object(call, cli_process_image_to_json(info));
    else
        puts(info->id);
    if (isatty(STDERR_FILENO) || cli_flag(call, "verbose"))
        describe_cost(call, info);
    return TRUE;
}

static gboolean checkpoint(CliCall *call, GError **error)
{
    CliBoundary asked;
    StasisProcessCheckpointOptions options = STASIS_PROCESS_CHECKPOINT_OPTIONS_INIT;
    cli_boundary_init(&asked, call);
    options.boundary = &asked.options;
    options.note = cli_text(call, "note");
    options.scratch = cli_text(call, "scratch");
    options.direct = cli_flag(call, "direct");
    options.incremental = cli_flag(call, "incremental");
    options.max_bytes = cli_number(call, "max-size", 0);
    options.timeout_ms = (guint)((cli_number(call, "timeout", 0) + 999) / 1000);
    asked.options.timeout_ms = MIN(options.timeout_ms, MAX_BOUNDARY_MS);
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    g_autoptr(StasisGuestBoundary) plan = NULL;
    if (vm != NULL && cli_flag(call, "dry-run"))
        plan = stasis_process_checkpoint_plan(vm, &options, call->cancellable, error);
    gboolean ok = cli_flag(call, "dry-run") ? plan != NULL && show_plan(call, plan)
                                            : vm != NULL && take(call, vm, &options, error);
    cli_boundary_clear(&asked);
    return ok;
}

/* ---- restore ---- */

static gboolean restore(CliCall *call, GError **error)
{
    CliProgress progress = cli_progress_new(call);
    StasisProcessRestoreOptions options = STASIS_PROCESS_RESTORE_OPTIONS_INIT;
    options.replace = cli_flag(call, "replace");
    options.timeout_ms = (guint)((cli_number(call, "timeout", 0) + 999) / 1000);
    options.progress = cli_progress_show;
    options.progress_data = &progress;
    g_autoptr(StasisStore) store = cli_open_store(call, STASIS_STORE_EXISTING, error);
    g_autofree char *id =
        store != NULL ? stasis_store_resolve_process(store, call->args[0], error) : NULL;
    g_autoptr(StasisProcessImageInfo) info =
        id != NULL ? stasis_store_get_process(store, id, error) : NULL;
    if (info == NULL)
        return FALSE;
    const char *name = cli_text(call, "domain");
    g_autoptr(StasisVm) vm = cli_open_vm(call, name != NULL ? name : info->vm, error);
    guint pid = 0;
    gboolean ok = vm != NULL &&
                  stasis_process_restore(store, id, vm, &options, &pid, call->cancellable, error);
    cli_progress_end(&progress);
    if (!ok)
        return FALSE;
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "id", id);
    cli_json_set_string(object, "name", stasis_vm_get_name(vm));
    cli_json_set_uint(object, "pid", pid);
    cli_json_set_uint(object, "n_processes", info->processes->len - (info->n_trees > 1));
    cli_take_object(call, object);
    if (!call->json)
        printf("%u\n", pid);
    return TRUE;
}

/* ---- export ---- */

static gboolean export_criu(CliCall *call, GError **error)
{
    CliProgress progress = cli_progress_new(call);
    g_autoptr(StasisStore) store = cli_open_store(call, STASIS_STORE_EXISTING, error);
    g_autofree char *id =
        store != NULL ? stasis_store_resolve_process(store, call->args[0], error) : NULL;
    g_autofree char *command = NULL;
    gboolean ok =
        id != NULL && stasis_process_export(store, id, call->args[1], &command, cli_progress_show,
                                            &progress, call->cancellable, error);
    cli_progress_end(&progress);
    if (!ok)
        return FALSE;
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "id", id);
    cli_json_set_string(object, "format", "criu");
    cli_json_set_string(object, "directory", call->args[1]);
    cli_json_set_string(object, "command", command);
    cli_take_object(call, object);
    cli_note(call, "restored by: %s", command);
    return TRUE;
}

/* ---- table ---- */

static const CliArgument checkpoint_arguments[] = {
    { "NAME", CLI_ONE, CLI_VM, "name of the VM" },
    { NULL },
};
static const CliOption checkpoint_options[] = {
    { "pid", 0, CLI_COUNT, "PID", "a process, by its ID in the guest", .many = TRUE },
    { "unit", 0, CLI_TEXT, "UNIT", "all processes of that systemd unit (\"cron.service\")" },
    { "cgroup", 0, CLI_TEXT, "CGROUP", "all processes in that control group (\"/a/b\") and below" },
    { "cut", 0, CLI_TEXT, "EDGE", "leave that out, as with proc-graph", .many = TRUE },
    { "boundary", 0, CLI_CHOICE, "closure|tree|talked",
      "all that belongs together (default); or those asked for and their descendants, all that can "
      "be cut being cut; or without those that share something but said nothing over it since "
      "their last checkpoint (proc-graph tells more)" },
    { "dry-run", 0, CLI_FLAG, NULL, "say what would be taken, or why not, and take nothing" },
    { "incremental", 0, CLI_FLAG, NULL,
      "store only those pages of memory that the newest image of these processes does not have" },
    { "note", 0, CLI_TEXT, "TEXT", "description to keep in the image" },
    { "direct", 0, CLI_FLAG, NULL,
      "no fork: CRIU works in the VM itself, and the processes stand still meanwhile, which takes "
      "the longer the more memory they have; for one tree, without TCP connections and POSIX "
      "message queues" },
    { "scratch", 0, CLI_DIR, "DIR",
      "where the VM's image is kept, not encrypted, while its fork lives (default: the runtime "
      "directory, in memory; with an encrypted store below /dev/shm)" },
    { "max-size", 0, CLI_SIZE, "SIZE",
      "refuse an image larger than that (default: the RAM of the VM and 1G)" },
    { "timeout", 0, CLI_MS, "MS",
      "give up when a step in the guest takes longer; CRIU and the image's way out are the longest "
      "(default and at most 600000)" },
    { NULL },
};
static const CliExample checkpoint_examples[] = {
    { "proc-checkpoint web --pid 812", "Process 812 of the guest and all that belongs to it" },
    { "proc-checkpoint web --pid 812 --direct", "The same on a host without memory for a fork" },
    { "proc-checkpoint web --unit cron.service --dry-run", "Could it be taken, and with whom?" },
    { NULL },
};
const CliCommand cli_cmd_proc_checkpoint = {
    .group = "process",
    .name = "proc-checkpoint",
    .summary = "take an image of processes in a guest",
    .description =
        "Take an image of processes in the guest, and of all that belongs to them (as proc-graph "
        "shows it), and print its ID. They may be several trees. What can't be taken is refused, "
        "with exit status 4 and three lines, before anything is stopped.\n\n"
        "The VM stops for the few milliseconds of a checkpoint, and the processes with it; CRIU, "
        "the guest's own, works in a fork of the VM, which has no network and is thrown away "
        "whatever happens. The guest has to run stasis-agent and to have CRIU. Disks are not "
        "copied: the fork reads what it needs of them as of that instant, from the VM, and writes "
        "nothing there; checkpoints and rollbacks of the VM have to wait meanwhile. A libvirt "
        "domain's fork is no domain, and runs as the domain's user.\n\n"
        "With --direct there is no fork, and the VM does not stop; how long the processes stood "
        "still is told as the pause. That is for one tree without TCP connections and POSIX "
        "message "
        "queues, and their files on tmpfs stay where they are.\n\n"
        "The image is a directory that stock CRIU restores, with a manifest of ours. It is no "
        "part of the chain of the VM's own images, which goes on as if nothing had been.",
    .arguments = checkpoint_arguments,
    .options = checkpoint_options,
    .examples = checkpoint_examples,
    .handler = checkpoint,
};

static const CliArgument restore_arguments[] = {
    { "ID", CLI_ONE, CLI_PROC_IMAGE, "image of processes: its ID, a prefix of it, or \"latest\"" },
    { NULL },
};
static const CliOption restore_options[] = {
    { "domain", 0, CLI_VM, "NAME", "the VM to restore them in (default: the one they are of)" },
    { "replace", 0, CLI_FLAG, NULL,
      "if they still run there, end them first, and whom they have started since; and replace "
      "their files on tmpfs and their message queues" },
    { "timeout", 0, CLI_MS, "MS",
      "give up after that (default 600000); what the guest has been asked for by then it goes on "
      "with" },
    { NULL },
};
static const CliExample restore_examples[] = {
    { "proc-restore latest --replace", "Take processes back to where they were" },
    { "proc-restore 01jq4z7k2m --domain other", "Let them go on in another VM" },
    { NULL },
};
const CliCommand cli_cmd_proc_restore = {
    .group = "process",
    .name = "proc-restore",
    .summary = "restore processes in a guest",
    .description =
        "Send an image of processes into a running VM and have CRIU there restore it; print the "
        "PID of the first one. They go on with the PIDs that they had, which must be free (but for "
        "those of a stasis-session), in the agent's control group. Files on tmpfs that they had "
        "open are written first, and POSIX message queues made, with their messages. Programs, "
        "libraries and other files that they have open must be "
        "there under the same names: they are not in the image. What leads into systemd's log is "
        "connected to it anew; other UNIX connections that were cut have hung up.\n\n"
        "To systemd a service that is replaced has ended, and is shown as failed; with Restart= it "
        "starts another one beside what was taken back, so stop that before.",
    .arguments = restore_arguments,
    .options = restore_options,
    .examples = restore_examples,
    .handler = restore,
};

static const CliArgument export_arguments[] = {
    { "ID", CLI_ONE, CLI_PROC_IMAGE, "image of processes: its ID, a prefix of it, or \"latest\"" },
    { "DIR", CLI_ONE, CLI_DIR, "directory to make; it must not be there" },
    { NULL },
};
static const CliOption export_options[] = {
    { "format", 0, CLI_CHOICE, "criu", "a directory for criu restore", .required = TRUE },
    { NULL },
};
static const CliExample export_examples[] = {
    { "proc-export latest --format criu dir", "For criu restore --images-dir dir" },
    { NULL },
};
const CliCommand cli_cmd_proc_export = {
    .group = "process",
    .name = "proc-export",
    .summary = "write an image of processes for stock CRIU",
    .description =
        "Make a directory that `criu restore` takes in a guest without anything of "
        "ours, and say on stderr which options it needs. For POSIX message queues, which "
        "CRIU does not know, the program stasis-mqueue is put beside CRIU's files: it "
        "makes them, and runs CRIU. UNIX connections that were cut (seven at most), as that "
        "into systemd's log, are /dev/null then.",
    .arguments = export_arguments,
    .options = export_options,
    .examples = export_examples,
    .handler = export_criu,
};

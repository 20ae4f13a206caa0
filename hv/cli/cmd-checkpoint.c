/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Taking images. */
#include <stdio.h>
#include <unistd.h>

#include "image.h"
#include "output.h"
#include "progress.h"

#define FOLD_NICE 10
#define FOLD_EVERY 16u
#define MAX_HOLD_US 60000000u

/* "pause 2.1 ms (devices 1.3 ms), 512.0 MiB RAM, 13.0 MiB stored, …" */
static char *describe_cost(const StasisImageInfo *info)
{
    g_autofree char *pause = cli_format_us(info->cost.pause_us);
    g_autofree char *device = cli_format_us(info->cost.device_us);
    g_autofree char *ram = cli_format_bytes(info->ram_bytes);
    g_autofree char *stored = cli_format_bytes(info->stored_bytes);
    g_autofree char *total = cli_format_us(info->cost.total_us);
    g_autofree char *stall = cli_format_us(info->cost.worst_stall_us);
    GString *text = g_string_new(NULL);
    if (info->paused)
        g_string_append(text, "VM was paused");
    else
        g_string_append_printf(text, "pause %s (devices %s)", pause, device);
    g_string_append_printf(text, ", %s RAM, %s stored (%s, %s), %u round%s", ram, stored,
                           info->parent != NULL ? "incremental" : "full", info->mode,
                           info->cost.rounds, info->cost.rounds == 1 ? "" : "s");
    if (info->cost.faults > 0)
        g_string_append_printf(text, ", %" G_GUINT64_FORMAT " writes waited, at most %s",
                               info->cost.faults, stall);
    if (info->quiesced) {
        g_autofree char *frozen = cli_format_us(info->cost.frozen_us);
        g_string_append_printf(text, ", file systems frozen for %s", frozen);
    }
    for (char **d = info->suspended; d != NULL && *d != NULL; d++)
        g_string_append_printf(text, ", suspended %s", *d);
    if (info->n_disks > 0) {
        g_autofree char *disks = cli_format_bytes(info->cost.disk_copied_bytes);
        g_string_append_printf(text, ", %u disk%s (%s read)", info->n_disks,
                               info->n_disks == 1 ? "" : "s", disks);
    }
    g_string_append_printf(text, ", %s in all", total);
    return g_string_free(text, FALSE);
}

/* In the child that becomes the fold: not ours any more, and out of everybody's way. */
static void leave(gpointer unused)
{
    setsid();
    if (nice(FOLD_NICE) == -1)
        return; /* then at our own priority */
}

/* A chain that has become too long is folded by a process that goes on when we have ended. The
 * image is taken whatever becomes of that; the next checkpoint that finds the chain long tries
 * again, not each one, so that they don't pile up. Image @i of a series: a chain is long to read,
 * and grows by one an image, so it is looked at next (*next) when it may have become too long. */
static void fold_behind(CliCall *call, StasisStore *store, const char *id, guint64 i, guint64 *next)
{
    guint most = (guint)cli_number(call, "max-depth", STASIS_DEFAULT_MAX_DEPTH), depth;
    if (i < *next)
        return;
    gboolean known = stasis_store_get_depth(store, id, &depth, NULL);
    *next = i + (known && depth < most ? MAX(most + 1 - depth, FOLD_EVERY) : FOLD_EVERY);
    if (!known || depth <= most || (i == 0 && (depth - most) % FOLD_EVERY != 1))
        return;
    g_autofree char *number = g_strdup_printf("%u", most);
    const char *const argv[] = { "/proc/self/exe",
                                 "store-fold",
                                 "-q",
                                 "--max-depth",
                                 number,
                                 "--store",
                                 stasis_store_get_path(store),
                                 id,
                                 NULL };
    g_autoptr(GError) failed = NULL;
    if (!g_spawn_async("/", (char **)argv, NULL,
                       G_SPAWN_STDOUT_TO_DEV_NULL | G_SPAWN_STDERR_TO_DEV_NULL, leave, NULL, NULL,
                       &failed))
        cli_note(call, "the chain of %u images was not folded: %s; store-fold does it", depth + 1,
                 failed->message);
}

/* @devices, @interfaces: of cli_texts(). */
static StasisCheckpointOptions create_options_of(CliCall *call, const char **devices,
                                                 const char **interfaces, CliProgress *progress)
{
    StasisCheckpointOptions options = STASIS_CHECKPOINT_OPTIONS_INIT;
    const char *mode = cli_text(call, "mode"), *codec = cli_text(call, "compress");
    const char *disks = cli_text(call, "disk");
    options.mode = mode != NULL ? stasis_mode_from_string(mode) : STASIS_MODE_LIVE;
    options.codec = codec != NULL ? stasis_codec_from_string(codec) : STASIS_CODEC_LZ4;
    options.disks = disks != NULL ? stasis_disks_from_string(disks) : STASIS_DISKS_COPY;
    options.full = cli_flag(call, "full");
    options.quiesce = cli_flag(call, "quiesce");
    options.hold_output = cli_flag(call, "hold-output");
    options.hold_interfaces = interfaces;
    options.guest_suspend = devices;
    options.max_pause_us = cli_number(call, "max-pause", 0);
    options.max_buffer_bytes = cli_number(call, "max-buffer", 0);
    options.n_threads = (guint)cli_number(call, "threads", 0);
    options.cycle_wait_us = cli_number(call, "cycle-wait", 0);
    options.tracker = cli_text(call, "tracker");
    options.note = cli_text(call, "note");
    options.progress = cli_progress_show;
    options.progress_data = progress;
    return options;
}

/* One of a series is in the store. */
static void show_created(CliCall *call, StasisStore *store, const StasisImageInfo *info, guint64 i,
                         guint64 *next_fold, JsonArray *array)
{
    if (call->json)
        json_array_add_object_element(array, cli_image_to_json(info));
    else
        cli_print_line(call, info->id);
    fold_behind(call, store, info->id, i, next_fold);
    if (isatty(STDERR_FILENO) || cli_flag(call, "verbose")) {
        g_autofree char *cost = describe_cost(info);
        cli_note(call, "%s", cost);
    }
}

/* Until @due_us, or until we are interrupted. */
static gboolean wait_until(CliCall *call, gint64 due_us, GError **error)
{
    GPollFD fd;
    gboolean can_poll = g_cancellable_make_pollfd(call->cancellable, &fd);
    gint64 now;
    while ((now = g_get_monotonic_time()) < due_us &&
           !g_cancellable_is_cancelled(call->cancellable))
        g_poll(&fd, can_poll ? 1 : 0, (gint)MIN((due_us - now + 999) / 1000, 1000));
    if (can_poll)
        g_cancellable_release_fd(call->cancellable);
    return !g_cancellable_set_error_if_cancelled(call->cancellable, error);
}

static void tell_of_hold(CliCall *call, StasisSeries *series)
{
    const char *const *held = stasis_series_get_held(series);
    if (held == NULL || (!isatty(STDERR_FILENO) && !cli_flag(call, "verbose")))
        return;
    g_autofree char *names = g_strjoinv(", ", (char **)held);
    g_autofree char *shown = cli_printable(names);
    cli_note(call, "network output is held from now on: %s", shown);
}

/* libvirt starts its domains with the new files; nobody else would. */
static void tell_of_overlays(CliCall *call, StasisVm *vm)
{
    const char *disks = cli_text(call, "disk");
    g_autoptr(StasisVmInfo) info =
        g_strcmp0(disks, "overlay") == 0 ? stasis_vm_get_info(vm, NULL) : NULL;
    if (info != NULL && info->connect == NULL)
        cli_note(call,
                 "VM %s writes to new files from now on, FILE.stasis-ID beside each disk's FILE, "
                 "which nobody may write to any more: start it again with those, or take them back "
                 "by disk-commit",
                 call->args[0]);
}

static gboolean take_series(CliCall *call, StasisVm *vm, StasisSeries *series, StasisStore *store,
                            JsonArray *array, CliProgress *progress, GError **error)
{
    guint64 every_us = cli_number(call, "every", 0);
    guint64 count = cli_number(call, "count", every_us > 0 ? G_MAXUINT64 : 1);
    gint64 due_us = g_get_monotonic_time();
    guint64 next_fold = 0;
    for (guint64 i = 0; i < count; i++) {
        if (!wait_until(call, due_us, error))
            return FALSE;
        /* One that comes too late delays the next; none is made up for. */
        due_us = MAX(due_us, g_get_monotonic_time() - (gint64)every_us) + (gint64)every_us;
        g_autoptr(StasisImageInfo) info = stasis_series_take(series, call->cancellable, error);
        cli_progress_end(progress);
        if (info == NULL)
            return FALSE;
        show_created(call, store, info, i, &next_fold, array);
        if (i > 0)
            continue;
        tell_of_hold(call, series);
        tell_of_overlays(call, vm);
    }
    return TRUE;
}

/* Whoever the guest talks to waits as long. */
static gboolean check_hold(CliCall *call, GError **error)
{
    guint64 every_us = cli_number(call, "every", 0);
    if (cli_text(call, "hold-only") != NULL && !cli_flag(call, "hold-output")) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                            "--hold-only says of which interfaces --hold-output holds it");
        return FALSE;
    }
    if (!cli_flag(call, "hold-output") || (every_us > 0 && every_us <= MAX_HOLD_US))
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                "--hold-output needs --every MS, at most %u: output waits for the next image but "
                "one, at worst",
                MAX_HOLD_US / 1000);
    return FALSE;
}

static gboolean create(CliCall *call, GError **error)
{
    CliProgress progress = cli_progress_new(call);
    g_autofree const char **devices = cli_texts(call, "guest-suspend");
    g_autofree const char **interfaces = cli_texts(call, "hold-only");
    StasisCheckpointOptions options = create_options_of(call, devices, interfaces, &progress);
    if (!check_hold(call, error) ||
        !cli_read_address(call, "cycle-word", &options.cycle_word, error) ||
        !cli_read_address(call, "missed-word", &options.missed_word, error))
        return FALSE;
    /* The VM first: a name that is not known makes no store. */
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    g_autoptr(StasisStore) store =
        vm != NULL ? cli_open_store(call, STASIS_STORE_CREATE, error) : NULL;
    if (store == NULL)
        return FALSE;
    g_autoptr(StasisSeries) series =
        stasis_series_new(vm, store, &options, call->cancellable, error);
    g_autoptr(JsonArray) array = json_array_new();
    gboolean ok = series != NULL && take_series(call, vm, series, store, array, &progress, error);
    cli_progress_end(&progress);
    /* Those are durable, however the series ends. */
    if (!ok && call->json && json_array_get_length(array) > 0)
        cli_take_array(call, g_steal_pointer(&array));
    if (!ok)
        return FALSE;
    if (call->json && json_array_get_length(array) == 1)
        cli_take_object(call, json_object_ref(json_array_get_object_element(array, 0)));
    else if (call->json)
        cli_take_array(call, g_steal_pointer(&array));
    return TRUE;
}

static const CliArgument create_arguments[] = {
    { "NAME", CLI_ONE, CLI_VM, "name of the VM" },
    { NULL },
};
static const CliOption create_options[] = {
    { "mode", 0, CLI_CHOICE, "live|cow|stop",
      "how the VM is stopped for it (default: live; see MODES in the manual)" },
    { "disk", 0, CLI_CHOICE, "copy|none|overlay",
      "the content of every writable disk belongs to the image, or none does, or the image refers "
      "to the disks' files and the VM goes on to new ones on top (default: copy; see DISKS in the "
      "manual)" },
    { "quiesce", 0, CLI_FLAG, NULL,
      "have the agent in the guest freeze its file systems for that moment (see DISKS in the "
      "manual)" },
    { "guest-suspend", 0, CLI_TEXT, "DEVICE",
      "have the agent suspend that device's driver in the guest for that moment: a PCI device, by "
      "QEMU's id or its QOM path; may be repeated (see DEVICES in the manual)",
      .many = TRUE },
    { "full", 0, CLI_FLAG, NULL, "don't make it incremental, even where that is possible" },
    { "max-pause", 0, CLI_MS, "MS",
      "fail with exit status 5, the VM running, rather than pause it for longer" },
    { "cycle-word", 0, CLI_TEXT, "ADDRESS",
      "stop the VM when the guest changes the word of 8 bytes at that guest-physical address, as "
      "it does at the "
      "end of each control cycle; not later than 1 ms after that (or half of --max-pause), but "
      "after another" },
    { "cycle-wait", 0, CLI_MS, "MS",
      "fail with exit status 5, the VM running, if it does not in that time (default 1000)" },
    { "missed-word", 0, CLI_TEXT, "ADDRESS",
      "keep in the image how many deadlines the guest missed meanwhile, which it counts in the "
      "word "
      "of 8 bytes at that guest-physical address" },
    { "compress", 0, CLI_CHOICE, "lz4|zstd|none", "how pages are compressed (default: lz4)" },
    { "max-buffer", 0, CLI_SIZE, "SIZE",
      "memory for pages that wait for the disk (default: a quarter of what is free)" },
    { "threads", 0, CLI_COUNT, "N",
      "compressing threads (default: the CPUs that the guest leaves, at most 8)" },
    { "tracker", 0, CLI_CHOICE, "auto|kvm-log|uffd-async|uffd-sync",
      "how writes are found (default: auto, the best this kernel has)" },
    { "max-depth", 0, CLI_COUNT, "N",
      "fold the chain, in the background, when the image has more ancestors (default: 64)" },
    { "note", 0, CLI_TEXT, "TEXT", "description to keep in the image" },
    { "every", 0, CLI_MS, "MS", "take a series, one each so many milliseconds (see --count)" },
    { "hold-output", 0, CLI_FLAG, NULL,
      "with --every: nothing that the guest sends through its network interfaces leaves the host "
      "before an image that remembers it is durable (see OUTPUT in the manual)" },
    { "hold-only", 0, CLI_TEXT, "INTERFACE",
      "… through that interface, by QEMU's name of it or of its back end; what the others send "
      "leaves "
      "at once; may be repeated",
      .many = TRUE },
    { "count", 0, CLI_COUNT, "N",
      "how many to take (default: 1; with --every: until interrupted)" },
    { NULL },
};
static const CliExample create_examples[] = {
    { "checkpoint-create vm1", "Checkpoint a running VM; prints the new image's ID" },
    { "checkpoint-create vm1 --max-pause 5 --note \"before the upgrade\"",
      "Pause for at most 5 ms, or fail and let the VM be" },
    { "checkpoint-create vm1 --quiesce", "With disks as clean as if they had been unmounted" },
    { "checkpoint-create vm1 --guest-suspend gpu0",
      "With a device that was passed through, whose driver the guest suspends meanwhile" },
    { "checkpoint-create plc --cycle-word 0x400250", "Between two cycles of a control loop" },
    { "checkpoint-create vm1 --every 100 --count 600", "Ten a second for a minute" },
    { "checkpoint-create db --every 25 --hold-output",
      "Whoever the guest has told something finds that it remembers, also after a restore" },
    { NULL },
};
const CliCommand cli_cmd_checkpoint_create = {
    .group = "checkpoint",
    .name = "checkpoint-create",
    .summary = "take a checkpoint of a running VM",
    .description =
        "Write RAM, devices and disks of VM NAME, as they are at one instant, into the store as a "
        "new image, and print the image's ID once it is durable. On failure, or Ctrl-C, the VM "
        "runs "
        "on and the store is as before. A series (--every, --count) looks at the VM once and then "
        "takes an increment in a few milliseconds besides writing it; each ID is printed as soon "
        "as its image is durable, the first failure ends it, and the VM is busy for other "
        "commands meanwhile. What it cost is printed on stderr if that is a terminal, "
        "or with -v.",
    .arguments = create_arguments,
    .options = create_options,
    .examples = create_examples,
    .handler = create,
};

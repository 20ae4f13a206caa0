/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "output.h"
#include "progress.h"

static gboolean restore(CliCall *call, GError **error)
{
    CliProgress progress = cli_progress_new(call);
    StasisRestoreOptions options = STASIS_RESTORE_OPTIONS_INIT;
    options.name = cli_text(call, "name");
    options.paused = cli_flag(call, "paused");
    options.eager = cli_flag(call, "eager");
    options.no_shim = cli_flag(call, "no-shim");
    options.no_disks = g_strcmp0(cli_text(call, "disk"), "none") == 0;
    options.in_place = cli_flag(call, "in-place");
    options.disk_dir = cli_text(call, "disk-dir");
    options.no_prefetch = cli_flag(call, "no-prefetch");
    options.connect = cli_connection(call);
    options.progress = cli_progress_show;
    options.progress_data = &progress;

    g_autofree char *xml = NULL;
    if (!cli_read_domain_xml(call, &xml, error))
        return FALSE;
    options.xml = xml;
    g_autoptr(StasisStore) store = cli_open_store(call, STASIS_STORE_EXISTING, error);
    g_autofree char *id = store != NULL ? stasis_store_resolve(store, call->args[0], error) : NULL;
    if (id == NULL)
        return FALSE;
    gint64 start_us = g_get_monotonic_time();
    g_autoptr(StasisVm) vm = stasis_restore(store, id, &options, call->cancellable, error);
    cli_progress_end(&progress);
    if (vm == NULL)
        return FALSE;
    if (cli_flag(call, "verbose")) {
        g_autofree char *took = cli_format_us((guint64)(g_get_monotonic_time() - start_us));
        cli_note(call, "%s from %s in %s", stasis_vm_get_name(vm), id, took);
    }
    return cli_show_started(call, vm, error);
}

static const CliArgument arguments[] = {
    { "ID", CLI_ONE, CLI_IMAGE, "image: its ID, a unique prefix of it, or \"latest\"" },
    { NULL },
};
static const CliOption options[] = {
    { "name", 0, CLI_TEXT, "NAME", "name of the new VM (default: the name it had)" },
    { "paused", 0, CLI_FLAG, NULL, "leave it paused at the instant of the image" },
    { "eager", 0, CLI_FLAG, NULL, "all RAM in place before it runs, instead of on demand" },
    { "no-shim", 0, CLI_FLAG, NULL, "preload nothing into QEMU: no tracking by KVM's own log" },
    { "xml", 0, CLI_FILE, "FILE",
      "with --connect: XML of the domain, instead of the image's; the devices must be the same" },
    { "disk", 0, CLI_CHOICE, "copy|none",
      "new disks with the image's content, or those that the command line names (default: copy)" },
    { "in-place", 0, CLI_FLAG, NULL,
      "write the image's content to the disks that the command line (or XML) names, over what is "
      "on "
      "them; refused while anything has one open" },
    { "disk-dir", 0, CLI_DIR, "DIR",
      "where to put the new disks (default: in the store, on whose file system they take no room; "
      "a "
      "libvirt domain's: beside the old ones)" },
    { "no-prefetch", 0, CLI_FLAG, NULL,
      "neither bring in first what earlier VMs of the image touched first, nor learn from this "
      "one" },
    { NULL },
};
static const CliExample examples[] = {
    { "restore latest", "Bring the newest image back under the VM's own name" },
    { "restore 01jq4z7k2m --name twin --paused", "A second VM, paused, to look at" },
    { "restore latest --connect qemu:///system", "The image's libvirt domain" },
    { NULL },
};
const CliCommand cli_cmd_restore = {
    .group = "image",
    .name = "restore",
    .summary = "start a VM from an image",
    .description =
        "Start a fresh QEMU of the machine that the image describes, and let it go on from the "
        "image's instant. Prints the VM's name. Memory is brought in as the guest touches it and "
        "the rest in the background, so that the start does not wait for it. Which pages a VM had "
        "to "
        "wait for is remembered beside the image, and the next VM from it gets those first.\n\n"
        "With --connect it becomes a libvirt domain again: libvirtd starts it, paused, from the "
        "XML in the image, the image is loaded into it, and libvirtd lets it run. With another "
        "name it has a new UUID. All of its memory is in place before it runs.",
    .arguments = arguments,
    .options = options,
    .examples = examples,
    .handler = restore,
};

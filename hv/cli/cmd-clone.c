/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdio.h>

#include "output.h"
#include "progress.h"

static void set_macs(JsonObject *object, char **macs)
{
    if (macs == NULL) {
        json_object_set_null_member(object, "macs");
        return;
    }
    JsonArray *array = json_array_new();
    for (guint i = 0; macs[i] != NULL; i++)
        json_array_add_string_element(array, macs[i]);
    json_object_set_array_member(object, "macs", array);
}

static JsonObject *clone_to_json(const StasisClone *clone)
{
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "name", clone->name);
    json_object_set_boolean_member(object, "started", clone->error == NULL);
    cli_json_set_string(object, "error", clone->error != NULL ? clone->error->message : NULL);
    if (clone->error != NULL)
        return object;
    cli_json_set_uint(object, "pid", (guint64)clone->pid);
    cli_json_set_string(object, "uuid", clone->uuid);
    cli_json_set_string(object, "generation_id", clone->generation_id);
    set_macs(object, clone->macs);
    cli_json_set_uint(object, "shared_bytes", clone->shared_bytes);
    cli_json_set_uint(object, "start_us", clone->start_us);
    return object;
}

static void show(CliCall *call, const StasisClones *clones)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < clones->clones->len; i++) {
        const StasisClone *clone = g_ptr_array_index(clones->clones, i);
        json_array_add_object_element(array, clone_to_json(clone));
        g_autofree char *took = cli_format_us(clone->start_us);
        if (clone->error != NULL)
            cli_note(call, "%s was not started: %s", clone->name, clone->error->message);
        else if (!call->json)
            puts(clone->name);
        if (clone->error == NULL && cli_flag(call, "verbose"))
            cli_note(call, "%s in %s", clone->name, took);
    }
    JsonObject *object = json_object_new();
    json_object_set_array_member(object, "clones", array);
    cli_json_set_uint(object, "template_us", clones->template_us);
    cli_take_object(call, object);
}

/* What runs and what does not, in one line; each has had its own. */
static gboolean sum_up(const StasisClones *clones, GError **error)
{
    guint n = clones->clones->len;
    for (guint i = 0; i < n; i++) {
        const StasisClone *clone = g_ptr_array_index(clones->clones, i);
        if (clone->error == NULL)
            continue;
        g_set_error(error, clone->error->domain, clone->error->code,
                    "%u of %u clones run, %u were not started; the first of these, %s: %s",
                    n - clones->n_failed, n, clones->n_failed, clone->name, clone->error->message);
        return FALSE;
    }
    return TRUE;
}

static gboolean run_clone(CliCall *call, GError **error)
{
    CliProgress progress = cli_progress_new(call);
    StasisCloneOptions options = STASIS_CLONE_OPTIONS_INIT;
    options.count = (guint)cli_number(call, "count", 0);
    options.name = cli_text(call, "name");
    options.paused = cli_flag(call, "paused");
    options.keep_identity = cli_flag(call, "keep-identity");
    options.keep_network = g_strcmp0(cli_text(call, "network"), "as-is") == 0;
    options.no_share = cli_flag(call, "no-share");
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
    g_autoptr(StasisClones) clones = stasis_clone(store, id, &options, call->cancellable, error);
    cli_progress_end(&progress);
    if (clones == NULL)
        return FALSE;
    if (clones->template_us > 0) {
        g_autofree char *took = cli_format_us(clones->template_us);
        cli_note(call, "RAM template of %s made in %s; further clones start at once", id, took);
    }
    show(call, clones);
    return sum_up(clones, error);
}

static const CliArgument arguments[] = {
    { "ID", CLI_ONE, CLI_IMAGE, "image: its ID, a unique prefix of it, or \"latest\"" },
    { NULL },
};
static const CliOption options[] = {
    { "count", 0, CLI_COUNT, "N", "as many VMs, named NAME-1 to NAME-N" },
    { "name", 0, CLI_TEXT, "NAME",
      "name of the VM, or of all up to the number (default: the image's VM with -clone behind "
      "it)" },
    { "paused", 0, CLI_FLAG, NULL, "leave them paused at the instant of the image" },
    { "network", 0, CLI_CHOICE, "isolated|as-is",
      "isolated (default): NICs without a way out; as-is: connected as the image says" },
    { "keep-identity", 0, CLI_FLAG, NULL, "keep MAC addresses, UUID and VM generation id" },
    { "xml", 0, CLI_FILE, "FILE", "with --connect: XML of the domain, instead of the image's" },
    { "no-share", 0, CLI_FLAG, NULL,
      "each has memory of its own, brought in on demand; makes no RAM template" },
    { NULL },
};
static const CliExample examples[] = {
    { "clone latest", "A second VM beside the first, cut off from its network" },
    { "clone 01jq4z7k2m --count 20 --name ci", "ci-1 to ci-20, which share their memory" },
    { NULL },
};
const CliCommand cli_cmd_clone = {
    .group = "image",
    .name = "clone",
    .summary = "start many VMs from one image, which share its memory",
    .description =
        "Start VMs that go on from the image's instant and share its memory until they write it. "
        "Prints their names. The first clone of an image makes a copy of its RAM in the store's "
        "cache/, once; all others map it and start at once.\n\n"
        "Each clone gets new MAC addresses, a new UUID and, if it has the device, a new VM "
        "generation id. The guest is told of the generation id at once, reads the UUID when it "
        "boots next, and uses a new MAC address when its driver is loaded next or it boots. Its "
        "network is cut off unless asked for. Writable disks get a temporary overlay each; sockets "
        "and files that QEMU makes lie in each VM's own directory; TCP ports are closed. What "
        "can't "
        "be had twice is refused by name.\n\n"
        "With --connect they become libvirt domains, transient ones, each with memory of its own; "
        "their links are down unless --network as-is.\n\n"
        "If some can't be started, the others run; all are listed, and the exit status is that of "
        "the first that failed.",
    .arguments = arguments,
    .options = options,
    .examples = examples,
    .handler = run_clone,
};

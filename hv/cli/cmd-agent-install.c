/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdio.h>
#include <string.h>

#include "output.h"

#define DEFAULT_URI "qemu:///system"

/* The libvirtd whose domain @target is, or NULL: it is a disk. */
static const char *uri_for(const CliCall *call, const char *target)
{
    const char *uri = cli_connection(call), *fallback = g_getenv("LIBVIRT_DEFAULT_URI");
    if (strchr(target, '/') != NULL || (uri == NULL && g_file_test(target, G_FILE_TEST_EXISTS)))
        return NULL;
    if (uri == NULL)
        uri = fallback != NULL && *fallback != '\0' ? fallback : DEFAULT_URI;
    return uri;
}

static void show_text(CliCall *call, const StasisAgentInstall *install)
{
    g_autofree char *system = cli_printable(install->system);
    if (*system != '\0')
        cli_note(call, "%s: %s", call->args[0], system);
    for (char **note = install->notes; *note != NULL; note++)
        cli_note(call, "%s: %s", call->args[0], *note);
    for (guint i = 0; i < install->steps->len; i++) {
        const StasisAgentInstallStep *step = g_ptr_array_index(install->steps, i);
        printf("%s: %s\n", step->path, step->changed ? "written" : "was there");
    }
}

static void show_json(CliCall *call, const StasisAgentInstall *install, const char *uri)
{
    JsonArray *steps = json_array_new(), *notes = json_array_new();
    for (guint i = 0; i < install->steps->len; i++) {
        const StasisAgentInstallStep *step = g_ptr_array_index(install->steps, i);
        JsonObject *object = json_object_new();
        cli_json_set_string(object, "path", step->path);
        json_object_set_boolean_member(object, "changed", step->changed);
        json_array_add_object_element(steps, object);
    }
    for (char **note = install->notes; *note != NULL; note++)
        json_array_add_string_element(notes, *note);
    JsonObject *object = json_object_new();
    cli_json_set_string(object, uri != NULL ? "domain" : "disk", call->args[0]);
    cli_json_set_string(object, "system", install->system);
    json_object_set_boolean_member(object, "changed", install->changed);
    json_object_set_array_member(object, "steps", steps);
    json_object_set_array_member(object, "notes", notes);
    cli_take_object(call, object);
}

static gboolean agent_install(CliCall *call, GError **error)
{
    const char *target = call->args[0], *uri = uri_for(call, target);
    StasisAgentInstallOptions options = STASIS_AGENT_INSTALL_OPTIONS_INIT;
    options.format = cli_text(call, "format");
    options.filesystem = cli_text(call, "filesystem");
    if (uri != NULL && options.format != NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "%s is taken for a domain, whose XML says the format of its disks; a disk is "
                    "a path, ./%s",
                    target, target);
        return FALSE;
    }
    g_autoptr(StasisAgentInstall) install =
        uri != NULL ? stasis_agent_install_domain(uri, target, &options, call->cancellable, error)
                    : stasis_agent_install_disk(target, &options, call->cancellable, error);
    if (install == NULL)
        return FALSE;
    if (call->json)
        show_json(call, install, uri);
    else
        show_text(call, install);
    return TRUE;
}

static const CliArgument arguments[] = {
    { "DISK|DOMAIN", CLI_ONE, CLI_FILE,
      "a disk image or block device by its path, or a libvirt domain by its name or UUID" },
    { NULL },
};
static const CliOption options[] = {
    { "format", 0, CLI_CHOICE, "raw|qcow2", "of the disk (default: what it looks like)" },
    { "filesystem", 0, CLI_TEXT, "DEVICE",
      "the root file system, \"/dev/sda2\" (default: what libguestfs finds)" },
    { NULL },
};
static const CliExample examples[] = {
    { "agent-install web.qcow2", "Into an image that no VM has open" },
    { "agent-install web --connect qemu:///system", "Into a domain that is shut off" },
    { NULL },
};
const CliCommand cli_cmd_agent_install = {
    .group = "agent",
    .name = "agent-install",
    .summary = "put the agent into a system that is shut off",
    .description =
        "Write stasis-agent, its systemd unit, stasis-session and stasis-resume into the system on "
        "a disk, and "
        "enable the unit, so that the agent runs from the next boot on; print each path in the "
        "guest and whether "
        "it was written or there already. A libvirt domain's definition also gets the channel to "
        "the agent, as by prepare; any other VM gets it by run --agent.\n\n"
        "libguestfs writes to the disk, in a small VM of its own that takes some seconds to start. "
        "Refused with nothing changed are a disk that a VM or another program has open, a system "
        "without systemd or for another processor, and one that has something else in a file's "
        "place. A disk that others are overlays of must not be written to, and nobody can see "
        "that from the disk.",
    .arguments = arguments,
    .options = options,
    .examples = examples,
    .handler = agent_install,
};

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdio.h>

#include "output.h"

#define DEFAULT_URI "qemu:///system"

static void show(CliCall *call, const StasisPreparation *preparation)
{
    for (char **note = preparation->notes; *note != NULL; note++)
        cli_note(call, "%s: %s", preparation->domain, *note);
    if (preparation->applied && preparation->running)
        cli_note(call, "%s: from its next start on (not its next reboot)", preparation->domain);
    if (!call->json) {
        if (!cli_flag(call, "apply"))
            fputs(preparation->xml, stdout);
        return;
    }
    JsonArray *notes = json_array_new();
    for (char **note = preparation->notes; *note != NULL; note++)
        json_array_add_string_element(notes, *note);
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "domain", preparation->domain);
    json_object_set_boolean_member(object, "changed", preparation->changed);
    json_object_set_boolean_member(object, "applied", preparation->applied);
    json_object_set_boolean_member(object, "running", preparation->running);
    cli_json_set_string(object, "xml", preparation->xml);
    json_object_set_array_member(object, "notes", notes);
    cli_take_object(call, object);
}

static gboolean prepare(CliCall *call, GError **error)
{
    const char *uri = cli_connection(call), *fallback = g_getenv("LIBVIRT_DEFAULT_URI");
    StasisPrepareOptions options = STASIS_PREPARE_OPTIONS_INIT;
    options.apply = cli_flag(call, "apply");
    options.undo = cli_flag(call, "undo");
    if (options.apply && cli_flag(call, "print")) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                            "--print shows what --apply would do: give one of them");
        return FALSE;
    }
    if (uri == NULL)
        uri = fallback != NULL && *fallback != '\0' ? fallback : DEFAULT_URI;
    g_autoptr(StasisPreparation) preparation = stasis_prepare(uri, call->args[0], &options, error);
    if (preparation != NULL)
        show(call, preparation);
    return preparation != NULL;
}

static const CliArgument arguments[] = {
    { "DOMAIN", CLI_ONE, CLI_VM, "libvirt domain, by name or UUID" },
    { NULL },
};
static const CliOption options[] = {
    { "apply", 0, CLI_FLAG, NULL, "change the domain's persistent definition" },
    { "print", 0, CLI_FLAG, NULL, "print the definition as it would be (default)" },
    { "undo", 0, CLI_FLAG, NULL, "take out again what an earlier --apply put in" },
    { NULL },
};
static const CliExample examples[] = {
    { "prepare web --apply", "From its next start on the domain web is quicker to checkpoint" },
    { "prepare web --undo --apply", "As it was before" },
    { NULL },
};
const CliCommand cli_cmd_prepare = {
    .group = "vm",
    .name = "prepare",
    .summary = "make a libvirt domain quicker to checkpoint from its next start on",
    .description =
        "Have the next start of a libvirt domain give checkpoints what they work best with: RAM in "
        "a shared memfd, the shim preloaded into QEMU under KVM (KVM's own dirty log, and a stop "
        "made inside QEMU), and a virtio channel for the guest agent. Prints the definition as it "
        "would be, or with --apply defines it. What is in the definition already is kept, and what "
        "could not be done is said on stderr. A domain that was not prepared can be "
        "checkpointed all the same.\n\n"
        "Without --connect the domain is looked for at $LIBVIRT_DEFAULT_URI, else "
        "qemu:///system.\n\n"
        "What was added is noted in the definition's metadata; --undo takes out just that. The "
        "shim's file must be readable by QEMU's user, and a profile that confines QEMU (AppArmor, "
        "SELinux) must allow it to be mapped; where it can't be loaded QEMU starts without it.",
    .arguments = arguments,
    .options = options,
    .examples = examples,
    .handler = prepare,
};

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files into a guest and out of it, by its agent. */
#include "agent-copy.h"
#include "output.h"
#include "progress.h"

typedef gboolean (*CopyFunc)(StasisVm *vm, const char *path, const char *dir,
                             const StasisAgentCopyOptions *options, StasisAgentCopied *ret,
                             GCancellable *cancellable, GError **error);

void cli_json_set_copied(JsonObject *object, const StasisAgentCopied *copied)
{
    cli_json_set_uint(object, "n_files", copied->n_files);
    cli_json_set_uint(object, "n_directories", copied->n_directories);
    cli_json_set_uint(object, "n_links", copied->n_links);
    cli_json_set_uint(object, "n_left_out", copied->n_left_out);
    cli_json_set_uint(object, "n_vanished", copied->n_vanished);
    cli_json_set_uint(object, "size_bytes", copied->size_bytes);
}

void cli_note_copied(CliCall *call, const StasisAgentCopied *copied)
{
    g_autofree char *size = cli_format_bytes(copied->size_bytes);
    cli_note(call, "%u files, %u directories, %u links; %s", copied->n_files, copied->n_directories,
             copied->n_links, size);
    if (copied->n_left_out > 0)
        cli_note(call, "%u left out: neither files nor directories nor links", copied->n_left_out);
    if (copied->n_vanished > 0)
        cli_note(call, "%u not copied: they were gone, or something else, when their turn came",
                 copied->n_vanished);
}

static void tell(CliCall *call, const StasisAgentCopied *copied)
{
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "name", call->args[0]);
    cli_json_set_copied(object, copied);
    cli_take_object(call, object);
    cli_note_copied(call, copied);
}

static gboolean copy(CliCall *call, CopyFunc run, guint64 max_bytes, GError **error)
{
    StasisAgentCopyOptions options = STASIS_AGENT_COPY_OPTIONS_INIT;
    StasisAgentCopied copied = { 0 };
    CliProgress progress = cli_progress_new(call);
    options.max_bytes = max_bytes;
    options.progress = cli_progress_show;
    options.progress_data = &progress;
    g_autoptr(StasisVm) vm = cli_open_vm(call, call->args[0], error);
    gboolean ok = vm != NULL && run(vm, call->args[1], call->args[2], &options, &copied,
                                    call->cancellable, error);
    cli_progress_end(&progress);
    if (ok)
        tell(call, &copied);
    return ok;
}

static gboolean copy_in(CliCall *call, GError **error)
{
    return copy(call, stasis_vm_agent_copy_in, 0, error);
}

static gboolean copy_out(CliCall *call, GError **error)
{
    return copy(call, stasis_vm_agent_copy_out, cli_number(call, "max-size", 0), error);
}

static const CliArgument in_arguments[] = {
    { "NAME", CLI_ONE, CLI_VM, "name of the VM" },
    { "PATH", CLI_ONE, CLI_FILE, "file or directory of this host" },
    { "DIR", CLI_ONE, CLI_TEXT, "directory of the guest to put it into; made if need be" },
    { NULL },
};
static const CliExample in_examples[] = {
    { "agent-copy-in web ./build /opt", "It is /opt/build there" },
    { NULL },
};
const CliCommand cli_cmd_agent_copy_in = {
    .group = "agent",
    .name = "agent-copy-in",
    .summary = "copy files into a guest",
    .description =
        "Have the agent write a file, or a directory with all that is in it, into a directory of "
        "the guest that runs: no network is needed, and no disk is shared. Contents, permissions "
        "and links are kept; all belongs to root. What is there of that name goes, unless it is a "
        "directory. What was copied when it failed stays. What vanishes meanwhile is counted, and "
        "no failure.",
    .arguments = in_arguments,
    .examples = in_examples,
    .handler = copy_in,
};

static const CliArgument out_arguments[] = {
    { "NAME", CLI_ONE, CLI_VM, "name of the VM" },
    { "PATH", CLI_ONE, CLI_TEXT, "file or directory of the guest" },
    { "DIR", CLI_ONE, CLI_DIR, "directory of this host to put it into" },
    { NULL },
};
static const CliOption out_options[] = {
    { "max-size", 0, CLI_SIZE, "SIZE", "of all files together, at most (default 1G)" },
    { NULL },
};
static const CliExample out_examples[] = {
    { "agent-copy-out web /var/log .", "The logs of a guest that runs" },
    { NULL },
};
const CliCommand cli_cmd_agent_copy_out = {
    .group = "agent",
    .name = "agent-copy-out",
    .summary = "copy files out of a guest",
    .description =
        "Have the agent read a file, or a directory with all that is in it, and write it into a "
        "directory of this host, and nowhere else, whatever the guest says. Permissions (without "
        "set-user-ID) and links are kept. What vanishes meanwhile from a directory (logs that are "
        "rotated, say) is counted, and no failure. Of an image's files, without its guest: "
        "file-copy-out.",
    .arguments = out_arguments,
    .options = out_options,
    .examples = out_examples,
    .handler = copy_out,
};

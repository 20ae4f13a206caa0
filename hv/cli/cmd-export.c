/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <string.h>

#include "output.h"
#include "progress.h"

static gboolean export_image(CliCall *call, GError **error)
{
    const char *format = cli_text(call, "format"), *path = call->args[1];
    if (strcmp(path, "-") == 0) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                            "an export is made aside and renamed: FILE can't be \"-\"");
        return FALSE;
    }
    g_autoptr(StasisStore) store = cli_open_store(call, STASIS_STORE_EXISTING, error);
    g_autofree char *id = store != NULL ? stasis_store_resolve(store, call->args[0], error) : NULL;
    if (id == NULL)
        return FALSE;
    CliProgress progress = cli_progress_new(call);
    gboolean ok = stasis_export(store, id, stasis_export_format_from_string(format), path,
                                cli_progress_show, &progress, call->cancellable, error);
    cli_progress_end(&progress);
    if (!ok)
        return FALSE;
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "id", id);
    cli_json_set_string(object, "format", format);
    cli_json_set_string(object, "file", path);
    cli_take_object(call, object);
    return TRUE;
}

static const CliArgument arguments[] = {
    { "ID", CLI_ONE, CLI_IMAGE, "image: its ID, a unique prefix of it, or \"latest\"" },
    { "FILE", CLI_ONE, CLI_FILE, "file to write; replaced once the new one is whole" },
    { NULL },
};
static const CliOption options[] = {
    { "format", 0, CLI_CHOICE, "raw-memory|elf-core",
      "guest-physical memory from address 0, or an ELF core with a note for each vCPU",
      .required = TRUE },
    { NULL },
};
static const CliExample examples[] = {
    { "export latest --format elf-core vm1.core", "A core that crash, gdb and readelf open" },
    { NULL },
};
const CliCommand cli_cmd_export = {
    .group = "image",
    .name = "export",
    .summary = "write an image's memory for other tools",
    .description = "Write the memory of an image, laid out as the guest's physical memory: a "
                   "sparse file (raw-memory), or an ELF core (elf-core) that crash(8), gdb(1) "
                   "and readelf(1) open.",
    .arguments = arguments,
    .options = options,
    .examples = examples,
    .handler = export_image,
};

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "output.h"
#include "progress.h"

static gboolean import_file(CliCall *call, GError **error)
{
    const char *path = call->args[0], *codec = cli_text(call, "compress");
    CliProgress progress = cli_progress_new(call);
    StasisImportOptions options = STASIS_IMPORT_OPTIONS_INIT;
    options.path = strcmp(path, "-") != 0 ? path : NULL;
    options.fd = STDIN_FILENO;
    options.name = cli_text(call, "name");
    options.note = cli_text(call, "note");
    options.argv = call->args[1] != NULL ? (const char *const *)call->args + 1 : NULL;
    options.connect = cli_connection(call);
    options.codec = codec != NULL ? (StasisCodec)stasis_codec_from_string(codec) : STASIS_CODEC_LZ4;
    options.progress = cli_progress_show;
    options.progress_data = &progress;

    /* No store is made for a file that is not there. */
    if (options.path != NULL && access(path, R_OK) < 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "%s: cannot open it: %s", path,
                    g_strerror(errno));
        return FALSE;
    }
    g_autoptr(StasisStore) store = cli_open_store(call, STASIS_STORE_CREATE, error);
    if (store == NULL)
        return FALSE;
    g_autoptr(StasisImageInfo) info = stasis_import(store, &options, call->cancellable, error);
    cli_progress_end(&progress);
    if (info == NULL)
        return FALSE;
    if (!call->json)
        puts(info->id);
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "id", info->id);
    cli_json_set_string(object, "vm", info->vm);
    cli_json_set_string(object, "machine", info->machine);
    cli_json_set_uint(object, "n_vcpus", info->n_vcpus);
    cli_json_set_uint(object, "ram_bytes", info->ram_bytes);
    cli_json_set_uint(object, "stored_bytes", info->stored_bytes);
    json_object_set_boolean_member(object, "paused", info->paused);
    cli_take_object(call, object);
    return TRUE;
}

static const CliArgument arguments[] = {
    { "FILE", CLI_ONE, CLI_FILE, "migration stream, or file of \"virsh save\"; \"-\": stdin" },
    { "QEMU", CLI_MAY_BE_BEHIND, CLI_ARGV, "command line of the QEMU that the file is from" },
    { NULL },
};
static const CliOption options[] = {
    { "name", 0, CLI_TEXT, "NAME", "name of the VM (default: its own)" },
    { "note", 0, CLI_TEXT, "TEXT", "a note to keep with the image" },
    { "compress", 0, CLI_CHOICE, "lz4|zstd|none", "codec of the stored pages (default: lz4)" },
    { NULL },
};
static const CliExample examples[] = {
    { "import vm1.save", "What \"virsh save vm1 vm1.save\" wrote, to be restored without libvirt" },
    { "import vm1.mig --name vm1 -- qemu-system-x86_64 -m 2G -machine q35",
      "What QEMU's own \"migrate exec:cat>vm1.mig\" wrote" },
    { NULL },
};
const CliCommand cli_cmd_import = {
    .group = "image",
    .name = "import",
    .summary = "make an image of a migration stream or a virsh save file",
    .description =
        "Read a file that QEMU's migrate or virsh save wrote, also a compressed one, and make a "
        "full image of it. Prints its ID. Memory and devices are those of the file; disks stay "
        "what and where they are.\n\nA migration stream does not say how its machine is started: "
        "that is to be given, without -incoming. For a file of virsh save libvirt is asked "
        "(--connect, "
        "else qemu:///system), whose network interfaces are then plugged in nowhere, and ports "
        "whose socket libvirtd makes "
        "have nothing behind them; or it is given as well. Streams made with multifd, compress, "
        "xbzrle, postcopy-ram or the like are refused by name.",
    .arguments = arguments,
    .options = options,
    .examples = examples,
    .handler = import_file,
};

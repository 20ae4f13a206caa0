/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <string.h>
#include <unistd.h>

#include "output.h"
#include "progress.h"

/* "-" is stdout: for streams, and when nothing else is to be printed there. */
static gboolean check_file(CliCall *call, StasisExportFormat format, const char *path,
                           GError **error)
{
    if (strcmp(path, "-") != 0)
        return TRUE;
    if (stasis_export_format_is_stream(format) && !call->json)
        return TRUE;
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                        call->json ? "--json and the export can't both go to stdout"
                                   : "this format is made aside and renamed: FILE can't be \"-\"");
    return FALSE;
}

static gboolean read_xml(CliCall *call, StasisExportFormat format, char **ret, GError **error)
{
    const char *path = cli_text(call, "xml");
    if (path == NULL)
        return TRUE;
    if (format == STASIS_EXPORT_VIRSH_SAVE)
        return g_file_get_contents(path, ret, NULL, error);
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                        "--xml is for --format virsh-save alone");
    return FALSE;
}

/* Whoever starts such a machine gives it its disks. */
static void warn_of_disks(CliCall *call, StasisStore *store, const char *id)
{
    g_autoptr(GPtrArray) files = stasis_image_get_disk_files(store, id, NULL);
    for (guint i = 0; files != NULL && i < files->len; i++) {
        const StasisDiskFile *file = g_ptr_array_index(files, i);
        if (file->depth == 0)
            cli_note(call,
                     "disk %s is %s, which the image refers to: start the machine with an overlay "
                     "on it (qemu-img create -b) in its place, or it writes to what images need",
                     file->disk, file->path);
    }
}

static gboolean export_image(CliCall *call, GError **error)
{
    const char *format = cli_text(call, "format"), *path = call->args[1];
    CliProgress progress = cli_progress_new(call);
    StasisExportOptions options = STASIS_EXPORT_OPTIONS_INIT;
    g_autofree char *xml = NULL;
    options.format = (StasisExportFormat)stasis_export_format_from_string(format);
    options.path = strcmp(path, "-") != 0 ? path : NULL;
    options.fd = STDOUT_FILENO;
    options.disk = cli_text(call, "disk");
    options.progress = cli_progress_show;
    options.progress_data = &progress;
    if (!check_file(call, options.format, path, error) ||
        !read_xml(call, options.format, &xml, error))
        return FALSE;
    options.domain_xml = xml;
    g_autoptr(StasisStore) store = cli_open_store(call, STASIS_STORE_EXISTING, error);
    g_autofree char *id = store != NULL ? stasis_store_resolve(store, call->args[0], error) : NULL;
    if (id == NULL)
        return FALSE;
    gboolean ok = stasis_export(store, id, &options, call->cancellable, error);
    cli_progress_end(&progress);
    if (!ok)
        return FALSE;
    if (stasis_export_format_is_stream(options.format))
        warn_of_disks(call, store, id);
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "id", id);
    cli_json_set_string(object, "format", format);
    cli_json_set_string(object, "file", path);
    cli_take_object(call, object);
    return TRUE;
}

static const CliArgument arguments[] = {
    { "ID", CLI_ONE, CLI_IMAGE, "image: its ID, a unique prefix of it, or \"latest\"" },
    { "FILE", CLI_ONE, CLI_FILE,
      "file to write, replaced once the new one is whole; \"-\": stdout (qemu and "
      "virsh-save)" },
    { NULL },
};
static const CliOption options[] = {
    { "format", 0, CLI_CHOICE, "raw-memory|elf-core|qemu|virsh-save|raw|qcow2",
      "guest-physical memory from address 0; an ELF core with a note for each vCPU; a migration "
      "stream; a file for virsh restore; a disk, as it is or in QEMU's format",
      .required = TRUE },
    { "disk", 0, CLI_TEXT, "NAME", "with raw and qcow2: the disk (checkpoint-info lists them)" },
    { "xml", 0, CLI_FILE, "FILE",
      "XML of the libvirt domain that is to go on (default: the image's own)" },
    { NULL },
};
static const CliExample examples[] = {
    { "export latest --format elf-core vm1.core", "A core that crash, gdb and readelf open" },
    { "export latest --format qemu vm1.mig",
      "For qemu-system-x86_64 … -incoming 'exec:cat vm1.mig'" },
    { "export latest --format raw --disk virtio0 vm1.img", "A disk as it was at that instant" },
    { "export latest --format qcow2 --disk virtio0 vm1.qcow2", "The same, for another QEMU" },
    { "export latest --format virsh-save web.save", "For virsh restore web.save" },
    { NULL },
};
const CliCommand cli_cmd_export = {
    .group = "image",
    .name = "export",
    .summary = "write an image for other tools",
    .description =
        "raw-memory and elf-core hold the memory of the image, laid out as the guest's physical "
        "memory: a sparse file, or an ELF core that crash(8), gdb(1) and readelf(1) open.\n\n"
        "qemu is a whole migration stream, memory and devices: a stock QEMU of the same version "
        "and with the same machine options goes on from it when it is started with -incoming. A "
        "VM that was paused when the image was taken is paused there.\n\nvirsh-save is the same "
        "with libvirt's head: virsh restore starts it. The domain's XML is the image's, when it "
        "is of a libvirt domain; else it is to be given, complete with the devices' addresses "
        "(virsh dumpxml --migratable), and must describe the same machine.\n\nraw and qcow2 are "
        "the content of one of the image's disks: a sparse file of the disk's size, or a file in "
        "QEMU's format that stands by itself, also of an image that refers to its disks. A stream "
        "of such an image names their files, which nobody may write to: whoever starts it gives it "
        "overlays on them, and export says which.",
    .arguments = arguments,
    .options = options,
    .examples = examples,
    .handler = export_image,
};

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdio.h>
#include <string.h>

#include "output.h"
#include "progress.h"

static JsonObject *image_to_json(const StasisBundleImage *image)
{
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "id", image->id);
    json_object_set_int_member(object, "created_us", image->created_us);
    return object;
}

static JsonArray *words_to_json(char **words)
{
    JsonArray *array = json_array_new();
    for (char **word = words; word != NULL && *word != NULL; word++) {
        g_autofree char *valid = g_utf8_make_valid(*word, -1);
        json_array_add_string_element(array, valid);
    }
    return array;
}

static JsonObject *to_json(const char *path, const StasisBundleInfo *info)
{
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "path", path);
    cli_json_set_string(object, "kind", info->kind);
    cli_json_set_string(object, "detail", info->detail);
    json_object_set_int_member(object, "at_us", info->at_us);
    json_object_set_int_member(object, "created_us", info->created_us);
    cli_json_set_string(object, "domain", info->domain);
    cli_json_set_string(object, "by", info->by);
    json_object_set_array_member(object, "argv", words_to_json(info->command));
    if (info->on != NULL)
        json_object_set_array_member(object, "on", words_to_json(info->on));
    cli_json_set_string(object, "stasis_version", info->stasis_version);
    cli_json_set_string(object, "qemu_version", info->qemu_version);
    cli_json_set_string(object, "kernel", info->kernel);
    cli_json_set_uint(object, "size_bytes", info->size_bytes);
    JsonArray *images = json_array_new();
    for (guint i = 0; i < info->images->len; i++)
        json_array_add_object_element(images, image_to_json(info->images->pdata[i]));
    json_object_set_array_member(object, "images", images);
    return object;
}

static void print_text(const char *what, const char *text)
{
    g_autofree char *shown = cli_printable(text);
    printf("%-10s %s\n", what, shown);
}

static void print(const StasisBundleInfo *info)
{
    g_autofree char *size = cli_format_bytes(info->size_bytes);
    g_autofree char *at = info->at_us != 0 ? cli_format_time(info->at_us) : g_strdup("-");
    g_autofree char *command = info->command != NULL ? g_strjoinv(" ", info->command) : NULL;
    g_autofree char *on = info->on != NULL ? g_strjoinv(", ", info->on) : NULL;
    print_text("failure", info->kind != NULL ? info->kind : "-");
    if (info->detail != NULL)
        print_text("detail", info->detail);
    print_text("at", at);
    print_text("VM", info->domain != NULL ? info->domain : "-");
    if (on != NULL)
        print_text("watched", on);
    if (command != NULL)
        print_text("command", command);
    print_text("stasis", info->stasis_version != NULL ? info->stasis_version : "-");
    print_text("QEMU", info->qemu_version != NULL ? info->qemu_version : "-");
    print_text("host", info->kernel != NULL ? info->kernel : "-");
    print_text("size", size);
    for (guint i = 0; i < info->images->len; i++) {
        const StasisBundleImage *image = info->images->pdata[i];
        g_autofree char *before =
            info->at_us != 0
                ? g_strdup_printf("  %.3f s before",
                                  (double)(info->at_us - image->created_us) / G_USEC_PER_SEC)
                : g_strdup("");
        printf("%-10s %s%s\n", i == 0 ? "images" : "", image->id, before);
    }
}

/* What the guest said is not let loose on a terminal. */
static void print_lines(const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line != NULL; line++) {
        g_autofree char *shown = cli_printable(g_strchomp(*line));
        if (line[1] != NULL || shown[0] != '\0')
            puts(shown);
    }
}

/* A text of the bundle's; into @object, and to be seen. */
static gboolean show_text(CliCall *call, StasisBundle *bundle, const char *option,
                          const char *member, JsonObject *object, GError **error)
{
    gsize len;
    if (!cli_flag(call, option))
        return TRUE;
    g_autoptr(GBytes) bytes = stasis_bundle_read(bundle, member, error);
    if (bytes == NULL)
        return FALSE;
    const char *text = g_bytes_get_data(bytes, &len);
    g_autofree char *valid = g_utf8_make_valid(text != NULL ? text : "", (gssize)len);
    cli_json_set_string(object, option, valid);
    if (call->json)
        return TRUE;
    printf("\n%s:\n", member);
    print_lines(valid);
    return TRUE;
}

static gboolean show(CliCall *call, GError **error)
{
    g_autoptr(StasisBundle) bundle = stasis_bundle_open(call->args[0], error);
    if (bundle == NULL)
        return FALSE;
    if (cli_flag(call, "verify")) {
        CliProgress progress = cli_progress_new(call);
        gboolean ok =
            stasis_bundle_verify(bundle, cli_progress_show, &progress, call->cancellable, error);
        cli_progress_end(&progress);
        if (!ok) {
            g_prefix_error(error, "bundle %s: ", call->args[0]);
            return FALSE;
        }
    }
    const StasisBundleInfo *info = stasis_bundle_get_info(bundle);
    g_autoptr(JsonObject) object = to_json(call->args[0], info);
    if (!call->json)
        print(info);
    if (!show_text(call, bundle, "console", "console.log", object, error) ||
        !show_text(call, bundle, "events", "events.jsonl", object, error)) {
        g_prefix_error(error, "bundle %s: ", call->args[0]);
        return FALSE;
    }
    cli_take_object(call, g_steal_pointer(&object));
    return TRUE;
}

/* Their files are not in the bundle. */
static void warn_of_disks(CliCall *call, StasisStore *store, const GPtrArray *ids)
{
    for (guint i = 0; i + 1 < ids->len; i++) {
        g_autoptr(StasisImageInfo) info = stasis_store_get_image(store, ids->pdata[i], NULL);
        if (info != NULL && info->disks_refer)
            cli_note(call,
                     "image %s refers to the files of its disks, which are not in the bundle: it "
                     "can be used only where they are, as they are (checkpoint-info lists them)",
                     info->id);
    }
}

static gboolean export_bundle(CliCall *call, GError **error)
{
    g_autoptr(StasisStore) store = cli_open_store(call, STASIS_STORE_EXISTING, error);
    g_autoptr(GPtrArray) ids = g_ptr_array_new_with_free_func(g_free);
    for (char **wanted = call->args + 1; store != NULL && *wanted != NULL; wanted++) {
        char *id = stasis_store_resolve(store, *wanted, error);
        if (id == NULL)
            return FALSE;
        g_ptr_array_add(ids, id);
    }
    if (store == NULL)
        return FALSE;
    g_autoptr(StasisImageInfo) newest =
        stasis_store_get_image(store, ids->pdata[ids->len - 1], error);
    if (newest == NULL)
        return FALSE;
    StasisBundleOptions options = STASIS_BUNDLE_OPTIONS_INIT;
    options.kind = "asked";
    options.detail = cli_text(call, "note");
    options.domain = newest->vm;
    g_ptr_array_add(ids, NULL);
    if (!stasis_bundle_create(store, (const char *const *)ids->pdata, call->args[0], &options,
                              call->cancellable, error))
        return FALSE;
    g_autoptr(StasisBundle) bundle = stasis_bundle_open(call->args[0], error);
    if (bundle == NULL)
        return FALSE;
    warn_of_disks(call, store, ids);
    cli_take_object(call, to_json(call->args[0], stasis_bundle_get_info(bundle)));
    return TRUE;
}

static gboolean import_bundle(CliCall *call, GError **error)
{
    g_autoptr(StasisBundle) bundle = stasis_bundle_open(call->args[0], error);
    g_autoptr(StasisStore) store =
        bundle != NULL ? cli_open_store(call, STASIS_STORE_CREATE, error) : NULL;
    if (store == NULL)
        return FALSE;
    CliProgress progress = cli_progress_new(call);
    g_auto(GStrv) ids =
        stasis_bundle_import(bundle, store, cli_progress_show, &progress, call->cancellable, error);
    cli_progress_end(&progress);
    if (ids == NULL) {
        g_prefix_error(error, "bundle %s: ", call->args[0]);
        return FALSE;
    }
    JsonArray *array = json_array_new();
    for (char **id = ids; *id != NULL; id++) {
        if (!call->json)
            puts(*id);
        json_array_add_string_element(array, *id);
    }
    cli_take_array(call, array);
    return TRUE;
}

static const CliArgument info_arguments[] = {
    { "FILE", CLI_ONE, CLI_FILE, "the bundle" },
    { NULL },
};
static const CliOption info_options[] = {
    { "verify", 0, CLI_FLAG, NULL, "read all of it and compare it with its checksums" },
    { "console", 0, CLI_FLAG, NULL, "print what the guest had said on its console, too" },
    { "events", 0, CLI_FLAG, NULL, "print what QEMU had told, too" },
    { NULL },
};
static const CliExample info_examples[] = {
    { "bundle-info web-panic.bundle --verify", "What failed, and is the file whole?" },
    { "bundle-info web-panic.bundle --console", "The guest's last words" },
    { NULL },
};
const CliCommand cli_cmd_bundle_info = {
    .group = "failure",
    .name = "bundle-info",
    .summary = "say what a bundle is of",
    .description =
        "Print what failed and when, of which VM, what ran, and the images in the bundle "
        "with how long before the failure each was taken; \"host\" is the kernel of the host "
        "that made it.",
    .arguments = info_arguments,
    .options = info_options,
    .examples = info_examples,
    .handler = show,
};

static const CliArgument export_arguments[] = {
    { "FILE", CLI_ONE, CLI_FILE, "the bundle; must not be there yet" },
    { "ID", CLI_SOME, CLI_IMAGE, "image: its ID, a unique prefix of it, or \"latest\"" },
    { NULL },
};
static const CliOption export_options[] = {
    { "note", 0, CLI_TEXT, "TEXT", "a line to be found in it" },
    { NULL },
};
static const CliExample export_examples[] = {
    { "bundle-export for-you.bundle latest", "An image and all that it needs, in one file" },
    { NULL },
};
const CliCommand cli_cmd_bundle_export = {
    .group = "failure",
    .name = "bundle-export",
    .summary = "put images into a bundle",
    .description = "Make one file of images, oldest first, and of all that they are incremental "
                   "to. It is a tar; what is below store/ in it is a store. Of images that "
                   "refer to the files of their disks (--disk overlay) those are not in it.",
    .arguments = export_arguments,
    .options = export_options,
    .examples = export_examples,
    .handler = export_bundle,
};

static const CliExample import_examples[] = {
    { "bundle-import web-panic.bundle", "Its images, to be restored or cloned here" },
    { NULL },
};
const CliCommand cli_cmd_bundle_import = {
    .group = "failure",
    .name = "bundle-import",
    .summary = "put the images of a bundle into the store",
    .description = "Put all images of the bundle into the store, each file compared with its "
                   "checksum, and print the IDs of those that the store did not have yet. They "
                   "keep their IDs. If it fails the store is as before; if it is killed "
                   "it may have some of them, whole.",
    .arguments = info_arguments,
    .examples = import_examples,
    .handler = import_bundle,
};

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Verifying and deleting images: several at once, and all. */
#include <stdio.h>

#include "image.h"
#include "output.h"
#include "progress.h"

/* The images the arguments name, each once. */
static GPtrArray *resolve_arguments(CliCall *call, StasisStore *store, GError **error)
{
    g_autoptr(GPtrArray) ids = g_ptr_array_new_with_free_func(g_free);
    for (char **arg = call->args; *arg != NULL; arg++) {
        gboolean process;
        g_autofree char *id = cli_resolve_any(store, *arg, &process, error);
        if (id == NULL)
            return NULL;
        if (!g_ptr_array_find_with_equal_func(ids, id, g_str_equal, NULL))
            g_ptr_array_add(ids, g_steal_pointer(&id));
    }
    return g_steal_pointer(&ids);
}

/* Damaged ones too: those are in no list, but they are what verifying is for. */
static GPtrArray *find_every(StasisStore *store, GError **error)
{
    g_auto(GStrv) ids = stasis_store_list_ids(store, error);
    g_auto(GStrv) processes = ids != NULL ? stasis_store_list_process_ids(store, error) : NULL;
    if (processes == NULL)
        return NULL;
    GPtrArray *every = g_ptr_array_new_with_free_func(g_free);
    for (char **id = ids; *id != NULL; id++)
        g_ptr_array_add(every, g_strdup(*id));
    for (char **id = processes; *id != NULL; id++)
        g_ptr_array_add(every, g_strdup(*id));
    return every;
}

static gboolean is_of_processes(StasisStore *store, const char *id)
{
    g_auto(GStrv) ids = stasis_store_list_process_ids(store, NULL);
    return ids != NULL && g_strv_contains((const char *const *)ids, id);
}

/* Tell of one image of several, in the form asked for. */
static void show_outcome(CliCall *call, JsonArray *array, const char *id, const char *word,
                         const GError *failed)
{
    g_autofree char *shown = cli_printable(failed != NULL ? failed->message : word);
    if (!call->json) {
        printf("%s: %s\n", id, shown);
        return;
    }
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "id", id);
    cli_json_set_string(object, "outcome", failed != NULL ? stasis_error_name(failed) : word);
    cli_json_set_string(object, "message", failed != NULL ? failed->message : NULL);
    json_array_add_object_element(array, object);
}

static gboolean check_ids_or_all(CliCall *call, GError **error)
{
    gboolean every = cli_flag(call, "all");
    if (every == (call->args[0] == NULL))
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "give %s",
                every ? "IDs or --all, not both" : "the IDs of images, or --all");
    return FALSE;
}

static gboolean verify(CliCall *call, GError **error)
{
    if (!check_ids_or_all(call, error))
        return FALSE;
    g_autoptr(StasisStore) store = cli_open_store(call, STASIS_STORE_EXISTING, error);
    g_autoptr(GPtrArray) ids = NULL;
    if (store != NULL)
        ids = cli_flag(call, "all") ? find_every(store, error)
                                    : resolve_arguments(call, store, error);
    if (ids == NULL)
        return FALSE;
    g_autoptr(GError) first = NULL;
    JsonArray *array = json_array_new();
    for (guint i = 0; i < ids->len; i++) {
        g_autoptr(GError) failed = NULL;
        CliProgress progress = cli_progress_new(call);
        const char *id = ids->pdata[i];
        if (is_of_processes(store, id))
            stasis_store_verify_process(store, id, cli_progress_show, &progress, call->cancellable,
                                        &failed);
        else if (stasis_store_verify(store, id, cli_progress_show, &progress, call->cancellable,
                                     &failed))
            stasis_image_check_disk_files(store, id, &failed);
        cli_progress_end(&progress);
        if (cli_flag(call, "all") && g_error_matches(failed, STASIS_ERROR, STASIS_ERROR_NOT_FOUND))
            continue; /* deleted since it was listed */
        if (failed != NULL && stasis_error_exit_code(failed) == 130) {
            g_clear_error(&first);
            first = g_steal_pointer(&failed);
            break;
        }
        show_outcome(call, array, ids->pdata[i], "ok", failed);
        fflush(stdout);
        if (failed != NULL && first == NULL)
            first = g_steal_pointer(&failed);
    }
    cli_take_array(call, array);
    if (first == NULL)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&first));
    return FALSE;
}

/* Take those of processes out of @ids. */
static GPtrArray *take_processes(StasisStore *store, GPtrArray *ids)
{
    GPtrArray *processes = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < ids->len;) {
        if (is_of_processes(store, ids->pdata[i]))
            g_ptr_array_add(processes, g_ptr_array_steal_index(ids, i));
        else
            i++;
    }
    return processes;
}

/* No one of them needs another. */
static gboolean delete_processes(StasisStore *store, GPtrArray *ids, JsonArray *array,
                                 CliCall *call, GError **error)
{
    for (guint i = 0; i < ids->len; i++) {
        if (!stasis_store_delete_process(store, ids->pdata[i], error))
            return FALSE;
        show_outcome(call, array, ids->pdata[i], "deleted", NULL);
    }
    return TRUE;
}

static gboolean delete_of_vms(StasisStore *store, GPtrArray *ids, JsonArray *array, CliCall *call,
                              GError **error)
{
    guint n = ids->len;
    g_ptr_array_add(ids, NULL);
    CliProgress progress = cli_progress_new(call);
    gboolean ok =
        stasis_store_delete_images(store, (const char *const *)ids->pdata, cli_progress_show,
                                   &progress, call->cancellable, error);
    cli_progress_end(&progress);
    for (guint i = 0; ok && i < n; i++)
        show_outcome(call, array, ids->pdata[i], "deleted", NULL);
    return ok;
}

static gboolean delete_images(CliCall *call, GError **error)
{
    g_autoptr(StasisStore) store = cli_open_store(call, STASIS_STORE_EXISTING, error);
    /* All are looked up before the first goes: "latest" is the latest of now. */
    g_autoptr(GPtrArray) ids = store != NULL ? resolve_arguments(call, store, error) : NULL;
    if (ids == NULL)
        return FALSE;
    g_autoptr(GPtrArray) processes = take_processes(store, ids);
    g_autoptr(JsonArray) array = json_array_new();
    /* Those of VMs first: data may have to move for them, which fails where there is no room. */
    gboolean ok = delete_of_vms(store, ids, array, call, error) &&
                  delete_processes(store, processes, array, call, error);
    /* What has gone is told, too. */
    if (ok || json_array_get_length(array) > 0)
        cli_take_array(call, g_steal_pointer(&array));
    return ok;
}

static const CliArgument verify_arguments[] = {
    { "ID", CLI_ANY, CLI_ANY_IMAGE, "image: its ID, a unique prefix of it, or \"latest\"" },
    { NULL },
};
static const CliOption verify_options[] = {
    { "all", 0, CLI_FLAG, NULL, "every image of the store" },
    { NULL },
};
static const CliExample verify_examples[] = {
    { "checkpoint-verify --all", "Read everything and compare it with its checksums" },
    { NULL },
};
const CliCommand cli_cmd_checkpoint_verify = {
    .group = "checkpoint",
    .name = "checkpoint-verify",
    .summary = "compare images with their checksums",
    .description =
        "Read every byte of each image and of those it is incremental to, look whether disks' "
        "files "
        "that it refers to are as they were, and print \"ID: ok\" or "
        "the first file and offset that is wrong. All are read even if one is bad; the exit "
        "status is that of the first bad one.",
    .arguments = verify_arguments,
    .options = verify_options,
    .examples = verify_examples,
    .handler = verify,
};

static const CliArgument delete_arguments[] = {
    { "ID", CLI_SOME, CLI_ANY_IMAGE, "image: its ID, a unique prefix of it, or \"latest\"" },
    { NULL },
};
static const CliExample delete_examples[] = {
    { "checkpoint-delete latest", "Drop the newest image" },
    { "checkpoint-delete 01jq4z7k2m 01jq4z9f3d", "Drop two, wherever they are in the chain" },
    { NULL },
};
const CliCommand cli_cmd_checkpoint_delete = {
    .group = "checkpoint",
    .name = "checkpoint-delete",
    .summary = "delete images",
    .description =
        "Delete the images named, wherever they are in a chain: data that other images need move "
        "to those first. All others keep their ID and their content, and can be restored at every "
        "moment, also if this is killed. Either all images of VMs that are named go or, on "
        "failure, "
        "none, and then none of processes; those go after them, one by one. "
        "VMs that are running may be checkpointed meanwhile; a VM whose newest image is deleted "
        "gets a full one next.",
    .arguments = delete_arguments,
    .examples = delete_examples,
    .handler = delete_images,
};

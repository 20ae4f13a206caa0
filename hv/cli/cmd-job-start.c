/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What stasisd does in a user's place: for those who have no rights to a VM, or to the store, but
 * whom polkit allows it. Each word is a method of the daemon's; the job is then waited for, and its
 * result is what the command of that name prints.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon.h"
#include "output.h"
#include "progress.h"

#define LOOK_US 100000

/* ---- waiting for a job ---- */

static JsonObject *look_at(GDBusConnection *daemon, guint32 id, GError **error)
{
    g_autoptr(GVariant) reply =
        cli_daemon_ask(daemon, "GetJob", g_variant_new("(u)", id), "(a{sv})", error);
    if (reply == NULL)
        return NULL;
    g_autoptr(GVariant) dictionary = g_variant_get_child_value(reply, 0);
    return cli_daemon_to_json(dictionary);
}

static gboolean is_over(JsonObject *job)
{
    const char *state = cli_member_text(job, "state");
    return g_strcmp0(state, "waiting") != 0 && g_strcmp0(state, "running") != 0;
}

static void show_phase(JsonObject *job, CliProgress *progress)
{
    const char *phase = cli_member_text(job, "phase");
    StasisProgress now = { .phase = phase != NULL ? phase : "waiting",
                           .done_bytes = (guint64)cli_member_number(job, "done_bytes"),
                           .total_bytes = (guint64)cli_member_number(job, "total_bytes") };
    cli_progress_show(&now, progress);
}

/* Its end. Ctrl-C aborts it, and waits for what becomes of that: it may be over already. */
static JsonObject *wait_for(CliCall *call, GDBusConnection *daemon, guint32 id, GError **error)
{
    gboolean asked = FALSE;
    CliProgress progress = cli_progress_new(call);
    for (;;) {
        g_autoptr(JsonObject) job = look_at(daemon, id, error);
        if (job == NULL || is_over(job)) {
            cli_progress_end(&progress);
            return g_steal_pointer(&job);
        }
        if (!asked && g_cancellable_is_cancelled(call->cancellable)) {
            g_autoptr(GVariant) reply = cli_daemon_call_with(
                daemon, NULL, "AbortJob", g_variant_new("(u)", id), NULL, "()", NULL);
            asked = TRUE;
        }
        show_phase(job, &progress);
        g_usleep(LOOK_US);
    }
}

/* What the job's process said of its failure, as if it had been ours. */
static gboolean check(CliCall *call, guint32 id, JsonObject *job, GError **error)
{
    const char *state = cli_member_text(job, "state"), *said = cli_member_text(job, "error");
    if (g_strcmp0(state, "done") == 0)
        return TRUE;
    if (g_strcmp0(state, "aborted") == 0 &&
        g_cancellable_set_error_if_cancelled(call->cancellable, error))
        return FALSE;
    g_set_error(error, STASIS_ERROR, stasis_error_from_name(cli_member_text(job, "error_name")),
                "job %u: %s", id, said != NULL ? said : state);
    return FALSE;
}

/* "/org/stasis1/job/12" */
static gboolean get_id(GVariant *reply, guint32 *ret_id, GError **error)
{
    const char *path;
    guint64 id;
    g_variant_get(reply, "(&o)", &path);
    const char *number = strrchr(path, '/') + 1;
    if (g_ascii_string_to_unsigned(number, 10, 1, G_MAXINT32, &id, NULL)) {
        *ret_id = (guint32)id;
        return TRUE;
    }
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "stasisd: \"%s\" is no job", path);
    return FALSE;
}

/* Of a job that @method has begun; consumes @parameters. @fds: to go along, or NULL. */
static JsonObject *carry_out(CliCall *call, const char *method, GVariant *parameters,
                             GUnixFDList *fds, GError **error)
{
    guint32 id;
    g_autoptr(GVariant) kept = g_variant_ref_sink(parameters);
    g_autoptr(GDBusConnection) daemon = cli_daemon_need(error);
    g_autoptr(GVariant) reply =
        daemon != NULL
            ? cli_daemon_call_with(daemon, call->cancellable, method, kept, fds, "(o)", error)
            : NULL;
    if (reply == NULL || !get_id(reply, &id, error))
        return NULL;
    cli_note(call, "job %u", id);
    g_autoptr(JsonObject) job = wait_for(call, daemon, id, error);
    return job != NULL && check(call, id, job, error) ? g_steal_pointer(&job) : NULL;
}

/* The result's member @name on stdout, or with --json all of it. */
static gboolean show(CliCall *call, JsonObject *job, const char *name)
{
    if (job == NULL)
        return FALSE;
    const char *text = cli_member_text(job, "result");
    g_autoptr(JsonNode) node = text != NULL ? json_from_string(text, NULL) : NULL;
    JsonObject *result =
        node != NULL && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
    if (call->json)
        call->result = g_steal_pointer(&node);
    else if (cli_member_text(result, name) != NULL)
        puts(cli_member_text(result, name));
    return TRUE;
}

/* ---- the words ---- */

static const char *or_nothing(const char *text)
{
    return text != NULL ? text : "";
}

/* @method of @first and @second (or NULL); of libvirt's, where @uri is said, its like for domains.
 */
static JsonObject *carry_out_at(CliCall *call, const char *uri, const char *method,
                                const char *first, const char *second, GError **error)
{
    if (uri == NULL)
        return carry_out(call, method, g_variant_new("(ss)", first, or_nothing(second)), NULL,
                         error);
    g_autofree char *of_domain = g_strconcat(method, "Domain", NULL);
    return carry_out(call, of_domain, g_variant_new("(sss)", first, or_nothing(second), uri), NULL,
                     error);
}

/* Its store is the daemon's, and so are its keys. */
static gboolean check_globals(CliCall *call, GError **error)
{
    const char *what = cli_text(call, "store") != NULL      ? "--store"
                       : cli_text(call, "key-file") != NULL ? "--key-file"
                                                            : NULL;
    if (what == NULL)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                "stasisd uses its own store and keys, of STASIS_STORE and STASIS_KEY_FILE in "
                "/etc/default/stasisd: there is no %s here",
                what);
    return FALSE;
}

static gboolean checkpoint(CliCall *call, GError **error)
{
    if (!check_globals(call, error))
        return FALSE;
    g_autoptr(JsonObject) job =
        carry_out_at(call, cli_daemon_connection(call, call->args[0]), "Checkpoint", call->args[0],
                     cli_text(call, "note"), error);
    return show(call, job, "id");
}

static gboolean restore(CliCall *call, GError **error)
{
    if (!check_globals(call, error))
        return FALSE;
    g_autoptr(JsonObject) job = carry_out_at(call, cli_connection(call), "Restore", call->args[0],
                                             cli_text(call, "name"), error);
    return show(call, job, "name");
}

static gboolean rollback(CliCall *call, GError **error)
{
    if (!check_globals(call, error))
        return FALSE;
    g_autoptr(JsonObject) job = carry_out_at(call, cli_daemon_connection(call, call->args[0]),
                                             "Rollback", call->args[0], call->args[1], error);
    return show(call, job, "safety_id");
}

/* Into @fd, which is the daemon's then, too. */
static gboolean export_to(CliCall *call, int fd, GError **error)
{
    const char *format = cli_text(call, "format");
    g_autoptr(GUnixFDList) fds = g_unix_fd_list_new();
    int handle = g_unix_fd_list_append(fds, fd, error);
    g_autoptr(JsonObject) job =
        handle >= 0 ? carry_out(call, "Export",
                                g_variant_new("(ssh)", call->args[0], format, handle), fds, error)
                    : NULL;
    return job != NULL;
}

/* Written beside its place, so that it is whole or not there. */
static gboolean export_to_file(CliCall *call, const char *path, GError **error)
{
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        /* Renaming over a device node or a pipe would do away with it. */
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "%s is no regular file; name a file to export to, or \"-\"", path);
        return FALSE;
    }
    g_autofree char *aside = g_strconcat(path, ".XXXXXX", NULL);
    int fd = g_mkstemp_full(aside, O_WRONLY | O_CLOEXEC, 0600);
    int code = errno;
    gboolean ok = fd >= 0 && export_to(call, fd, error);
    if (ok && (fsync(fd) < 0 || g_rename(aside, path) < 0)) {
        code = errno;
        ok = FALSE;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "cannot write %s: %s", path,
                    g_strerror(code));
    } else if (fd < 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "cannot make %s: %s", path,
                    g_strerror(code));
    }
    if (fd >= 0)
        close(fd);
    if (fd >= 0 && !ok)
        g_unlink(aside);
    return ok;
}

static gboolean export_image(CliCall *call, GError **error)
{
    if (!check_globals(call, error))
        return FALSE;
    const char *path = call->args[1];
    return strcmp(path, "-") == 0 ? export_to(call, STDOUT_FILENO, error)
                                  : export_to_file(call, path, error);
}

/* ---- the table ---- */

#define HOW                                                                                    \
    " For users whom polkit allows that (org.stasis1.*), who need no rights to the VM or the " \
    "store; the daemon's own are used. With --connect it is about libvirt domains: of "        \
    "qemu:///system, as another only root may name. Waits for the job; Ctrl-C aborts it, and " \
    "when this "                                                                               \
    "command is killed it goes on, see job-list."

static const CliArgument vm_argument[] = {
    { "NAME", CLI_ONE, CLI_VM, "name of the VM" },
    { NULL },
};
static const CliOption checkpoint_options[] = {
    { "note", 0, CLI_TEXT, "TEXT", "description to keep in the image" },
    { NULL },
};
static const CliExample checkpoint_examples[] = {
    { "job-checkpoint web --note \"before the upgrade\"", "Prints the new image's ID" },
    { NULL },
};
const CliCommand cli_cmd_job_checkpoint = {
    .group = "service",
    .name = "job-checkpoint",
    .summary = "have stasisd take a checkpoint of a VM",
    .description = "Have stasisd take a checkpoint of VM NAME, as checkpoint-create does." HOW,
    .arguments = vm_argument,
    .options = checkpoint_options,
    .examples = checkpoint_examples,
    .handler = checkpoint,
};

static const CliArgument restore_arguments[] = {
    { "ID", CLI_ONE, CLI_IMAGE, "image: its ID, a unique prefix of it, or \"latest\"" },
    { NULL },
};
static const CliOption restore_options[] = {
    { "name", 0, CLI_TEXT, "NAME", "name of the new VM (default: the image's)" },
    { NULL },
};
static const CliExample restore_examples[] = {
    { "job-restore latest --name twin", "Prints the VM's name" },
    { NULL },
};
const CliCommand cli_cmd_job_restore = {
    .group = "service",
    .name = "job-restore",
    .summary = "have stasisd start a VM from an image",
    .description = "Have stasisd start a VM from image ID, as restore does." HOW,
    .arguments = restore_arguments,
    .options = restore_options,
    .examples = restore_examples,
    .handler = restore,
};

static const CliArgument rollback_arguments[] = {
    { "NAME", CLI_ONE, CLI_VM, "name of the VM" },
    { "ID", CLI_OPTIONAL, CLI_IMAGE,
      "image of it (default: the one that rollback takes, its last)" },
    { NULL },
};
static const CliExample rollback_examples[] = {
    { "job-rollback web 01jq4z7k2m", "The VM goes on from there, in the same process" },
    { NULL },
};
const CliCommand cli_cmd_job_rollback = {
    .group = "service",
    .name = "job-rollback",
    .summary = "have stasisd take a VM back to an image",
    .description =
        "Have stasisd take VM NAME back to image ID, as rollback --safety does; prints the ID of "
        "the image that has been taken before." HOW,
    .arguments = rollback_arguments,
    .examples = rollback_examples,
    .handler = rollback,
};

static const CliArgument export_arguments[] = {
    { "ID", CLI_ONE, CLI_IMAGE, "image: its ID, a unique prefix of it, or \"latest\"" },
    { "FILE", CLI_ONE, CLI_FILE, "file to write, replaced once it is whole; \"-\": stdout" },
    { NULL },
};
static const CliOption export_options[] = {
    { "format", 0, CLI_CHOICE, "qemu|virsh-save", "a migration stream, or a file for virsh restore",
      .required = TRUE },
    { NULL },
};
static const CliExample export_examples[] = {
    { "job-export latest --format qemu web.mig", "All of its memory, in a file of the caller's" },
    { NULL },
};
const CliCommand cli_cmd_job_export = {
    .group = "service",
    .name = "job-export",
    .summary = "have stasisd write an image to a file of the caller's",
    .description =
        "Have stasisd write image ID, memory and devices, to FILE, as export does. The file is "
        "opened, and is the caller's: the daemon gets a descriptor." HOW,
    .arguments = export_arguments,
    .options = export_options,
    .examples = export_examples,
    .handler = export_image,
};

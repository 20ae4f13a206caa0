/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The manager's methods, one row each: what polkit is asked before, and what is done then. Whatever
 * is somebody's own he may see, run, end and remove without that: he was allowed to make it.
 */
#include <gio/gunixfdlist.h>
#include <stasis/error.h>
#include <stasis/store.h>
#include <string.h>
#include <unistd.h>

#include "daemon/methods-internal.h"
#include "vmm/domain.h"

#define SYSTEM_LIBVIRT "qemu:///system"

/* The reply, floating; NULL with @error, or without one if the call is answered by and by. */
typedef GVariant *(*Handler)(const StasisdCall *call, GError **error);

static gboolean refuse(GError **error, const char *what)
{
    g_set_error_literal(error, G_DBUS_ERROR, G_DBUS_ERROR_ACCESS_DENIED, what);
    return FALSE;
}

static GVariant *nothing(void)
{
    return g_variant_new("()");
}

/* ---- policies ---- */

static GVariant *list_policies(const StasisdCall *call, GError **error)
{
    GVariantBuilder all;
    g_autoptr(GList) vms = stasisd_service_vms(call->bus->service);
    g_variant_builder_init(&all, G_VARIANT_TYPE("aa{sv}"));
    for (GList *vm = vms; vm != NULL; vm = vm->next) {
        if (stasisd_peer_sees(call->peer,
                              stasisd_service_policy(call->bus->service, vm->data)->owner))
            g_variant_builder_add_value(
                &all, stasisd_to_variant(stasisd_service_describe(call->bus->service, vm->data)));
    }
    return g_variant_new("(aa{sv})", &all);
}

/* What he does not see is not there, when he is @to_see it; he who was allowed to do something with
 * it may. */
static const StasisPolicy *find_policy(const StasisdCall *call, gboolean to_see, GError **error)
{
    const char *vm;
    g_variant_get(call->in, "(&s)", &vm);
    const StasisPolicy *policy = stasisd_service_policy(call->bus->service, vm);
    if (policy != NULL && (!to_see || stasisd_peer_sees(call->peer, policy->owner)))
        return policy;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                "VM \"%s\" has no policy; see `stasis policy-list`", vm);
    return NULL;
}

static GVariant *get_policy(const StasisdCall *call, GError **error)
{
    const StasisPolicy *policy = find_policy(call, /* to_see= */ TRUE, error);
    return policy != NULL ? g_variant_new("(@a{sv})", stasisd_to_variant(stasisd_service_describe(
                                                          call->bus->service, policy->vm)))
                          : NULL;
}

/* The daemon believes the libvirtd that it connects to, as root: which one is not for others to
 * say.
 */
static gboolean may_connect(const StasisdCall *call, const char *uri, GError **error)
{
    return uri == NULL || stasisd_peer_is_master(call->peer) || strcmp(uri, SYSTEM_LIBVIRT) == 0 ||
           refuse(error, "only root may name a libvirtd other than " SYSTEM_LIBVIRT);
}

/* The daemon does with its own rights what a policy says: only a master may say where to. */
static gboolean check_settings(const StasisdCall *call, const StasisPolicy *policy, GError **error)
{
    const StasisPolicy *old = stasisd_service_policy(call->bus->service, policy->vm);
    if (stasisd_peer_is_master(call->peer))
        return TRUE;
    if (policy->store != NULL)
        return refuse(error, "only root may say which store a policy's images go to");
    if (!may_connect(call, policy->connect, error))
        return FALSE;
    if (policy->guard_do != NULL && strcmp(policy->guard_do, "capture") != 0)
        return refuse(error, "only root may have a guard take a VM back");
    /* What is in it would be told by what it seems to count, and by when it changes. */
    if (policy->missed_word != 0 || policy->cycle_word != 0)
        return refuse(error, "only root may have a word of a guest's memory read");
    if (old != NULL && old->owner != call->peer->uid)
        return refuse(error, "that VM's policy is another user's");
    return TRUE;
}

static GVariant *set_policy(const StasisdCall *call, GError **error)
{
    g_autoptr(StasisPolicy) policy = stasisd_call_settings(call, error);
    if (policy == NULL || !check_settings(call, policy, error))
        return NULL;
    policy->owner = call->peer->uid;
    if (!stasis_policy_save(policy, error))
        return NULL;
    stasisd_service_reload(call->bus->service);
    return nothing();
}

/* Also one that can't be read, and so is none of ours. */
static GVariant *remove_policy(const StasisdCall *call, GError **error)
{
    const char *vm;
    g_variant_get(call->in, "(&s)", &vm);
    if (!stasis_policy_remove(vm, error))
        return NULL;
    stasisd_service_reload(call->bus->service);
    return nothing();
}

/* ---- jobs ---- */

static GVariant *job_reply(const StasisdJob *job)
{
    g_autofree char *path = job != NULL ? stasisd_job_path(job->id) : NULL;
    return path != NULL ? g_variant_new("(o)", path) : NULL;
}

static GVariant *run_policy(const StasisdCall *call, GError **error)
{
    const StasisPolicy *policy = find_policy(call, /* to_see= */ FALSE, error);
    return policy != NULL ? job_reply(stasisd_service_run(call->bus->service, policy->vm, error))
                          : NULL;
}

/* A word of a command line, that must be no option. */
static gboolean check_word(const char *what, const char *word, GError **error)
{
    if (*word != '\0' && *word != '-')
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "%s: \"%s\" can't be one", what, word);
    return FALSE;
}

static GVariant *add(const StasisdCall *call, const char *kind, const char *vm,
                     const char *const *argv, int out_fd)
{
    g_autofree char *connect = stasisd_call_connect(call);
    return job_reply(stasisd_jobs_add(stasisd_service_jobs(call->bus->service), kind, vm, connect,
                                      call->peer->uid, argv, out_fd));
}

#define AS_JOB "--json", "--progress", "json"

/* "--connect=URI"; "" where none is said. NULL with @error. Free with g_free(). */
static char *connect_option(const StasisdCall *call, GError **error)
{
    const char *uri;
    if (g_variant_n_children(call->in) <= STASISD_CONNECT_AT)
        return g_strdup("");
    g_variant_get_child(call->in, STASISD_CONNECT_AT, "&s", &uri);
    return stasis_domain_check_uri(uri, error) && may_connect(call, uri, error)
               ? g_strconcat("--connect=", uri, NULL)
               : NULL;
}

static void get_two(const StasisdCall *call, const char **ret_first, const char **ret_second)
{
    g_variant_get_child(call->in, 0, "&s", ret_first);
    g_variant_get_child(call->in, 1, "&s", ret_second);
}

/* @command of @whom; of @options those that are not "", each a word of its own. */
static GVariant *add_with(const StasisdCall *call, const char *kind, const char *vm,
                          const char *command, const char *whom, const char *const *options)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    const char *const words[] = { command, whom, AS_JOB };
    for (guint i = 0; i < G_N_ELEMENTS(words); i++)
        g_ptr_array_add(argv, (gpointer)words[i]);
    for (; *options != NULL; options++)
        if (**options != '\0')
            g_ptr_array_add(argv, (gpointer)*options);
    g_ptr_array_add(argv, NULL);
    return add(call, kind, vm, (const char *const *)argv->pdata, -1);
}

static GVariant *checkpoint(const StasisdCall *call, GError **error)
{
    const char *vm, *note;
    get_two(call, &vm, &note);
    g_autofree char *connect = check_word("VM", vm, error) ? connect_option(call, error) : NULL;
    if (connect == NULL)
        return NULL;
    g_autofree char *option = g_strconcat("--note=", note, NULL);
    const char *const options[] = { connect, *note != '\0' ? option : "", NULL };
    return add_with(call, "checkpoint", vm, "checkpoint-create", vm, options);
}

static GVariant *restore(const StasisdCall *call, GError **error)
{
    const char *image, *name;
    get_two(call, &image, &name);
    g_autofree char *connect =
        check_word("image", image, error) ? connect_option(call, error) : NULL;
    if (connect == NULL)
        return NULL;
    g_autofree char *option = g_strconcat("--name=", name, NULL);
    const char *const options[] = { connect, *name != '\0' ? option : "", NULL };
    return add_with(call, "restore", name, "restore", image, options);
}

static GVariant *rollback(const StasisdCall *call, GError **error)
{
    const char *vm, *image;
    get_two(call, &vm, &image);
    if (!check_word("VM", vm, error) || (*image != '\0' && !check_word("image", image, error)))
        return NULL;
    g_autofree char *connect = connect_option(call, error);
    if (connect == NULL)
        return NULL;
    /* Nobody is there to be asked whether what the VM has done since may be lost. */
    const char *const options[] = { "--safety", connect, image, NULL };
    return add_with(call, "rollback", vm, "rollback", vm, options);
}

static GVariant *export(const StasisdCall *call, GError **error)
{
    const char *image, *format;
    gint32 handle;
    g_variant_get(call->in, "(&s&sh)", &image, &format, &handle);
    if (!check_word("image", image, error))
        return NULL;
    if (strcmp(format, "qemu") != 0 && strcmp(format, "virsh-save") != 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "format \"%s\" can't be written to a descriptor: qemu or virsh-save can",
                    format);
        return NULL;
    }
    GUnixFDList *list =
        g_dbus_message_get_unix_fd_list(g_dbus_method_invocation_get_message(call->invocation));
    int fd = list != NULL ? g_unix_fd_list_get(list, handle, error) : -1;
    if (list == NULL)
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE, "no descriptor came along");
    if (fd < 0)
        return NULL;
    const char *const argv[] = { "export",     image,  "--format", format,
                                 "--progress", "json", "-",        NULL };
    return add(call, "export", "", argv, fd);
}

static GVariant *list_jobs(const StasisdCall *call, GError **error)
{
    GVariantBuilder all;
    const GPtrArray *jobs = stasisd_jobs_all(stasisd_service_jobs(call->bus->service));
    g_variant_builder_init(&all, G_VARIANT_TYPE("aa{sv}"));
    for (guint i = 0; i < jobs->len; i++) {
        const StasisdJob *job = jobs->pdata[i];
        if (stasisd_peer_sees(call->peer, job->owner))
            g_variant_builder_add_value(
                &all, stasisd_to_variant(stasisd_job_to_json(job, /* live= */ TRUE)));
    }
    return g_variant_new("(aa{sv})", &all);
}

static StasisdJob *find_job(const StasisdCall *call, gboolean to_see, GError **error)
{
    guint32 id;
    g_variant_get(call->in, "(u)", &id);
    StasisdJob *job = stasisd_jobs_find(stasisd_service_jobs(call->bus->service), id);
    if (job != NULL && (!to_see || stasisd_peer_sees(call->peer, job->owner)))
        return job;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND, "no job %u; see `stasis job-list`",
                id);
    return NULL;
}

static GVariant *get_job(const StasisdCall *call, GError **error)
{
    const StasisdJob *job = find_job(call, /* to_see= */ TRUE, error);
    return job != NULL
               ? g_variant_new("(@a{sv})", stasisd_to_variant(stasisd_job_to_json(job, TRUE)))
               : NULL;
}

static GVariant *abort_job(const StasisdCall *call, GError **error)
{
    StasisdJob *job = find_job(call, /* to_see= */ FALSE, error);
    if (job == NULL)
        return NULL;
    stasisd_jobs_abort(stasisd_service_jobs(call->bus->service), job);
    return nothing();
}

/* ---- images ---- */

static GVariant *list_images(const StasisdCall *call, GError **error)
{
    const char *vm;
    g_variant_get(call->in, "(&s)", &vm);
    stasisd_bus_list_images(call->bus, call->peer, vm, call->invocation, error);
    return NULL;
}

static GVariant *watch(const StasisdCall *call, GError **error)
{
    call->peer->watches = TRUE;
    return nothing();
}

/* ---- the table ---- */

typedef struct {
    const char *name;
    const char *action; /* of polkit; READ alone decides what is seen, and refuses nothing */
    Handler handler;
    /* What polkit's rules are told; not of READ, which is granted for all that there is. */
    StasisdAboutFunc about;
    StasisdOwnFunc own; /* polkit is not asked for what is; NULL: it is asked always */
} Method;

#define READ "org.stasis1.read"
#define CREATE "org.stasis1.create"
#define RESTORE "org.stasis1.restore"
#define EXPORT "org.stasis1.export"

static const Method methods[] = {
    { "ListPolicies", READ, list_policies },
    { "GetPolicy", READ, get_policy, .own = stasisd_own_policy },
    { "SetPolicy", CREATE, set_policy, stasisd_about_settings },
    { "RemovePolicy", CREATE, remove_policy, stasisd_about_policy, stasisd_own_policy },
    { "RunPolicy", CREATE, run_policy, stasisd_about_policy, stasisd_own_policy },
    { "Checkpoint", CREATE, checkpoint, stasisd_about_vm },
    { "CheckpointDomain", CREATE, checkpoint, stasisd_about_vm },
    { "Restore", RESTORE, restore, stasisd_about_image },
    { "RestoreDomain", RESTORE, restore, stasisd_about_image },
    { "Rollback", RESTORE, rollback, stasisd_about_both },
    { "RollbackDomain", RESTORE, rollback, stasisd_about_both },
    { "Export", EXPORT, export, stasisd_about_image },
    { "ListJobs", READ, list_jobs },
    { "GetJob", READ, get_job, .own = stasisd_own_job },
    { "AbortJob", CREATE, abort_job, stasisd_about_job, stasisd_own_job },
    { "ListImages", READ, list_images },
    { "Watch", READ, watch },
};

/* ---- calls ---- */

typedef struct {
    const Method *method;
    StasisdCall call;
} Pending;

/* "not-found" is org.stasis1.Error.NotFound. */
static char *error_name(const GError *error)
{
    GString *name = g_string_new("org.stasis1.Error.");
    gboolean upper = TRUE;
    for (const char *c = stasis_error_name(error); *c != '\0'; c++) {
        if (*c != '-')
            g_string_append_c(name, upper ? g_ascii_toupper(*c) : *c);
        upper = *c == '-';
    }
    return g_string_free(name, FALSE);
}

void stasisd_bus_return_error(GDBusMethodInvocation *invocation, const GError *error)
{
    g_autofree char *name = error_name(error);
    if (error->domain == G_DBUS_ERROR)
        g_dbus_method_invocation_return_gerror(invocation, error);
    else
        g_dbus_method_invocation_return_dbus_error(invocation, name, error->message);
}

static void carry_out(Pending *pending)
{
    g_autoptr(GError) error = NULL;
    GDBusMethodInvocation *invocation = pending->call.invocation;
    GVariant *reply = pending->method->handler(&pending->call, &error);
    if (reply != NULL)
        g_dbus_method_invocation_return_value(invocation, reply);
    else if (error != NULL)
        stasisd_bus_return_error(invocation, error);
}

static void pending_free(Pending *pending)
{
    stasisd_peer_unref(pending->call.peer);
    g_variant_unref(pending->call.in);
    g_free(pending);
}

static void on_authorized(const char *refusal, gpointer data)
{
    Pending *pending = data;
    gboolean read = strcmp(pending->method->action, READ) == 0;
    if (read && refusal == NULL)
        pending->call.peer->may_read = TRUE;
    if (read || refusal == NULL)
        carry_out(pending);
    else
        g_dbus_method_invocation_return_dbus_error(
            pending->call.invocation, "org.freedesktop.DBus.Error.AccessDenied", refusal);
    pending_free(pending);
}

void stasisd_bus_call(StasisdBus *bus, StasisdPeer *peer, const char *method, GVariant *parameters,
                      GDBusMethodInvocation *invocation)
{
    const Method *found = NULL;
    for (guint i = 0; i < G_N_ELEMENTS(methods) && found == NULL; i++)
        found = strcmp(methods[i].name, method) == 0 ? &methods[i] : NULL;
    g_assert(found != NULL); /* GDBus lets pass only what the interface has */
    Pending *pending = g_new0(Pending, 1);
    pending->method = found;
    pending->call =
        (StasisdCall){ bus, stasisd_peer_ref(peer), g_variant_ref(parameters), invocation };
    /* Polkit is not asked, and has allowed nothing beyond. */
    if ((found->own != NULL && found->own(&pending->call)) ||
        (strcmp(found->action, READ) == 0 && peer->may_read)) {
        carry_out(pending);
        pending_free(pending);
        return;
    }
    gboolean interactive =
        g_dbus_message_get_flags(g_dbus_method_invocation_get_message(invocation)) &
        G_DBUS_MESSAGE_FLAGS_ALLOW_INTERACTIVE_AUTHORIZATION;
    g_auto(StasisdAbout) about = { 0 };
    if (found->about != NULL && !stasisd_peer_is_master(peer))
        found->about(&pending->call, &about);
    stasisd_about_domain(&pending->call, &about);
    stasisd_peer_authorize(peer, found->action, stasisd_about_details(&about), interactive,
                           on_authorized, pending);
}

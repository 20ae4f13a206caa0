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

#include "daemon/bus-internal.h"
#include "vmm/domain.h"

#define SYSTEM_LIBVIRT "qemu:///system"
/* What rules are told of a domain's image: which libvirtd had that is not in it. */
#define SOME_LIBVIRT "libvirt"

typedef struct {
    StasisdBus *bus;
    StasisdPeer *peer;
    GVariant *in;
    GDBusMethodInvocation *invocation;
} Call;

/* Arguments of CheckpointDomain and its like: the third is where the domain is; the others have
 * none. */
#define CONNECT_AT 2u

/* The reply, floating; NULL with @error, or without one if the call is answered by and by. */
typedef GVariant *(*Handler)(const Call *call, GError **error);

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

static GVariant *list_policies(const Call *call, GError **error)
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
static const StasisPolicy *find_policy(const Call *call, gboolean to_see, GError **error)
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

static GVariant *get_policy(const Call *call, GError **error)
{
    const StasisPolicy *policy = find_policy(call, /* to_see= */ TRUE, error);
    return policy != NULL ? g_variant_new("(@a{sv})", stasisd_to_variant(stasisd_service_describe(
                                                          call->bus->service, policy->vm)))
                          : NULL;
}

/* The daemon believes the libvirtd that it connects to, as root: which one is not for others to
 * say.
 */
static gboolean may_connect(const Call *call, const char *uri, GError **error)
{
    return uri == NULL || stasisd_peer_is_master(call->peer) || strcmp(uri, SYSTEM_LIBVIRT) == 0 ||
           refuse(error, "only root may name a libvirtd other than " SYSTEM_LIBVIRT);
}

/* The daemon does with its own rights what a policy says: only a master may say where to. */
static gboolean check_settings(const Call *call, const StasisPolicy *policy, GError **error)
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

static StasisPolicy *read_settings(const Call *call, GError **error)
{
    g_autoptr(GVariant) settings = g_variant_get_child_value(call->in, 0);
    gsize len;
    g_autofree char *text = json_gvariant_serialize_data(settings, &len);
    return stasis_policy_from_text(text != NULL ? text : "", text != NULL ? (gssize)len : 0, error);
}

static GVariant *set_policy(const Call *call, GError **error)
{
    g_autoptr(StasisPolicy) policy = read_settings(call, error);
    if (policy == NULL || !check_settings(call, policy, error))
        return NULL;
    policy->owner = call->peer->uid;
    if (!stasis_policy_save(policy, error))
        return NULL;
    stasisd_service_reload(call->bus->service);
    return nothing();
}

/* Also one that can't be read, and so is none of ours. */
static GVariant *remove_policy(const Call *call, GError **error)
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

static GVariant *run_policy(const Call *call, GError **error)
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

/* Of a domain, where it is. Free with g_free(); NULL: of none. */
static char *connect_of(const Call *call)
{
    char *uri = NULL;
    if (g_variant_n_children(call->in) > CONNECT_AT &&
        g_variant_is_of_type(call->in, G_VARIANT_TYPE("(sss)")))
        g_variant_get_child(call->in, CONNECT_AT, "s", &uri);
    return uri;
}

static GVariant *add(const Call *call, const char *kind, const char *vm, const char *const *argv,
                     int out_fd)
{
    g_autofree char *connect = connect_of(call);
    return job_reply(stasisd_jobs_add(stasisd_service_jobs(call->bus->service), kind, vm, connect,
                                      call->peer->uid, argv, out_fd));
}

#define AS_JOB "--json", "--progress", "json"

/* "--connect=URI"; "" where none is said. NULL with @error. Free with g_free(). */
static char *connect_option(const Call *call, GError **error)
{
    const char *uri;
    if (g_variant_n_children(call->in) <= CONNECT_AT)
        return g_strdup("");
    g_variant_get_child(call->in, CONNECT_AT, "&s", &uri);
    return stasis_domain_check_uri(uri, error) && may_connect(call, uri, error)
               ? g_strconcat("--connect=", uri, NULL)
               : NULL;
}

static void get_two(const Call *call, const char **ret_first, const char **ret_second)
{
    g_variant_get_child(call->in, 0, "&s", ret_first);
    g_variant_get_child(call->in, 1, "&s", ret_second);
}

/* @command of @whom; of @options those that are not "", each a word of its own. */
static GVariant *add_with(const Call *call, const char *kind, const char *vm, const char *command,
                          const char *whom, const char *const *options)
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

static GVariant *checkpoint(const Call *call, GError **error)
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

static GVariant *restore(const Call *call, GError **error)
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

static GVariant *rollback(const Call *call, GError **error)
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

static GVariant *export(const Call *call, GError **error)
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

static GVariant *list_jobs(const Call *call, GError **error)
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

static StasisdJob *find_job(const Call *call, gboolean to_see, GError **error)
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

static GVariant *get_job(const Call *call, GError **error)
{
    const StasisdJob *job = find_job(call, /* to_see= */ TRUE, error);
    return job != NULL
               ? g_variant_new("(@a{sv})", stasisd_to_variant(stasisd_job_to_json(job, TRUE)))
               : NULL;
}

static GVariant *abort_job(const Call *call, GError **error)
{
    StasisdJob *job = find_job(call, /* to_see= */ FALSE, error);
    if (job == NULL)
        return NULL;
    stasisd_jobs_abort(stasisd_service_jobs(call->bus->service), job);
    return nothing();
}

/* ---- images ---- */

static GVariant *list_images(const Call *call, GError **error)
{
    const char *vm;
    g_variant_get(call->in, "(&s)", &vm);
    stasisd_bus_list_images(call->bus, call->peer, vm, call->invocation, error);
    return NULL;
}

static GVariant *watch(const Call *call, GError **error)
{
    call->peer->watches = TRUE;
    return nothing();
}

/* ---- what it is about, for polkit's rules ---- */

typedef struct {
    char *vm, *image, *connect; /* or NULL */
} About;

static void about_clear(About *about)
{
    g_free(about->vm);
    g_free(about->image);
    g_free(about->connect);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(About, about_clear)

static void about_vm(Call *call, About *about)
{
    g_variant_get_child(call->in, 0, "s", &about->vm);
}

/* The policy that it has. */
static void about_policy(Call *call, About *about)
{
    about_vm(call, about);
    const StasisPolicy *policy = stasisd_service_policy(call->bus->service, about->vm);
    about->connect = policy != NULL ? g_strdup(policy->connect) : NULL;
}

/* As they are read for good, since a caller may say things twice. */
static void about_settings(Call *call, About *about)
{
    g_autoptr(StasisPolicy) policy = read_settings(call, NULL);
    about->vm = policy != NULL ? g_strdup(policy->vm) : NULL;
    about->connect = policy != NULL ? g_strdup(policy->connect) : NULL;
}

static void about_job(Call *call, About *about)
{
    guint32 id;
    g_variant_get(call->in, "(u)", &id);
    const StasisdJob *job = stasisd_jobs_find(stasisd_service_jobs(call->bus->service), id);
    about->vm = job != NULL ? g_strdup(job->vm) : NULL;
    about->connect = job != NULL ? g_strdup(job->connect) : NULL;
}

/* The image that argument @at says becomes its full ID, for good: what was looked at is what is
 * used. NULL: it is none. */
static StasisImageInfo *settle_image(Call *call, gsize at)
{
    const char *word;
    g_variant_get_child(call->in, at, "&s", &word);
    g_autoptr(StasisStore) store = stasis_store_open(NULL, STASIS_STORE_EXISTING, NULL);
    g_autofree char *id = store != NULL ? stasis_store_resolve(store, word, NULL) : NULL;
    StasisImageInfo *info = id != NULL ? stasis_store_get_image(store, id, NULL) : NULL;
    if (info == NULL)
        return NULL;
    gsize n = g_variant_n_children(call->in);
    g_autofree GVariant **children = g_new0(GVariant *, n);
    for (gsize i = 0; i < n; i++)
        children[i] = i == at ? g_variant_new_take_string(g_strdup(id))
                              : g_variant_get_child_value(call->in, i);
    GVariant *settled = g_variant_ref_sink(g_variant_new_tuple(children, n));
    for (gsize i = 0; i < n; i++)
        if (i != at)
            g_variant_unref(children[i]);
    g_variant_unref(call->in);
    call->in = settled;
    return info;
}

/* Of a libvirtd's domain, if the call names one; else of a VM of stasis. These may have the same
 * names. */
static gboolean is_of_kind(const Call *call, const StasisImageInfo *info)
{
    g_autofree char *connect = connect_of(call);
    return info->of_domain == (connect != NULL);
}

/* An image's VM is the one that it was taken of. Where that was a domain, and no libvirtd is
 * named, rules are told so; a domain that is to have a VM's memory is not that VM's matter alone.
 */
static void about_image(Call *call, About *about)
{
    g_autoptr(StasisImageInfo) info = settle_image(call, 0);
    if (info != NULL && (info->of_domain || is_of_kind(call, info)))
        about->vm = g_strdup(info->vm);
    if (info != NULL && info->of_domain && !is_of_kind(call, info))
        about->connect = g_strdup(SOME_LIBVIRT);
    about->image = info != NULL ? g_strdup(info->id) : NULL;
}

/* With an image of another VM it is not that VM's matter alone: no VM is told then. */
static void about_both(Call *call, About *about)
{
    g_autofree char *vm = NULL, *image = NULL;
    g_variant_get_child(call->in, 0, "s", &vm);
    g_variant_get_child(call->in, 1, "s", &image);
    g_autoptr(StasisImageInfo) info = *image != '\0' ? settle_image(call, 1) : NULL;
    if (*image == '\0' || (info != NULL && g_strcmp0(info->vm, vm) == 0 && is_of_kind(call, info)))
        about->vm = g_steal_pointer(&vm);
    about->image = info != NULL ? g_strdup(info->id) : NULL;
}

/* Of a domain, where it is: a VM of stasis may have the same name. */
static void about_domain(const Call *call, About *about)
{
    if (about->connect == NULL)
        about->connect = connect_of(call);
}

/* "a{ss}", floating. */
static GVariant *details_of(const About *about)
{
    GVariantBuilder details;
    g_variant_builder_init(&details, G_VARIANT_TYPE("a{ss}"));
    if (about->vm != NULL)
        g_variant_builder_add(&details, "{ss}", "vm", about->vm);
    if (about->image != NULL)
        g_variant_builder_add(&details, "{ss}", "image", about->image);
    if (about->connect != NULL)
        g_variant_builder_add(&details, "{ss}", "connect", about->connect);
    return g_variant_builder_end(&details);
}

/* ---- the table ---- */

typedef struct {
    const char *name;
    const char *action; /* of polkit; READ alone decides what is seen, and refuses nothing */
    Handler handler;
    /* What polkit's rules are told; not of READ, which is granted for all that there is. */
    void (*about)(Call *call, About *about);
} Method;

#define READ "org.stasis1.read"
#define CREATE "org.stasis1.create"
#define RESTORE "org.stasis1.restore"
#define EXPORT "org.stasis1.export"

static const Method methods[] = {
    { "ListPolicies", READ, list_policies },
    { "GetPolicy", READ, get_policy },
    { "SetPolicy", CREATE, set_policy, about_settings },
    { "RemovePolicy", CREATE, remove_policy, about_policy },
    { "RunPolicy", CREATE, run_policy, about_policy },
    { "Checkpoint", CREATE, checkpoint, about_vm },
    { "CheckpointDomain", CREATE, checkpoint, about_vm },
    { "Restore", RESTORE, restore, about_image },
    { "RestoreDomain", RESTORE, restore, about_image },
    { "Rollback", RESTORE, rollback, about_both },
    { "RollbackDomain", RESTORE, rollback, about_both },
    { "Export", EXPORT, export, about_image },
    { "ListJobs", READ, list_jobs },
    { "GetJob", READ, get_job },
    { "AbortJob", CREATE, abort_job, about_job },
    { "ListImages", READ, list_images },
    { "Watch", READ, watch },
};

/* ---- calls ---- */

typedef struct {
    const Method *method;
    Call call;
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

/* Is what it is about his own? */
static gboolean is_own(const Call *call, const char *method)
{
    const char *vm;
    guint32 id;
    if (strcmp(method, "RemovePolicy") == 0 || strcmp(method, "RunPolicy") == 0 ||
        strcmp(method, "GetPolicy") == 0) {
        g_variant_get(call->in, "(&s)", &vm);
        const StasisPolicy *policy = stasisd_service_policy(call->bus->service, vm);
        return policy != NULL && policy->owner == call->peer->uid;
    }
    if (strcmp(method, "AbortJob") != 0 && strcmp(method, "GetJob") != 0)
        return FALSE;
    g_variant_get(call->in, "(u)", &id);
    const StasisdJob *job = stasisd_jobs_find(stasisd_service_jobs(call->bus->service), id);
    return job != NULL && job->owner == call->peer->uid;
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
    pending->call = (Call){ bus, stasisd_peer_ref(peer), g_variant_ref(parameters), invocation };
    /* Polkit is not asked, and has allowed nothing beyond. */
    if (is_own(&pending->call, method) || (strcmp(found->action, READ) == 0 && peer->may_read)) {
        carry_out(pending);
        pending_free(pending);
        return;
    }
    gboolean interactive =
        g_dbus_message_get_flags(g_dbus_method_invocation_get_message(invocation)) &
        G_DBUS_MESSAGE_FLAGS_ALLOW_INTERACTIVE_AUTHORIZATION;
    g_auto(About) about = { 0 };
    if (found->about != NULL && !stasisd_peer_is_master(peer))
        found->about(&pending->call, &about);
    about_domain(&pending->call, &about);
    stasisd_peer_authorize(peer, found->action, details_of(&about), interactive, on_authorized,
                           pending);
}

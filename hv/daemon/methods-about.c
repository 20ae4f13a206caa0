/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a call is about, for polkit's rules, and whether that is the caller's own. */
#include <stasis/store.h>
#include <string.h>

#include "daemon/methods-internal.h"

/* What rules are told of a domain's image: which libvirtd had that is not in it. */
#define SOME_LIBVIRT "libvirt"

char *stasisd_call_connect(const StasisdCall *call)
{
    char *uri = NULL;
    if (g_variant_n_children(call->in) > STASISD_CONNECT_AT &&
        g_variant_is_of_type(call->in, G_VARIANT_TYPE("(sss)")))
        g_variant_get_child(call->in, STASISD_CONNECT_AT, "s", &uri);
    return uri;
}

StasisPolicy *stasisd_call_settings(const StasisdCall *call, GError **error)
{
    g_autoptr(GVariant) settings = g_variant_get_child_value(call->in, 0);
    gsize len;
    g_autofree char *text = json_gvariant_serialize_data(settings, &len);
    return stasis_policy_from_text(text != NULL ? text : "", text != NULL ? (gssize)len : 0, error);
}

/* ---- what is told ---- */

void stasisd_about_clear(StasisdAbout *about)
{
    g_free(about->vm);
    g_free(about->image);
    g_free(about->connect);
}
void stasisd_about_vm(StasisdCall *call, StasisdAbout *about)
{
    g_variant_get_child(call->in, 0, "s", &about->vm);
}

/* The policy that it has. */
void stasisd_about_policy(StasisdCall *call, StasisdAbout *about)
{
    stasisd_about_vm(call, about);
    const StasisPolicy *policy = stasisd_service_policy(call->bus->service, about->vm);
    about->connect = policy != NULL ? g_strdup(policy->connect) : NULL;
}

/* As they are read for good, since a caller may say things twice. */
void stasisd_about_settings(StasisdCall *call, StasisdAbout *about)
{
    g_autoptr(StasisPolicy) policy = stasisd_call_settings(call, NULL);
    about->vm = policy != NULL ? g_strdup(policy->vm) : NULL;
    about->connect = policy != NULL ? g_strdup(policy->connect) : NULL;
}

void stasisd_about_job(StasisdCall *call, StasisdAbout *about)
{
    guint32 id;
    g_variant_get(call->in, "(u)", &id);
    const StasisdJob *job = stasisd_jobs_find(stasisd_service_jobs(call->bus->service), id);
    about->vm = job != NULL ? g_strdup(job->vm) : NULL;
    about->connect = job != NULL ? g_strdup(job->connect) : NULL;
}

/* The image that argument @at says becomes its full ID, for good: what was looked at is what is
 * used. NULL: it is none. */
static StasisImageInfo *settle_image(StasisdCall *call, gsize at)
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
static gboolean is_of_kind(const StasisdCall *call, const StasisImageInfo *info)
{
    g_autofree char *connect = stasisd_call_connect(call);
    return info->of_domain == (connect != NULL);
}

/* An image's VM is the one that it was taken of. Where that was a domain, and no libvirtd is
 * named, rules are told so; a domain that is to have a VM's memory is not that VM's matter alone.
 */
void stasisd_about_image(StasisdCall *call, StasisdAbout *about)
{
    g_autoptr(StasisImageInfo) info = settle_image(call, 0);
    if (info != NULL && (info->of_domain || is_of_kind(call, info)))
        about->vm = g_strdup(info->vm);
    if (info != NULL && info->of_domain && !is_of_kind(call, info))
        about->connect = g_strdup(SOME_LIBVIRT);
    about->image = info != NULL ? g_strdup(info->id) : NULL;
}

/* With an image of another VM it is not that VM's matter alone: no VM is told then. */
void stasisd_about_both(StasisdCall *call, StasisdAbout *about)
{
    g_autofree char *vm = NULL, *image = NULL;
    g_variant_get_child(call->in, 0, "s", &vm);
    g_variant_get_child(call->in, 1, "s", &image);
    g_autoptr(StasisImageInfo) info = *image != '\0' ? settle_image(call, 1) : NULL;
    if (*image == '\0' || (info != NULL && g_strcmp0(info->vm, vm) == 0 && is_of_kind(call, info)))
        about->vm = g_steal_pointer(&vm);
    about->image = info != NULL ? g_strdup(info->id) : NULL;
}

/* A VM of stasis may have the same name. */
void stasisd_about_domain(const StasisdCall *call, StasisdAbout *about)
{
    if (about->connect == NULL)
        about->connect = stasisd_call_connect(call);
}

GVariant *stasisd_about_details(const StasisdAbout *about)
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

/* ---- whose it is ---- */

gboolean stasisd_own_policy(const StasisdCall *call)
{
    const char *vm;
    g_variant_get(call->in, "(&s)", &vm);
    const StasisPolicy *policy = stasisd_service_policy(call->bus->service, vm);
    return policy != NULL && policy->owner == call->peer->uid;
}

gboolean stasisd_own_job(const StasisdCall *call)
{
    guint32 id;
    g_variant_get(call->in, "(u)", &id);
    const StasisdJob *job = stasisd_jobs_find(stasisd_service_jobs(call->bus->service), id);
    return job != NULL && job->owner == call->peer->uid;
}

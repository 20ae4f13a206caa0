/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What libvirtd is asked for. Each question is a function for a thread of libvirt-call.c, and the
 * public one that waits for it. */
#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "vmm/domain-internal.h"

/* The first start after libvirtd's probes what QEMU can do. */
#define START_TIMEOUT_US 300000000u

/* ---- about one domain ---- */

/* Run @function on the domain; the call, to look for results in, or NULL. */
static StasisLibvirtCall *ask(StasisDomain *domain, int (*function)(StasisLibvirtCall *call),
                              unsigned int flags, const char *what, GError **error)
{
    if (!stasis_domain_reconnect(domain, stasis_domain_deadline_us(), error))
        return NULL;
    g_autoptr(StasisLibvirtCall) call =
        stasis_libvirt_call_new(function, domain->connection, domain->handle);
    call->flags = flags;
    StasisCallEnd end = stasis_libvirt_call_run(call, stasis_domain_deadline_us());
    if (end == STASIS_CALL_OK)
        return g_steal_pointer(&call);
    stasis_domain_call_error(domain, call, end, what, error);
    return NULL;
}

static int do_get_xml(StasisLibvirtCall *call)
{
    call->result = stasis_virt->virDomainGetXMLDesc(call->domain, call->flags);
    return call->result != NULL ? 0 : -1;
}

char *stasis_domain_get_xml(StasisDomain *domain, StasisDomainXml which, GError **error)
{
    static const unsigned int flags[] = {
        [STASIS_DOMAIN_XML_LIVE] = VIR_DOMAIN_XML_SECURE | VIR_DOMAIN_XML_MIGRATABLE,
        [STASIS_DOMAIN_XML_PERSISTENT] = VIR_DOMAIN_XML_SECURE | VIR_DOMAIN_XML_INACTIVE,
    };
    g_autoptr(StasisLibvirtCall) call = ask(domain, do_get_xml, flags[which], "get its XML", error);
    return call != NULL ? g_strdup(call->result) : NULL;
}

static int do_suspend(StasisLibvirtCall *call)
{
    return stasis_virt->virDomainSuspend(call->domain);
}

gboolean stasis_domain_suspend(StasisDomain *domain, GError **error)
{
    g_autoptr(StasisLibvirtCall) call = ask(domain, do_suspend, 0, "pause it", error);
    return call != NULL;
}

static int do_resume(StasisLibvirtCall *call)
{
    return stasis_virt->virDomainResume(call->domain);
}

gboolean stasis_domain_resume(StasisDomain *domain, GError **error)
{
    g_autoptr(StasisLibvirtCall) call = ask(domain, do_resume, 0, "let it run", error);
    return call != NULL;
}

static int do_destroy(StasisLibvirtCall *call)
{
    return stasis_virt->virDomainDestroy(call->domain);
}

gboolean stasis_domain_destroy(StasisDomain *domain, GError **error)
{
    g_autoptr(StasisLibvirtCall) call = ask(domain, do_destroy, 0, "destroy it", error);
    return call != NULL;
}

/* flags: the reason of one that is shut off, else none. */
static int do_find_end(StasisLibvirtCall *call)
{
    int state, reason;
    if (stasis_virt->virDomainGetState(call->domain, &state, &reason, 0) < 0)
        return -1;
    call->flags = state == VIR_DOMAIN_SHUTOFF ? (unsigned int)reason : VIR_DOMAIN_SHUTOFF_UNKNOWN;
    return 0;
}

StasisDomainEnd stasis_domain_find_end(const char *uri, const char *name)
{
    g_autoptr(StasisDomain) domain = stasis_domain_open(uri, name, NULL);
    g_autoptr(StasisLibvirtCall) call =
        domain != NULL ? ask(domain, do_find_end, 0, "ask for its end", NULL) : NULL;
    switch (call != NULL ? call->flags : VIR_DOMAIN_SHUTOFF_UNKNOWN) {
    case VIR_DOMAIN_SHUTOFF_UNKNOWN:
    case VIR_DOMAIN_SHUTOFF_DAEMON: /* libvirtd was away and found it gone */
        return STASIS_DOMAIN_END_UNKNOWN;
    case VIR_DOMAIN_SHUTOFF_CRASHED:
    case VIR_DOMAIN_SHUTOFF_FAILED:
        return STASIS_DOMAIN_END_FAILED;
    default:
        return STASIS_DOMAIN_END_ASKED;
    }
}

static int do_is_persistent(StasisLibvirtCall *call)
{
    int r = stasis_virt->virDomainIsPersistent(call->domain);
    call->flags = r > 0;
    return r < 0 ? -1 : 0;
}

gboolean stasis_domain_is_persistent(StasisDomain *domain)
{
    g_autoptr(StasisLibvirtCall) call = ask(domain, do_is_persistent, 0, "ask for it", NULL);
    return call != NULL && call->flags != 0;
}

/* ---- new ones ---- */

static int do_create(StasisLibvirtCall *call)
{
    call->domain =
        stasis_virt->virDomainCreateXML(call->connection, call->text, VIR_DOMAIN_START_PAUSED);
    return call->domain != NULL ? 0 : -1;
}

static int do_define(StasisLibvirtCall *call)
{
    call->domain = stasis_virt->virDomainDefineXML(call->connection, call->text);
    return call->domain != NULL ? 0 : -1;
}

static StasisDomain *make(const char *uri, const char *xml,
                          int (*function)(StasisLibvirtCall *call), const char *what,
                          GError **error)
{
    g_autoptr(StasisDomain) domain = g_new0(StasisDomain, 1);
    domain->id = -1;
    domain->uri = g_strdup(uri);
    domain->connection = stasis_domain_connect(uri, 0, error);
    if (domain->connection == NULL)
        return NULL;
    g_autoptr(StasisLibvirtCall) call = stasis_libvirt_call_new(function, domain->connection, NULL);
    call->text = g_strdup(xml);
    StasisCallEnd end = stasis_libvirt_call_run(call, stasis_now_us() + START_TIMEOUT_US);
    if (end != STASIS_CALL_OK) {
        stasis_domain_call_error(domain, call, end, what, error);
        return NULL;
    }
    domain->handle = g_steal_pointer(&call->domain);
    return stasis_domain_describe(domain) ? g_steal_pointer(&domain) : NULL;
}

StasisDomain *stasis_domain_create_paused(const char *uri, const char *xml, GError **error)
{
    return make(uri, xml, do_create, "start a domain", error);
}

gboolean stasis_domain_define(const char *uri, const char *xml, GError **error)
{
    g_autoptr(StasisDomain) domain = make(uri, xml, do_define, "define a domain", error);
    return domain != NULL;
}

/* ---- all of them ---- */

static void entry_free(StasisDomainEntry *entry)
{
    if (entry == NULL)
        return;
    g_free(entry->name);
    g_free(entry->uuid);
    g_free(entry);
}

static int do_list(StasisLibvirtCall *call)
{
    return stasis_virt->virConnectListAllDomains(call->connection, &call->domains, 0) < 0 ? -1 : 0;
}

/* As virsh calls them. */
static const char *state_name(int state)
{
    switch (state) {
    case VIR_DOMAIN_RUNNING:
        return "running";
    case VIR_DOMAIN_BLOCKED:
        return "idle";
    case VIR_DOMAIN_PAUSED:
        return "paused";
    case VIR_DOMAIN_SHUTDOWN:
        return "in shutdown";
    case VIR_DOMAIN_SHUTOFF:
        return "shut off";
    case VIR_DOMAIN_CRASHED:
        return "crashed";
    case VIR_DOMAIN_PMSUSPENDED:
        return "pmsuspended";
    default:
        return "no state";
    }
}

static int compare_entries(gconstpointer a, gconstpointer b)
{
    const StasisDomainEntry *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

GPtrArray *stasis_domain_list(const char *uri, GError **error)
{
    StasisDomain asked = { .uri = (char *)uri, .id = -1 };
    asked.connection = stasis_domain_connect(uri, 0, error);
    if (asked.connection == NULL)
        return NULL;
    g_autoptr(StasisLibvirtCall) call = stasis_libvirt_call_new(do_list, asked.connection, NULL);
    StasisCallEnd end = stasis_libvirt_call_run(call, stasis_domain_deadline_us());
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func((GDestroyNotify)entry_free);
    if (end != STASIS_CALL_OK)
        stasis_domain_call_error(&asked, call, end, "list the domains", error);
    stasis_virt->virConnectClose(asked.connection);
    if (end != STASIS_CALL_OK)
        return NULL;
    for (virDomainPtr *each = call->domains; *each != NULL; each++) {
        char uuid[VIR_UUID_STRING_BUFLEN];
        virDomainInfo info;
        /* One that ended meanwhile is none. */
        if (stasis_virt->virDomainGetUUIDString(*each, uuid) < 0 ||
            stasis_virt->virDomainGetInfo(*each, &info) < 0)
            continue;
        StasisDomainEntry *entry = g_new0(StasisDomainEntry, 1);
        entry->name = g_strdup(stasis_virt->virDomainGetName(*each));
        entry->uuid = g_strdup(uuid);
        entry->state = state_name(info.state);
        entry->active = (int)stasis_virt->virDomainGetID(*each) >= 0;
        entry->n_vcpus = info.nrVirtCpu;
        entry->ram_bytes = (guint64)info.maxMem << 10;
        g_ptr_array_add(list, entry);
    }
    g_ptr_array_sort(list, compare_entries);
    return g_steal_pointer(&list);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "vmm/domain-internal.h"

/* libvirt waits 30 s for another job on the domain. */
#define TIMEOUT_MS 60000u
/* The first start after libvirtd's probes what QEMU can do. */
#define START_TIMEOUT_MS 300000u
#define RETRY_US 50000

static guint64 in_ms(guint ms)
{
    return stasis_now_us() + ms * G_GUINT64_CONSTANT(1000);
}

/* ---- URIs ---- */

gboolean stasis_domain_check_uri(const char *uri, GError **error)
{
    g_autoptr(GUri) parsed = g_uri_parse(uri, G_URI_FLAGS_PARSE_RELAXED, NULL);
    const char *scheme = parsed != NULL ? g_uri_get_scheme(parsed) : "";
    const char *host = parsed != NULL ? g_uri_get_host(parsed) : NULL;
    g_autofree char *shown = g_strescape(uri, NULL);
    if (strcmp(scheme, "qemu") != 0 && !g_str_has_prefix(scheme, "qemu+")) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "%.200s: only libvirt's QEMU driver is supported; use qemu:///system or "
                    "qemu:///session",
                    shown);
        return FALSE;
    }
    gboolean local = strcmp(scheme, "qemu") == 0 || strcmp(scheme, "qemu+unix") == 0;
    if (!local || (host != NULL && *host != '\0')) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "%.200s: a remote libvirtd; stasis has to run beside the VM: run it on that "
                    "host, with qemu:///system",
                    shown);
        return FALSE;
    }
    const char *path = g_uri_get_path(parsed);
    if (strcmp(path, "/system") == 0 || strcmp(path, "/session") == 0)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "%.200s: use qemu:///system or qemu:///session", shown);
    return FALSE;
}

/* ---- errors ---- */

gboolean stasis_domain_call_error(StasisDomain *domain, const StasisLibvirtCall *call,
                                  StasisCallEnd end, const char *what, GError **error)
{
    const char *name = domain->name != NULL ? domain->name : "";
    g_autofree char *shown = g_strescape(name, "\xc3");
    g_autofree char *who =
        *name != '\0' ? g_strdup_printf("domain %s", shown) : g_strdup(domain->uri);
    if (end == STASIS_CALL_ABANDONED) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "%s: %s: no answer in time; libvirtd or QEMU hangs", who, what);
        return FALSE;
    }
    gboolean lost =
        domain->connection != NULL && stasis_virt->virConnectIsAlive(domain->connection) != 1;
    if (lost) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "%s: %s: libvirtd closed the connection (it was restarted?); try again", who,
                    what);
        return FALSE;
    }
    gboolean gone = call->error_code == VIR_ERR_NO_DOMAIN ||
                    (domain->handle != NULL &&
                     stasis_virt->virDomainIsActive(domain->handle) == 0 && domain->id >= 0);
    g_set_error(error, STASIS_ERROR, gone ? STASIS_ERROR_NOT_FOUND : STASIS_ERROR_FAILED,
                "%s: %s: %s", who, what, call->message);
    return FALSE;
}

/* ---- connections ---- */

static int do_connect(StasisLibvirtCall *call)
{
    call->connection = stasis_virt->virConnectOpen(call->text);
    if (call->connection == NULL)
        return -1;
    /* A libvirtd that hangs is noticed after 20 s. */
    stasis_virt->virConnectSetKeepAlive(call->connection, 5, 3);
    return 0;
}

static virConnectPtr connect_once(const char *uri, guint64 deadline_us, GError **error)
{
    g_autoptr(StasisLibvirtCall) call = stasis_libvirt_call_new(do_connect, NULL, NULL);
    call->text = g_strdup(uri);
    StasisCallEnd end = stasis_libvirt_call_run(call, deadline_us);
    if (end == STASIS_CALL_OK)
        return g_steal_pointer(&call->connection);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "%s: %s; is libvirtd running?", uri,
                end == STASIS_CALL_FAILED ? call->message : "no answer in time");
    return NULL;
}

/* Until @patience_us a libvirtd that is not there is waited for. */
static virConnectPtr connect_to(const char *uri, guint64 patience_us, GError **error)
{
    if (!stasis_domain_check_uri(uri, error) || !stasis_libvirt_init(error))
        return NULL;
    for (;;) {
        g_autoptr(GError) local = NULL;
        virConnectPtr connection = connect_once(uri, MAX(patience_us, in_ms(TIMEOUT_MS)), &local);
        if (connection != NULL)
            return connection;
        if (stasis_now_us() + RETRY_US >= patience_us) {
            g_propagate_error(error, g_steal_pointer(&local));
            return NULL;
        }
        g_usleep(RETRY_US);
    }
}

/* ---- domains ---- */

static int do_lookup(StasisLibvirtCall *call)
{
    call->domain = stasis_virt->virDomainLookupByName(call->connection, call->text);
    if (call->domain == NULL)
        call->domain = stasis_virt->virDomainLookupByUUIDString(call->connection, call->text);
    return call->domain != NULL ? 0 : -1;
}

/* Only text of the handle, or answers of libvirtd's that touch no QEMU. */
static gboolean describe(StasisDomain *domain)
{
    char uuid[VIR_UUID_STRING_BUFLEN];
    if (stasis_virt->virDomainGetUUIDString(domain->handle, uuid) < 0)
        return FALSE;
    g_free(domain->name);
    domain->name = g_strdup(stasis_virt->virDomainGetName(domain->handle));
    g_free(domain->uuid);
    domain->uuid = g_strdup(uuid);
    domain->id = (int)stasis_virt->virDomainGetID(domain->handle);
    return TRUE;
}

static virDomainPtr look_up(StasisDomain *domain, const char *name, GError **error)
{
    g_autoptr(StasisLibvirtCall) call =
        stasis_libvirt_call_new(do_lookup, domain->connection, NULL);
    call->text = g_strdup(name);
    StasisCallEnd end = stasis_libvirt_call_run(call, in_ms(TIMEOUT_MS));
    if (end == STASIS_CALL_OK)
        return g_steal_pointer(&call->domain);
    gboolean none =
        end == STASIS_CALL_FAILED && stasis_virt->virConnectIsAlive(domain->connection) == 1;
    if (!none) {
        stasis_domain_call_error(domain, call, end, "look it up", error);
        return NULL;
    }
    g_autofree char *shown = g_strescape(name, NULL);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                "no domain \"%.200s\" at %s; see virsh list --all", shown, domain->uri);
    return NULL;
}

StasisDomain *stasis_domain_open_patiently(const char *uri, const char *name, guint64 deadline_us,
                                           GError **error)
{
    g_autoptr(StasisDomain) domain = g_new0(StasisDomain, 1);
    domain->id = -1;
    domain->uri = g_strdup(uri);
    domain->connection = connect_to(uri, deadline_us, error);
    if (domain->connection == NULL)
        return NULL;
    domain->handle = look_up(domain, name, error);
    if (domain->handle == NULL || !describe(domain))
        return NULL;
    return g_steal_pointer(&domain);
}

StasisDomain *stasis_domain_open(const char *uri, const char *name, GError **error)
{
    return stasis_domain_open_patiently(uri, name, 0, error);
}

void stasis_domain_free(StasisDomain *domain)
{
    if (domain == NULL)
        return;
    if (domain->handle != NULL)
        stasis_virt->virDomainFree(domain->handle);
    if (domain->connection != NULL)
        stasis_virt->virConnectClose(domain->connection);
    g_free(domain->uri);
    g_free(domain->name);
    g_free(domain->uuid);
    g_free(domain);
}

gboolean stasis_domain_reconnect(StasisDomain *domain, guint64 deadline_us, GError **error)
{
    if (stasis_virt->virConnectIsAlive(domain->connection) == 1)
        return TRUE;
    virConnectPtr connection = connect_to(domain->uri, deadline_us, error);
    if (connection == NULL)
        return FALSE;
    stasis_virt->virConnectClose(domain->connection);
    domain->connection = connection;
    virDomainPtr handle = look_up(domain, domain->uuid, error);
    if (handle == NULL)
        return FALSE;
    stasis_virt->virDomainFree(domain->handle);
    domain->handle = handle;
    if ((int)stasis_virt->virDomainGetID(handle) == domain->id)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                "domain %s has ended, or was started anew, meanwhile", domain->name);
    return FALSE;
}

const char *stasis_domain_get_uri(const StasisDomain *domain)
{
    return domain->uri;
}

const char *stasis_domain_get_name(const StasisDomain *domain)
{
    return domain->name;
}

const char *stasis_domain_get_uuid(const StasisDomain *domain)
{
    return domain->uuid;
}

int stasis_domain_get_run(const StasisDomain *domain)
{
    return domain->id;
}

gboolean stasis_domain_is_active(const StasisDomain *domain)
{
    return domain->id >= 0;
}

/* ---- what is asked of libvirtd ---- */

/* Run @function on the domain; the call, to look for results in, or NULL. */
static StasisLibvirtCall *ask(StasisDomain *domain, int (*function)(StasisLibvirtCall *call),
                              unsigned int flags, const char *what, GError **error)
{
    if (!stasis_domain_reconnect(domain, in_ms(TIMEOUT_MS), error))
        return NULL;
    g_autoptr(StasisLibvirtCall) call =
        stasis_libvirt_call_new(function, domain->connection, domain->handle);
    call->flags = flags;
    StasisCallEnd end = stasis_libvirt_call_run(call, in_ms(TIMEOUT_MS));
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

/* ---- what is asked of libvirtd without a domain ---- */

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
    domain->connection = connect_to(uri, 0, error);
    if (domain->connection == NULL)
        return NULL;
    g_autoptr(StasisLibvirtCall) call = stasis_libvirt_call_new(function, domain->connection, NULL);
    call->text = g_strdup(xml);
    StasisCallEnd end = stasis_libvirt_call_run(call, in_ms(START_TIMEOUT_MS));
    if (end != STASIS_CALL_OK) {
        stasis_domain_call_error(domain, call, end, what, error);
        return NULL;
    }
    domain->handle = g_steal_pointer(&call->domain);
    return describe(domain) ? g_steal_pointer(&domain) : NULL;
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

void stasis_domain_entry_free(StasisDomainEntry *entry)
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
    asked.connection = connect_to(uri, 0, error);
    if (asked.connection == NULL)
        return NULL;
    g_autoptr(StasisLibvirtCall) call = stasis_libvirt_call_new(do_list, asked.connection, NULL);
    StasisCallEnd end = stasis_libvirt_call_run(call, in_ms(TIMEOUT_MS));
    g_autoptr(GPtrArray) list =
        g_ptr_array_new_with_free_func((GDestroyNotify)stasis_domain_entry_free);
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

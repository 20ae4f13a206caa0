/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which domain: URIs, connections that may be lost, errors. What is asked of it: domain-ask.c. */
#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "vmm/domain-internal.h"

#define RETRY_US 50000

guint64 stasis_domain_deadline_us(void)
{
    return stasis_now_us() + STASIS_DOMAIN_TIMEOUT_MS * G_GUINT64_CONSTANT(1000);
}

/* ---- URIs ---- */

#define MAX_URI 1024u

static gboolean is_printable(const char *text)
{
    if (!g_utf8_validate(text, -1, NULL))
        return FALSE;
    for (const char *c = text; *c != '\0'; c = g_utf8_next_char(c))
        if (!g_unichar_isprint(g_utf8_get_char(c)))
            return FALSE;
    return TRUE;
}

gboolean stasis_domain_check_uri(const char *uri, GError **error)
{
    if (strlen(uri) > MAX_URI || !is_printable(uri)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "libvirtd's URI is longer than %u bytes, or has characters that can't be shown",
                    MAX_URI);
        return FALSE;
    }
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

virConnectPtr stasis_domain_connect(const char *uri, guint64 patience_us, GError **error)
{
    if (!stasis_domain_check_uri(uri, error) || !stasis_libvirt_init(error))
        return NULL;
    for (;;) {
        g_autoptr(GError) local = NULL;
        virConnectPtr connection =
            connect_once(uri, MAX(patience_us, stasis_domain_deadline_us()), &local);
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
gboolean stasis_domain_describe(StasisDomain *domain)
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
    StasisCallEnd end = stasis_libvirt_call_run(call, stasis_domain_deadline_us());
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
    domain->connection = stasis_domain_connect(uri, deadline_us, error);
    if (domain->connection == NULL)
        return NULL;
    domain->handle = look_up(domain, name, error);
    if (domain->handle == NULL || !stasis_domain_describe(domain))
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
    virConnectPtr connection = stasis_domain_connect(domain->uri, deadline_us, error);
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

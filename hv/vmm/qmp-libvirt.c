/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Transport "libvirt": libvirtd has QEMU's only monitor and runs single commands for us
 * (virDomainQemuMonitorCommandWithFiles, libvirt-qemu.h). Between two commands nobody waits for us,
 * and libvirtd follows what they do to the VM by QEMU's events, as do we.
 *
 * Events come by another way than answers and may be later: hence the lag. When libvirtd goes away
 * the command under way fails, as it is not known what became of it; the next one connects again,
 * so that a VM that we stopped can go on, and descriptors can be taken back.
 */
#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/json.h"
#include "vmm/domain-internal.h"
#include "vmm/libexec.h"
#include "vmm/qmp-transport.h"

/* On a busy host libvirtd's threads may have to wait for a CPU. */
#define EVENT_LAG_MS 2000
#define MAX_EVENTS 4096u
/* How long a libvirtd that is being restarted is waited for, over all commands until it is back:
 * there may be many to undo something, and none of them may be able to. */
#define PATIENCE_MS 30000u

typedef struct {
    StasisQmpEvent event;
    char *text; /* as QEMU sent it, as far as we read that; or NULL: it has no data */
} Told;

/* What the thread of libvirt's event loop shares with us. */
typedef struct {
    gint refs;
    GMutex mutex;
    GCond cond;
    GArray *events; /* of Told, as they came */
    gboolean closed;
} Inbox;

typedef struct {
    StasisQmp base;
    StasisDomain *domain;
    Inbox *inbox;
    virConnectPtr connection; /* that the callbacks are registered with */
    int callback;
    guint64 lost_us; /* when it was found that libvirtd is not there; 0: it is */
    char *answer;
    char **legacy;
} LibvirtQmp;

static const StasisQmpTransport libvirt_transport;

/* ---- events ---- */

static void told_clear(gpointer data)
{
    g_free(((Told *)data)->text);
}

static void inbox_unref(gpointer data)
{
    Inbox *inbox = data;
    if (!g_atomic_int_dec_and_test(&inbox->refs))
        return;
    g_array_unref(inbox->events);
    g_mutex_clear(&inbox->mutex);
    g_cond_clear(&inbox->cond);
    g_free(inbox);
}

static Inbox *inbox_ref(Inbox *inbox)
{
    g_atomic_int_inc(&inbox->refs);
    return inbox;
}

static Inbox *inbox_new(void)
{
    Inbox *inbox = g_new0(Inbox, 1);
    inbox->refs = 1;
    inbox->events = g_array_new(FALSE, FALSE, sizeof(Told));
    g_array_set_clear_func(inbox->events, told_clear);
    g_mutex_init(&inbox->mutex);
    g_cond_init(&inbox->cond);
    return inbox;
}

/* Nobody takes them while memory is copied, and a guest can cause some without end: then an older
 * one of that name goes, so that many of one kind push out no other. */
static void make_room(GArray *events, const char *name)
{
    guint i = 0;
    if (events->len < MAX_EVENTS)
        return;
    while (i < events->len && strcmp(g_array_index(events, Told, i).event.name, name) != 0)
        i++;
    g_array_remove_index(events, i < events->len ? i : 0);
}

static void on_event(virConnectPtr connection, virDomainPtr domain, const char *name,
                     long long seconds, unsigned int micros, const char *details, void *data)
{
    Inbox *inbox = data;
    Told told = { .event.time_us = seconds >= 0 ? (guint64)seconds * 1000000 + micros
                                                : (guint64)g_get_real_time() };
    if (g_strlcpy(told.event.name, name, sizeof(told.event.name)) >= sizeof(told.event.name))
        return;
    told.text = details != NULL ? g_strdup_printf("{\"data\":%s}", details) : NULL;
    g_mutex_lock(&inbox->mutex);
    make_room(inbox->events, name);
    g_array_append_val(inbox->events, told);
    g_cond_signal(&inbox->cond);
    g_mutex_unlock(&inbox->mutex);
}

static void on_close(virConnectPtr connection, int reason, void *data)
{
    Inbox *inbox = data;
    g_mutex_lock(&inbox->mutex);
    inbox->closed = TRUE;
    g_cond_signal(&inbox->cond);
    g_mutex_unlock(&inbox->mutex);
}

static gboolean libvirt_take_events(StasisQmp *qmp)
{
    Inbox *inbox = ((LibvirtQmp *)qmp)->inbox;
    g_mutex_lock(&inbox->mutex);
    for (guint i = 0; i < inbox->events->len; i++) {
        const Told *told = &g_array_index(inbox->events, Told, i);
        stasis_qmp_note_event(qmp, told->event.name, strlen(told->event.name), told->event.time_us,
                              told->text, told->text != NULL ? strlen(told->text) : 0);
    }
    g_array_set_size(inbox->events, 0);
    g_mutex_unlock(&inbox->mutex);
    return TRUE;
}

static gboolean libvirt_wait(StasisQmp *qmp, guint64 deadline_us)
{
    Inbox *inbox = ((LibvirtQmp *)qmp)->inbox;
    guint64 now = stasis_now_us();
    gint64 until = g_get_monotonic_time() + (gint64)(deadline_us > now ? deadline_us - now : 0);
    g_mutex_lock(&inbox->mutex);
    while (inbox->events->len == 0 && !inbox->closed &&
           g_cond_wait_until(&inbox->cond, &inbox->mutex, until))
        ;
    gboolean some = inbox->events->len > 0;
    g_mutex_unlock(&inbox->mutex);
    return some;
}

/* ---- the connection ---- */

static void stop_listening(LibvirtQmp *self)
{
    if (self->connection == NULL)
        return;
    if (self->callback >= 0)
        stasis_virt->virConnectDomainQemuMonitorEventDeregister(self->connection, self->callback);
    stasis_virt->virConnectUnregisterCloseCallback(self->connection, on_close);
    stasis_virt->virConnectClose(self->connection);
    self->connection = NULL;
    self->callback = -1;
}

static gboolean listen_on(LibvirtQmp *self, GError **error)
{
    StasisDomain *domain = self->domain;
    stop_listening(self);
    self->base.generation++;
    self->connection = domain->connection;
    stasis_virt->virConnectRef(self->connection);
    self->inbox->closed = FALSE;
    if (stasis_virt->virConnectRegisterCloseCallback(self->connection, on_close,
                                                     inbox_ref(self->inbox), inbox_unref) < 0)
        inbox_unref(self->inbox);
    self->callback = stasis_virt->virConnectDomainQemuMonitorEventRegister(
        self->connection, domain->handle, NULL, on_event, inbox_ref(self->inbox), inbox_unref, 0);
    if (self->callback >= 0)
        return TRUE;
    inbox_unref(self->inbox);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "domain %s: libvirtd does not pass on QEMU's events: %s", domain->name,
                stasis_virt->virGetLastErrorMessage());
    return FALSE;
}

static gboolean ensure_connected(LibvirtQmp *self, GError **error)
{
    StasisDomain *domain = self->domain;
    if (self->connection == domain->connection &&
        stasis_virt->virConnectIsAlive(self->connection) == 1)
        return TRUE;
    if (self->lost_us == 0)
        self->lost_us = stasis_now_us();
    if (!stasis_domain_reconnect(domain, self->lost_us + PATIENCE_MS * 1000, error) ||
        !listen_on(self, error))
        return FALSE;
    self->lost_us = 0;
    return TRUE;
}

static gboolean libvirt_refresh(StasisQmp *qmp, GError **error)
{
    return ensure_connected((LibvirtQmp *)qmp, error);
}

/* ---- commands ---- */

static int do_command(StasisLibvirtCall *call)
{
    if (call->fd < 0)
        return stasis_virt->virDomainQemuMonitorCommand(call->domain, call->text, &call->result, 0);
    int fds[] = { call->fd };
    return stasis_virt->virDomainQemuMonitorCommandWithFiles(call->domain, call->text, 1, fds, NULL,
                                                             NULL, &call->result, 0);
}

static gboolean take_answer(LibvirtQmp *self, StasisLibvirtCall *call, const char *what,
                            const char **ret_text, gsize *ret_len, StasisQmpLine *ret,
                            GError **error)
{
    g_free(self->answer);
    self->answer = g_strdup(call->result);
    gsize len = strlen(self->answer);
    if (!stasis_qmp_line_parse(self->answer, len, ret) ||
        (ret->kind != STASIS_QMP_RETURN && ret->kind != STASIS_QMP_ERROR))
        return stasis_qmp_fail(&self->base, STASIS_ERROR_CORRUPT, error,
                               "%.*s: an answer that is none", stasis_qmp_shown_len(what), what);
    *ret_text = self->answer;
    *ret_len = len;
    return TRUE;
}

static gboolean libvirt_ask(StasisQmp *qmp, const char *what, const char *json, int pass_fd,
                            guint timeout_ms, const char **ret_text, gsize *ret_len,
                            StasisQmpLine *ret, GError **error)
{
    LibvirtQmp *self = (LibvirtQmp *)qmp;
    if (!ensure_connected(self, error))
        return FALSE;
    g_autoptr(StasisLibvirtCall) call =
        stasis_libvirt_call_new(do_command, self->domain->connection, self->domain->handle);
    call->text = g_strdup(json);
    call->fd = pass_fd >= 0 ? fcntl(pass_fd, F_DUPFD_CLOEXEC, 0) : -1;
    StasisCallEnd end = stasis_libvirt_call_run(call, stasis_qmp_deadline_us(timeout_ms));
    if (end == STASIS_CALL_OK)
        return take_answer(self, call, what, ret_text, ret_len, ret, error);
    /* It may still be carried out. */
    if (end == STASIS_CALL_ABANDONED)
        qmp->broken = TRUE;
    g_autofree char *shown = g_strndup(what, (gsize)stasis_qmp_shown_len(what));
    return stasis_domain_call_error(self->domain, call, end, shown, error);
}

/* ---- the process ---- */

static pid_t libvirt_find_peer(StasisQmp *qmp)
{
    return stasis_domain_find_process(qmp, ((LibvirtQmp *)qmp)->domain->uuid);
}

static void libvirt_get_legacy(StasisQmp *qmp, StasisQmpLegacy *ret)
{
    *ret = (StasisQmpLegacy){ .fd = -1, .argv = (const char *const *)((LibvirtQmp *)qmp)->legacy };
}

static void libvirt_close(StasisQmp *qmp)
{
    LibvirtQmp *self = (LibvirtQmp *)qmp;
    stop_listening(self);
    inbox_unref(self->inbox);
    g_free(self->answer);
    g_strfreev(self->legacy);
    g_free(self);
}

static gboolean ask_version(StasisQmp *qmp, guint timeout_ms, GError **error)
{
    g_autoptr(JsonNode) answer =
        stasis_qmp_execute(qmp, "query-version", NULL, -1, timeout_ms, error);
    if (answer == NULL)
        return FALSE;
    if (JSON_NODE_HOLDS_OBJECT(answer))
        return stasis_qmp_set_version(qmp, json_node_get_object(answer), error);
    return stasis_qmp_fail(qmp, STASIS_ERROR_CORRUPT, error, "query-version: no object");
}

/* Without that program the VM would stay stopped if we die; then we don't stop it either. */
static char **make_legacy(StasisDomain *domain)
{
    g_autofree char *program = stasis_libexec_find("stasis-domain", "STASIS_DOMAIN_PROGRAM");
    const char *argv[] = { program, "resume", domain->uri, domain->uuid, NULL };
    return program != NULL ? g_strdupv((char **)argv) : NULL;
}

StasisQmp *stasis_domain_open_qmp(StasisDomain *domain, guint timeout_ms, GError **error)
{
    if (!stasis_domain_is_active(domain)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                    "domain %s is not running; virsh start it", domain->name);
        return NULL;
    }
    LibvirtQmp *self = g_new0(LibvirtQmp, 1);
    g_autoptr(StasisQmp) qmp = &self->base;
    qmp->transport = &libvirt_transport;
    qmp->path = g_strdup_printf("%s, domain %s", domain->uri, domain->name);
    self->domain = domain;
    self->callback = -1;
    self->inbox = inbox_new();
    self->legacy = make_legacy(domain);
    return ask_version(qmp, timeout_ms, error) ? g_steal_pointer(&qmp) : NULL;
}

static const StasisQmpTransport libvirt_transport = {
    .name = "libvirt",
    .event_lag_ms = EVENT_LAG_MS,
    .ask = libvirt_ask,
    .take_events = libvirt_take_events,
    .wait = libvirt_wait,
    .refresh = libvirt_refresh,
    .find_peer = libvirt_find_peer,
    .get_legacy = libvirt_get_legacy,
    .close = libvirt_close,
};

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/libvirt-call.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"

static GThreadPool *pool;

StasisLibvirtCall *stasis_libvirt_call_new(int (*function)(StasisLibvirtCall *call),
                                           virConnectPtr connection, virDomainPtr domain)
{
    StasisLibvirtCall *call = g_new0(StasisLibvirtCall, 1);
    call->function = function;
    call->refs = 1;
    call->fd = -1;
    if (connection != NULL && stasis_virt->virConnectRef(connection) == 0)
        call->connection = connection;
    if (domain != NULL && stasis_virt->virDomainRef(domain) == 0)
        call->domain = domain;
    g_mutex_init(&call->mutex);
    g_cond_init(&call->cond);
    return call;
}

static void free_domains(virDomainPtr *domains)
{
    for (guint i = 0; domains != NULL && domains[i] != NULL; i++)
        stasis_virt->virDomainFree(domains[i]);
    free(domains);
}

void stasis_libvirt_call_unref(StasisLibvirtCall *call)
{
    if (call == NULL || !g_atomic_int_dec_and_test(&call->refs))
        return;
    free_domains(call->domains);
    if (call->domain != NULL)
        stasis_virt->virDomainFree(call->domain);
    if (call->connection != NULL)
        stasis_virt->virConnectClose(call->connection);
    stasis_close_fdp(&call->fd);
    free(call->result);
    g_free(call->text);
    g_free(call->message);
    g_mutex_clear(&call->mutex);
    g_cond_clear(&call->cond);
    g_free(call);
}

static void run_in_thread(gpointer data, gpointer unused)
{
    StasisLibvirtCall *call = data;
    stasis_virt->virResetLastError();
    gboolean failed = call->function(call) < 0;
    virErrorPtr error = failed ? stasis_virt->virGetLastError() : NULL;
    g_mutex_lock(&call->mutex);
    call->failed = failed;
    if (failed) {
        call->error_code = error != NULL ? error->code : VIR_ERR_INTERNAL_ERROR;
        call->message = g_strdup(error != NULL && error->message != NULL ? error->message
                                                                         : "no reason was given");
        g_strdelimit(g_strchomp(call->message), "\r\n", ' ');
    }
    call->done = TRUE;
    g_cond_signal(&call->cond);
    g_mutex_unlock(&call->mutex);
    stasis_libvirt_call_unref(call);
}

StasisCallEnd stasis_libvirt_call_run(StasisLibvirtCall *call, guint64 deadline_us)
{
    guint64 now = stasis_now_us();
    gint64 until = g_get_monotonic_time() + (gint64)(deadline_us > now ? deadline_us - now : 0);
    g_atomic_int_inc(&call->refs);
    g_thread_pool_push(pool, call, NULL);
    g_mutex_lock(&call->mutex);
    while (!call->done && g_cond_wait_until(&call->cond, &call->mutex, until))
        ;
    StasisCallEnd end = !call->done    ? STASIS_CALL_ABANDONED
                        : call->failed ? STASIS_CALL_FAILED
                                       : STASIS_CALL_OK;
    g_mutex_unlock(&call->mutex);
    return end;
}

/* ---- once for the process ---- */

static void say_nothing(void *unused, virErrorPtr error)
{
}

static gpointer event_loop(gpointer unused)
{
    for (;;)
        if (stasis_virt->virEventRunDefaultImpl() < 0)
            g_usleep(10000);
    return NULL;
}

gboolean stasis_libvirt_init(GError **error)
{
    static GMutex mutex;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&mutex);
    if (pool != NULL)
        return TRUE;
    if (!stasis_virt_load(error))
        return FALSE;
    stasis_virt->virInitialize();
    stasis_virt->virSetErrorFunc(NULL, say_nothing);
    /* Before the first connection is made, which looks for it. */
    stasis_virt->virEventRegisterDefaultImpl();
    g_thread_unref(g_thread_new("stasis-libvirt", event_loop, NULL));
    pool = g_thread_pool_new(run_in_thread, NULL, -1, /* exclusive= */ FALSE, NULL);
    return TRUE;
}

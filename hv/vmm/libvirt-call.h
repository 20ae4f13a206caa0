/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One call of libvirt's, with a deadline. libvirt's own calls have none: a QEMU that hangs keeps
 * whoever asks about it. So each is made by a thread of a pool, and who asked goes on at the
 * deadline; the call is abandoned then and ends whenever it ends.
 */
#pragma once

#include <gio/gio.h>

#include "vmm/libvirt-load.h"

G_BEGIN_DECLS

typedef struct _StasisLibvirtCall StasisLibvirtCall;

struct _StasisLibvirtCall {
    /* What to do: 0, or -1 as libvirt's functions do. Uses nothing but the call. */
    int (*function)(StasisLibvirtCall *call);
    /* All owned by the call, as it may outlive who made it. */
    virConnectPtr connection; /* or NULL */
    virDomainPtr domain;      /* or NULL; a result as well */
    char *text;               /* or NULL */
    int fd;                   /* a copy, or -1 */
    unsigned int flags;
    char *result;          /* malloc'ed by libvirt, or NULL */
    virDomainPtr *domains; /* result, NULL-terminated, or NULL */
    /* After it failed. */
    int error_code; /* virErrorNumber */
    char *message;

    /* Of libvirt-call.c. */
    gint refs;
    GMutex mutex;
    GCond cond;
    gboolean done, failed;
};

/* Takes references of its own. */
StasisLibvirtCall *stasis_libvirt_call_new(int (*function)(StasisLibvirtCall *call),
                                           virConnectPtr connection, virDomainPtr domain);
void stasis_libvirt_call_unref(StasisLibvirtCall *call);

typedef enum {
    STASIS_CALL_OK,
    STASIS_CALL_FAILED,    /* error_code and message say why */
    STASIS_CALL_ABANDONED, /* no end at the deadline; nothing of the call may be looked at */
} StasisCallEnd;

StasisCallEnd stasis_libvirt_call_run(StasisLibvirtCall *call, guint64 deadline_us);

/* libvirt is loaded and set up for this process: its own event loop runs in a thread of ours, and
 * it prints nothing. Before any other of its functions; done already is fine. For any thread. */
gboolean stasis_libvirt_init(GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisLibvirtCall, stasis_libvirt_call_unref)

G_END_DECLS

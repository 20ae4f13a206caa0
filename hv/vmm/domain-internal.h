/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What domain.c and the transport over libvirtd share. */
#pragma once

#include "vmm/domain.h"
#include "vmm/libvirt-call.h"

G_BEGIN_DECLS

struct _StasisDomain {
    char *uri, *name, *uuid;
    virConnectPtr connection;
    virDomainPtr handle;
    int id; /* of this run of it; -1: it does not run */
};

/* libvirt waits 30 s for another job on the domain. */
#define STASIS_DOMAIN_TIMEOUT_MS 60000u
/* When a call that begins now is given up. */
guint64 stasis_domain_deadline_us(void);

/* A connection, to be closed by virConnectClose(); until @patience_us a libvirtd that is not there
 * is waited for. */
virConnectPtr stasis_domain_connect(const char *uri, guint64 patience_us, GError **error);
/* Fill in what the handle tells. */
gboolean stasis_domain_describe(StasisDomain *domain);

/* Connect again if the connection is lost; waits for libvirtd until @deadline_us.
 * STASIS_ERROR_NOT_FOUND when the domain has ended, or was started anew. */
gboolean stasis_domain_reconnect(StasisDomain *domain, guint64 deadline_us, GError **error);

/* What went wrong with @call, as an error that begins with @what. Always FALSE. */
gboolean stasis_domain_call_error(StasisDomain *domain, const StasisLibvirtCall *call,
                                  StasisCallEnd end, const char *what, GError **error);

/* The process of this domain's QEMU, found by a descriptor that it was given; 0 when there is none
 * on this host. */
pid_t stasis_domain_find_process(StasisQmp *qmp, const char *uuid);

G_END_DECLS

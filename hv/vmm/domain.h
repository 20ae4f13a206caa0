/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A libvirt domain: what libvirtd is asked for instead of QEMU, so that it knows of everything that
 * becomes of the domain. Found by name or UUID and from then on the same by its UUID. libvirtd may
 * be restarted meanwhile: the call that was under way fails, later ones connect again.
 *
 * stasis has to run beside the VM, as root of the same host: it looks at QEMU's memory and hands
 * descriptors over. So a URI must lead to a libvirtd over a UNIX socket.
 *
 * Used by one thread at a time.
 */
#pragma once

#include <gio/gio.h>

#include "vmm/qmp.h"

G_BEGIN_DECLS

/* Set by whoever may do things to VMs of stasis alone: a domain's record has that domain's name. */
#define STASIS_NO_DOMAINS_VARIABLE "STASIS_NO_DOMAINS"

typedef struct _StasisDomain StasisDomain;

/* "qemu:///system", "qemu:///session", "qemu+unix:///…?socket=PATH"; anything else is
 * STASIS_ERROR_UNSUPPORTED, and the message says what to do. */
gboolean stasis_domain_check_uri(const char *uri, GError **error);

/* @name: a domain's name, or its UUID. STASIS_ERROR_NOT_FOUND when there is none. */
StasisDomain *stasis_domain_open(const char *uri, const char *name, GError **error);
/* The same; waits until @deadline_us (stasis_now_us()) for libvirtd to be there. */
StasisDomain *stasis_domain_open_patiently(const char *uri, const char *name, guint64 deadline_us,
                                           GError **error);
void stasis_domain_free(StasisDomain *domain);

const char *stasis_domain_get_uri(const StasisDomain *domain);
const char *stasis_domain_get_name(const StasisDomain *domain);
const char *stasis_domain_get_uuid(const StasisDomain *domain);
/* libvirt's number for this run of it ("id"); -1 when it was not running. */
int stasis_domain_get_run(const StasisDomain *domain);
/* Was it running (or paused) when it was opened? */
gboolean stasis_domain_is_active(const StasisDomain *domain);

typedef enum {
    STASIS_DOMAIN_XML_LIVE,       /* of the running machine, as virDomainSave() would keep it */
    STASIS_DOMAIN_XML_PERSISTENT, /* what the next start will use */
} StasisDomainXml;

/* Free with g_free(). With its secrets. */
char *stasis_domain_get_xml(StasisDomain *domain, StasisDomainXml which, GError **error);

gboolean stasis_domain_suspend(StasisDomain *domain, GError **error);
gboolean stasis_domain_resume(StasisDomain *domain, GError **error);
gboolean stasis_domain_destroy(StasisDomain *domain, GError **error);
typedef enum {
    STASIS_DOMAIN_END_UNKNOWN, /* it runs, is not known any more, or libvirtd can't say */
    STASIS_DOMAIN_END_ASKED,   /* shut down, destroyed, saved … */
    STASIS_DOMAIN_END_FAILED,  /* crashed */
} StasisDomainEnd;
/* Why a domain that has ended did so. */
StasisDomainEnd stasis_domain_find_end(const char *uri, const char *name);
/* Is there a persistent definition? */
gboolean stasis_domain_is_persistent(StasisDomain *domain);

/* Start a domain of @xml, paused at its first instruction; transient unless one of that name and
 * UUID is defined already. */
StasisDomain *stasis_domain_create_paused(const char *uri, const char *xml, GError **error);
/* Replace the persistent definition (of the UUID in @xml). */
gboolean stasis_domain_define(const char *uri, const char *xml, GError **error);

typedef struct {
    char *name, *uuid;
    const char *state; /* "running", "paused", "shut off" … */
    gboolean active;
    guint n_vcpus;
    guint64 ram_bytes;
} StasisDomainEntry;

/* All domains, by name. Element type: StasisDomainEntry, freed with the array. */
GPtrArray *stasis_domain_list(const char *uri, GError **error);

/* Its monitor, lent by libvirtd for single commands: nobody is kept waiting between two. libvirt
 * marks the domain as tainted ("custom-monitor"). @domain must outlive it. */
StasisQmp *stasis_domain_open_qmp(StasisDomain *domain, guint timeout_ms, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisDomain, stasis_domain_free)

G_END_DECLS

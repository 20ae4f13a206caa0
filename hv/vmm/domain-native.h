/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A libvirt domain as a QEMU that nobody but us starts. */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/*
 * The command line of the machine that domain @xml describes, with the same devices as the guest
 * sees them, by libvirt's own conversion (virConnectDomainXMLToNative(), so a libvirtd is needed;
 * @uri: qemu:///system, say). What belongs to a running libvirtd is taken out or replaced: its
 * monitor and secrets, sockets in its directories (nothing listens on those ports), and network
 * interfaces, which keep their kind but are plugged in nowhere. Free with g_strfreev().
 */
char **stasis_domain_native_argv(const char *uri, const char *xml, GError **error);

G_END_DECLS

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fork of a libvirt domain. libvirtd is not to know of it: it is no domain that anybody asked
 * for, and would appear in lists, events and management software, and be started and ended with
 * their hooks. So it is a QEMU of ours, of the command line that libvirt itself says the running
 * domain has by now, with what was plugged in since.
 */
#pragma once

#include "engine/restore/revive.h"

G_BEGIN_DECLS

/* Does @source's image come from a domain? */
gboolean stasis_fork_is_domain(const StasisSource *source);
/* Make the machine of @source that command line, under the name @name. */
gboolean stasis_fork_describe_domain(StasisSource *source, const char *uri, const char *name,
                                     GError **error);
/* As whom the domain's QEMU @pid runs, "UID:GID"; NULL when that is who we are, or not to be known.
 * Free with g_free(). */
char *stasis_fork_find_user(pid_t pid);

G_END_DECLS

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a VM sends is held inside QEMU until the state behind it is durable:
 *
 *     put    put          release      put          release
 *      │ stop │ stop         │          │ stop         │
 *      ├──┬───┼──┬───────────┼──────────┼──┬───────────┼──> time
 *      └─A────┴─B────────────┼──────────┴─C            │
 *         A's packets are let go         B's packets are
 *
 * A filter-buffer (QEMU's net/filter-buffer.c) before each network back end takes the guest's
 * packets. Right before each instant another one is put in front of it: what the older ones hold
 * was sent before that instant, and their removal lets it go, in order. The newest one holds
 * what came since, of which a little was sent before the instant: that waits for one image more.
 *
 * Nothing of this is in our memory: packets of a QEMU that is killed are gone with it, and if we
 * are, removing all filters (stasis_output_sweep()) gives the VM its network as before. Where
 * nobody does, QEMU's own timer lets go after STASIS_OUTPUT_LIMIT_US, and again each time; so an
 * image that comes later than that is too late, which is told. (A filter that is switched off lets
 * go as well.) A filter holds 10,000 packets; what is sent beyond that is lost, as on a full link.
 *
 * Used by one thread at a time, as @qmp is.
 */
#pragma once

#include "vmm/qmp.h"

G_BEGIN_DECLS

/* Interfaces that output is held of, at most. */
#define STASIS_OUTPUT_MAX_BACKENDS 64
/* No packet waits for longer if there is nobody any more to let it go. */
#define STASIS_OUTPUT_LIMIT_US 600000000u

typedef struct _StasisOutputHold StasisOutputHold;

/* Nothing is held yet. @only: the interfaces (or their back ends) by QEMU's names, NULL or none:
 * all. Both are borrowed. */
StasisOutputHold *stasis_output_hold_new(StasisQmp *qmp, const char *const *only);
/* Removes all filters, what is held is let go; free. */
void stasis_output_hold_free(StasisOutputHold *hold);

/* Before an instant, the VM running or not: what is sent from now on is held apart. On failure what
 * was put may be there in part: free @hold. STASIS_ERROR_UNSUPPORTED: there is no interface, or one
 * whose packets don't come by QEMU (vhost), by name. STASIS_ERROR_NOT_FOUND: one of those asked for
 * is not there, at the first put. */
gboolean stasis_output_hold_put(StasisOutputHold *hold, GError **error);
/* The image of the instant after the last put is durable: let go what was sent before that. Also
 * fails when QEMU had let it go before. */
gboolean stasis_output_hold_release(StasisOutputHold *hold, GError **error);
/* QEMU's names of the back ends whose output is held, NULL-terminated; as of the last put. */
const char *const *stasis_output_hold_get_names(StasisOutputHold *hold);

/* Remove the filters that somebody left in QEMU who held its output and is no more. */
gboolean stasis_output_sweep(StasisQmp *qmp, GError **error);

/* The back ends (or ports of hubs) that network interfaces are connected to, by the text of HMP's
 * "info network", NULL-terminated; no more than one above the most that are held. @only: those of
 * interfaces that are called so, or are so themselves; NULL: all. Free with g_strfreev(). */
char **stasis_output_parse_backends(const char *text, const char *const *only);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisOutputHold, stasis_output_hold_free)

G_END_DECLS

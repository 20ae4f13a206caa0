/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Speaking with the shim inside a QEMU (hv/shim/shim-abi.h). One connection at a time per QEMU. */
#pragma once

#include "shim/shim-abi.h"
#include "vmm/ram.h"

G_BEGIN_DECLS

typedef struct _StasisShim StasisShim;

/* STASIS_ERROR_UNSUPPORTED when there is no shim, STASIS_ERROR_BUSY when another process speaks
 * with it. */
StasisShim *stasis_shim_connect(pid_t pid, GError **error);
void stasis_shim_free(StasisShim *shim);

/* One request; @fd (or -1) goes with it. The shim's answer, or −errno when none came (-EPIPE: it
 * hung up). *ret_reply may be NULL. Allocates nothing. */
int stasis_shim_call(StasisShim *shim, enum stasis_shim_op op, guint32 flags, guint64 arg, int fd,
                     struct stasis_shim_reply *ret_reply);

/* The same in two halves, so that the caller can work while the shim does: end must follow begin.
 */
int stasis_shim_begin(StasisShim *shim, enum stasis_shim_op op, guint32 flags, guint64 arg, int fd);
int stasis_shim_end(StasisShim *shim, enum stasis_shim_op op, struct stasis_shim_reply *ret_reply);

/* For those who watch QEMU's mappings by other means: from now on, and after we are gone, the shim
 * makes no new second mapping, and @ram has all that there are. No shim is fine. */
gboolean stasis_shim_hold(const StasisRam *ram, GError **error);
void stasis_shim_unhold(pid_t pid);

/* Whatever the shim was told by one who is gone has been done, or never will be, when this returns.
 */
void stasis_shim_settle(pid_t pid);

/* Leave the shim as it was at the start: log off, nothing held. */
gboolean stasis_shim_sweep(pid_t pid, GError **error);

/* What KVM's log is in that QEMU: "bitmap" or "dirty ring"; NULL when it can't be had. */
const char *stasis_shim_kind(const StasisRam *ram);

/* One line why KVM's log can't be had for @ram (NULL: none is at hand); NULL when it can. */
const char *stasis_shim_why_not(const StasisRam *ram);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisShim, stasis_shim_free)

G_END_DECLS

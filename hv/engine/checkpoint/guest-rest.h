/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a checkpoint asks of the guest around its instant: to freeze its file systems (--quiesce)
 * and to suspend devices (--guest-suspend), by quiesce.h. A guest that is asked for nothing is not
 * spoken to, and none is while memory is copied, unless it has devices that write it without a
 * trace: those are suspended from before the first page is read until the last one has been.
 */
#pragma once

#include "engine/checkpoint/series.h"
#include "engine/guest/quiesce.h"

G_BEGIN_DECLS

typedef struct {
    const StasisSeries *series;
    StasisQuiesce *quiesce; /* or NULL: the guest is as it is, nobody has asked it yet */
} StasisGuestRest;

/* Before anything is done: whether the guest can, and devices of which memory is not tracked. */
gboolean stasis_guest_rest_prepare(StasisGuestRest *rest, GCancellable *cancellable,
                                   GError **error);
/* As late as can be: what the guest writes for it is still copied before the stop. */
gboolean stasis_guest_rest_begin(StasisGuestRest *rest, GCancellable *cancellable, GError **error);
/* After the stop, the VM running: what was brought to rest for the instant alone goes on. */
gboolean stasis_guest_rest_end(StasisGuestRest *rest, GError **error);
/* No page is to be read any more: so do the others. */
gboolean stasis_guest_rest_finish(StasisGuestRest *rest, GError **error);
void stasis_guest_rest_clear(StasisGuestRest *rest);

/*
 * Of a device that is suspended the machine's half is of no use: its driver makes it anew, which
 * is what happens to a device of which there is no such half. @stream without it; NULL with @error.
 */
GBytes *stasis_guest_rest_strip(const StasisGuestRest *rest, GBytes *stream, GError **error);
/* What the image says of it: how long file systems were frozen, and what was suspended (owned by
 * @rest, or NULL). */
guint64 stasis_guest_rest_get_frozen_us(const StasisGuestRest *rest);
char **stasis_guest_rest_get_suspended(const StasisGuestRest *rest);

G_END_DECLS

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * When a policy is due: a pure function of what is remembered and of the clocks.
 *
 * Periods are counted in CLOCK_BOOTTIME, which goes on while the host sleeps and which nobody sets;
 * across a boot of the host in wall time, since there is nothing else. What was missed is not made
 * up for: one run stands for all that were due since.
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

typedef struct {
    char boot_id[40]; /* /proc/sys/kernel/random/boot_id */
    gint64 boot_us;   /* CLOCK_BOOTTIME */
    gint64 wall_us;   /* Unix time */
} StasisdMoment;

/* FALSE only where /proc is not there. */
gboolean stasisd_moment_now(StasisdMoment *ret);

/* When, in CLOCK_BOOTTIME of now, the run behind the one that was due at @last is due; @last with
 * an empty boot_id: there was none, and it is 0. */
gint64 stasisd_schedule_next(const StasisdMoment *last, guint64 every_us, const StasisdMoment *now);

/* A run that was due at @due_us begins @now. Returns for when it counts, so that being late does
 * not add up; *ret_missed: how many whole periods it is late. */
StasisdMoment stasisd_schedule_begin(gint64 due_us, guint64 every_us, const StasisdMoment *now,
                                     guint *ret_missed);

/* How long after a failure, in µs, it is tried again. */
guint64 stasisd_schedule_retry_us(guint64 every_us);

G_END_DECLS

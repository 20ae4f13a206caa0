/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/schedule.h"

#include <string.h>
#include <time.h>

#define MIN_RETRY_US ((guint64)G_TIME_SPAN_SECOND / 2)
#define MAX_RETRY_US ((guint64)60 * G_TIME_SPAN_SECOND)
/* In so many parts of a period a failed run is tried again: within it, most likely. */
#define RETRY_PART 8

gboolean stasisd_moment_now(StasisdMoment *ret)
{
    g_autofree char *id = NULL;
    struct timespec ts;
    if (!g_file_get_contents("/proc/sys/kernel/random/boot_id", &id, NULL, NULL) ||
        clock_gettime(CLOCK_BOOTTIME, &ts) < 0)
        return FALSE;
    g_strlcpy(ret->boot_id, g_strstrip(id), sizeof(ret->boot_id));
    ret->boot_us = (gint64)ts.tv_sec * G_TIME_SPAN_SECOND + ts.tv_nsec / 1000;
    ret->wall_us = g_get_real_time();
    return TRUE;
}

gint64 stasisd_schedule_next(const StasisdMoment *last, guint64 every_us, const StasisdMoment *now)
{
    /* It has waited for longest. */
    if (last->boot_id[0] == '\0')
        return 0;
    if (strcmp(last->boot_id, now->boot_id) == 0)
        return MIN(last->boot_us, now->boot_us) + (gint64)every_us;
    gint64 since = now->wall_us - last->wall_us;
    /* A clock that was set back, or stood at nothing when the host came up, tells nothing. */
    if (since < 0 || since >= (gint64)every_us)
        return now->boot_us;
    return now->boot_us + (gint64)every_us - since;
}

StasisdMoment stasisd_schedule_begin(gint64 due_us, guint64 every_us, const StasisdMoment *now,
                                     guint *ret_missed)
{
    gint64 late = due_us > 0 ? MAX(now->boot_us - due_us, 0) : 0;
    gint64 missed = late / (gint64)MAX(every_us, 1);
    gint64 behind = late - missed * (gint64)every_us;
    StasisdMoment begun = *now;
    begun.boot_us -= behind;
    begun.wall_us -= behind;
    *ret_missed = (guint)MIN(missed, G_MAXINT32);
    return begun;
}

guint64 stasisd_schedule_retry_us(guint64 every_us)
{
    return CLAMP(every_us / RETRY_PART, MIN_RETRY_US, MAX_RETRY_US);
}

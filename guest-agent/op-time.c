/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The real-time clock. A VM that was stopped, or goes on from an image, has a clock that stood
 * still meanwhile. What is off by little is slewed, so that time goes on without a jump; the rest
 * is stepped. How long the host's time was on its way makes an error of well under a millisecond.
 */
#include <errno.h>
#include <sys/time.h>
#include <time.h>

#include "agent.h"

#define STEP_NS 100000000 /* from here on */
#define YEAR_2200_NS 7258118400000000000u

static int step_to(uint64_t ns)
{
    struct timespec ts = { (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) };
    struct timeval stop_slewing = { 0 };
    adjtime(&stop_slewing, NULL);
    return clock_settime(CLOCK_REALTIME, &ts);
}

static int slew_by(int64_t ns)
{
    struct timeval delta = { ns / 1000000000, (ns % 1000000000) / 1000 };
    return adjtime(&delta, NULL);
}

int clock_set_by_host(uint64_t host_ns, StasisFieldWriter *fields)
{
    if (host_ns == 0 || host_ns > YEAR_2200_NS)
        return EINVAL;
    int64_t offset = (int64_t)(host_ns - clock_ns(CLOCK_REALTIME));
    bool step = offset >= STEP_NS || offset <= -STEP_NS;
    if ((step ? step_to(host_ns) : slew_by(offset)) < 0)
        return errno;
    stasis_field_put_number(fields, STASIS_AGENT_TAG_OFFSET, (uint64_t)offset);
    stasis_field_put_number(fields, STASIS_AGENT_TAG_STEPPED, step);
    return 0;
}

void op_sync_time(const Request *request, Answer *answer)
{
    int r =
        clock_set_by_host(request_number(request, STASIS_AGENT_TAG_REALTIME, 0), &answer->fields);
    if (r != 0)
        answer_error(answer, r == EINVAL ? STASIS_AGENT_INVALID : STASIS_AGENT_FAILED, r,
                     "set the clock");
    answer_end(answer);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Timerfds in a CRIU image, mended before it is sent. CRIU 3.17 writes down what the kernel's
 * fdinfo says (proc(5)) and gives it to timerfd_settime(2) and TFD_IOC_SET_TICKS, in this order:
 *
 *   - A periodic timer that has come due and was not read is not started again before it is: until
 *     then nothing remains of its time, and a time of nothing disarms. It would stay silent for
 *     good. So it gets 1 ns, and a tick less, since that comes at once and counts as one. (Disarmed
 *     ones have no ticks. A timer that is at 0 and has none is just about to come due: for the
 *     100 ns of that nobody can tell.)
 *   - Of an absolute one, too, the image has what remains, to which CRIU adds the present time, but
 *     its seconds alone: it comes up to a second too early, and one that was disarmed, or has come
 *     and was read, comes once more. So it is made one of what remains.
 *
 * Numbers are changed where they are: no length changes, and CRIU writes each of them always, as
 * proto2's "required" has it. CRIU of November 2025 does all that as 3.17 does.
 */
#include <sys/timerfd.h>

#include "criu-image.h"

/* images/fdinfo.proto: file_entry; images/timerfd.proto: timerfd_entry. */
enum { FILE_TIMERFD = 12 };
enum {
    TIMER_TICKS = 5,
    TIMER_FLAGS,
    TIMER_SEC,
    TIMER_NSEC,
    TIMER_EACH_SEC,
    TIMER_EACH_NSEC,
    N_TIMER
};

static bool mend(CriuBytes timer)
{
    CriuField field, of[N_TIMER] = { 0 };
    bool mended = false;
    while (criu_field_next(&timer, &field))
        if (field.number < N_TIMER && field.is_number)
            of[field.number] = field;
    if (of[TIMER_FLAGS].value == TFD_TIMER_ABSTIME)
        mended = criu_field_set(&of[TIMER_FLAGS], 0);
    bool periodic = of[TIMER_EACH_SEC].value != 0 || of[TIMER_EACH_NSEC].value != 0;
    bool due = of[TIMER_SEC].value == 0 && of[TIMER_NSEC].value == 0 && of[TIMER_TICKS].value > 0;
    if (periodic && due && criu_field_set(&of[TIMER_NSEC], 1))
        mended = criu_field_set(&of[TIMER_TICKS], of[TIMER_TICKS].value - 1);
    return mended;
}

unsigned criu_timers_mend(void *bytes, size_t size)
{
    CriuBytes entries = criu_image_entries(bytes, size), file;
    CriuField field;
    unsigned n = 0;
    while (criu_image_next(&entries, &file))
        while (criu_field_next(&file, &field))
            if (field.number == FILE_TIMERFD && !field.is_number)
                n += mend(field.bytes);
    return n;
}

bool criu_timers_mend_in(const char *dir)
{
    CriuFile file;
    if (!criu_file_open(dir, "files.img", &file))
        return false;
    criu_timers_mend(file.bytes, file.size);
    criu_file_close(&file);
    return true;
}

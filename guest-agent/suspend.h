/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Putting a PCI device of this guest to rest, so that all there is of it is in the guest's memory.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define SUSPEND_MAX_DEVICES 16u

/* A PCI device by the way to it (StasisAgentTag PATH): the slot and function of each bridge, then
 * its own: "1c.0/00.0". */
typedef struct {
    char path[64];
    char driver[64]; /* "", or: unbind it, and bind it to that one, its configuration untouched */
} SuspendWanted;

typedef struct Suspended Suspended;

/* Suspend the device by @end_ms (now_ms()). On failure it is as it was, and @text says why. */
Suspended *suspend_device(const SuspendWanted *wanted, int64_t end_ms, char *text, unsigned size,
                          int *ret_errno);
/* "ADDRESS DRIVER METHOD": 0000:00:04.0 nvme unbind. */
void suspend_describe(const Suspended *device, char *text, unsigned size);
/* Give it back. False, with @text, when it did not come back, or had not been suspended all the
 * time. */
bool suspend_resume(Suspended *device, char *text, unsigned size);

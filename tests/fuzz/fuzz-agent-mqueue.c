/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Any bytes as a file of POSIX message queues: no crash, nothing is read outside of it, and what is
 * taken for a queue says the same when it is written again. */
#include <glib.h>
#include <string.h>

#include "agent/mqueue.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_again(const StasisMqueue *queue)
{
    uint8_t again[STASIS_MQUEUE_BYTES + STASIS_MQUEUE_MAX_KEYS * STASIS_MQUEUE_KEY_BYTES];
    g_assert(stasis_mqueue_format(queue, again) > 0);
    g_assert(memcmp(again, queue->name, strlen(queue->name) + 1) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    StasisMqueueReader reader;
    StasisMqueue queue;
    uint32_t priority, length;
    const uint8_t *bytes;
    unsigned sum = 0;
    stasis_mqueue_begin(&reader, data, size);
    while (stasis_mqueue_next(&reader, &queue)) {
        check_again(&queue);
        /* Of each second one. */
        while (queue.n_messages % 2 != 0 &&
               stasis_mqueue_next_message(&reader, &priority, &bytes, &length))
            for (uint32_t i = 0; i < length; i++)
                sum += bytes[i];
    }
    return sum == 1 && size == 0 ? 1 : 0;
}

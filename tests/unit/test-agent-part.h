/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a guest sends of an answer at a time, for tests of those who take it. */
#pragma once

#include <glib.h>

#include "agent/field.h"

typedef struct {
    StasisFieldWriter part;
    guint8 room[STASIS_AGENT_MAX_PAYLOAD];
} TestPart;

/* An empty one. Free with g_free(). */
static inline TestPart *test_part_new(void)
{
    TestPart *part = g_new0(TestPart, 1);
    part->part = (StasisFieldWriter){ .payload = part->room, .room = sizeof part->room };
    return part;
}

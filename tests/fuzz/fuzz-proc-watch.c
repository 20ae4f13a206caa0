/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: no answer about what happens to processes crashes the host, and what is taken of one is
 * an event that there is, of a process where it has to be, in texts of one line. The input is a
 * part of an answer, or, with an odd first byte, the value of one record. */
#include <stdint.h>
#include <string.h>

#include "agent/field.h"
#include "engine/processes/watch-read.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
    if (!good)
        __builtin_trap();
}

static void check_text(const char *text)
{
    check(g_utf8_validate(text, -1, NULL));
    for (; *text != '\0'; text++)
        check(!g_ascii_iscntrl(*text));
}

static void check_change(const StasisWatchChange *change)
{
    guint of_process = STASIS_PROCESS_FORK | STASIS_PROCESS_EXEC | STASIS_PROCESS_EXIT;
    check(strcmp(stasis_process_event_word(change->event), "?") != 0);
    check(change->count > 0);
    check((change->comm != NULL) == ((change->event & of_process) != 0));
    check((change->object != NULL) == (change->comm == NULL));
    check(change->comm == NULL || change->pid > 0);
    check_text(change->comm != NULL ? change->comm : change->object);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t room[1 << 17];
    StasisFieldWriter part = { .payload = room, .room = sizeof room };
    if (size < 1 || size > 60000)
        return 0;
    if ((data[0] & 1) != 0)
        stasis_field_put(&part, STASIS_AGENT_TAG_CHANGE, data + 1, (uint32_t)size - 1);
    else
        memcpy(room, data + 1, part.length = (uint32_t)size - 1);
    /* Of just its size, so that a read past the end is seen. */
    g_autofree uint8_t *exact = g_memdup2(room, part.length);
    g_autoptr(StasisWatchReader) reader = stasis_watch_reader_new("fuzz");
    if (!stasis_watch_reader_take(exact, part.length, reader, NULL))
        return 0;
    const GArray *changes = stasis_watch_reader_get(reader);
    for (guint i = 0; i < changes->len; i++)
        check_change(&g_array_index(changes, StasisWatchChange, i));
    return 0;
}

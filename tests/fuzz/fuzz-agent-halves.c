/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Any text as a line about a connection that was cut: a name that is whole, and what is read says
 * the same when it is written again. */
#include <glib.h>
#include <string.h>

#include "agent/halves.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *line = g_strndup((const char *)data, size), *again = NULL;
    StasisHalfLine half, second;
    if (!stasis_half_parse(line, &half))
        return 0;
    g_assert(memchr(half.name, '\0', sizeof half.name) != NULL);
    again = half.log ? g_strdup_printf("%" G_GUINT64_FORMAT " log %s", half.ino, half.name)
                     : g_strdup_printf("%" G_GUINT64_FORMAT " cut", half.ino);
    g_assert(stasis_half_parse(again, &second));
    g_assert(second.ino == half.ino && second.log == half.log);
    g_assert(strcmp(second.name, half.name) == 0);
    return 0;
}

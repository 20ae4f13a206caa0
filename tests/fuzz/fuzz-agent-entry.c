/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Any bytes as what a guest says of one of its files: no crash, and a name that is taken is one
 * file's in its directory. */
#include <string.h>

#include "agent/entry.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(StasisAgentEntry) entry =
        stasis_agent_entry_read(data, (guint32)size, /* named= */ TRUE, NULL);
    if (entry == NULL)
        return 0;
    g_assert(entry->name[0] != '\0' && strlen(entry->name) <= 255 &&
             strchr(entry->name, '/') == NULL);
    g_assert(strcmp(entry->name, ".") != 0 && strcmp(entry->name, "..") != 0);
    g_assert(entry->mode <= 0777 && strchr("fdlo", entry->kind) != NULL);
    return 0;
}

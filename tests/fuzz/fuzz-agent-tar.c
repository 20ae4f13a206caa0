/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Any block as the head of a tar archive's entry: no crash, and what is taken for one has a name
 * that stays below where it is unpacked, and says the same when it is written again. */
#include <glib.h>
#include <string.h>

#include "agent/tar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t block[STASIS_TAR_BLOCK] = { 0 }, again[STASIS_TAR_BLOCK];
    StasisTarEntry entry, back;
    memcpy(block, data, MIN(size, sizeof block));
    stasis_tar_is_end(block);
    /* Right sums are not to be hoped for. */
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof block; i++)
        sum += i >= 148 && i < 156 ? ' ' : block[i];
    g_snprintf((char *)block + 148, 8, "%06o", sum);
    block[155] = ' ';
    if (!stasis_tar_parse(block, &entry))
        return 0;
    g_assert(stasis_tar_name_is_valid(entry.name) && entry.name[0] != '/');
    if (stasis_tar_format(&entry, again)) {
        g_assert(stasis_tar_parse(again, &back) && strcmp(back.name, entry.name) == 0);
        g_assert(back.size == entry.size && back.mode == entry.mode && back.type == entry.type);
    }
    return 0;
}

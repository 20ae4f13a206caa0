/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The page in which a QEMU, which a guest may have taken over, says what its shim is: whatever it
 * says, the layout that we take from it stays within the buffer that it says it needs. */
#include <stdint.h>
#include <string.h>

#include "vmm/shim-page.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct stasis_shim_page page;
    memset(&page, 0, sizeof(page));
    /* A head that is good, so that the rest is looked at. */
    page = (struct stasis_shim_page){ .magic = STASIS_SHIM_MAGIC,
                                      .abi = STASIS_SHIM_ABI,
                                      .bytes = sizeof(page) };
    const size_t from = G_STRUCT_OFFSET(struct stasis_shim_page, door_fd);
    memcpy((uint8_t *)&page + from, data, MIN(size, sizeof(page) - from));
    if (!stasis_shim_page_check(&page))
        return 0;
    for (guint i = 0; i < page.n_ranges; i++) {
        const struct stasis_shim_range *range = &page.ranges[i];
        int at = stasis_shim_page_find(&page, range->address, range->bytes);
        g_assert_cmpint(at, >=, 0);
        g_assert_cmpint(stasis_shim_page_find(&page, range->address, range->bytes + 1), !=, (int)i);
        g_assert_true(range->result_words <= page.n_words &&
                      range->bytes / 4096 / 64 <= page.n_words - range->result_words);
    }
    return 0;
}

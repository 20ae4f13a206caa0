/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a hostile record of touched pages is refused or names only pages that the image has. Its
 * checksum and the image's key are made right for every other input, so that what is behind them is
 * reached. */
#include <stdint.h>
#include <stdlib.h>

#include "../unit/test-store-util.h"
#include "store/cache.h"
#include "store/internal.h"

static StasisStore *store;
static StasisImageReader *reader;
static char *path;

static void clean_up(void)
{
    test_remove_tree(path);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    store = test_make_store(&path);
    atexit(clean_up);
    g_autofree char *id = test_small_image(store, NULL, 1, NULL);
    reader = stasis_image_reader_open(store, id, NULL);
    return 0;
}

/* The header of an empty record, the input's entries, the checksum over both. */
static GByteArray *wrap(const uint8_t *data, size_t size)
{
    StasisDigest sum;
    g_autoptr(GArray) none = g_array_new(FALSE, FALSE, sizeof(StasisTouched));
    g_autoptr(GBytes) empty = stasis_touched_to_bytes(reader, none, NULL);
    gsize header = g_bytes_get_size(empty) - STASIS_CHECKSUM_BYTES;
    GByteArray *out = g_byte_array_new();
    g_byte_array_append(out, g_bytes_get_data(empty, NULL), (guint)header);
    g_byte_array_append(out, data, (guint)size);
    guint32 count = GUINT32_TO_LE((guint32)(size / 16));
    memcpy(out->data + 12, &count, sizeof(count));
    stasis_digest_of(&sum, out->data, out->len, NULL, 0, NULL);
    g_byte_array_append(out, sum.bytes, STASIS_CHECKSUM_BYTES);
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    g_autoptr(GError) error = NULL;
    g_autoptr(GByteArray) wrapped = data[0] % 2 ? wrap(data + 1, size - 1) : NULL;
    g_autoptr(GArray) pages =
        wrapped != NULL ? stasis_touched_from_bytes(reader, wrapped->data, wrapped->len, &error)
                        : stasis_touched_from_bytes(reader, data + 1, size - 1, &error);
    g_assert((pages == NULL) == (error != NULL));
    for (guint i = 0; pages != NULL && i < pages->len; i++) {
        const StasisTouched *page = &g_array_index(pages, StasisTouched, i);
        g_assert(page->block == 0 && page->page < TEST_PAGES);
    }
    return 0;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whatever the head of a `virsh save` file holds, reading it stays inside and gives one error or a
 * head that can be written and read again. */
#include <device/savefile.h>
#include <stasis/error.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)  \
    do {                  \
        if (!(condition)) \
            abort();      \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;
    gsize more;
    if (size >= STASIS_SAVE_HEADER_BYTES && stasis_save_get_data_size(data, &more, NULL))
        CHECK(more > 0 && more <= 16u << 20);
    g_autoptr(StasisSaveHead) head = stasis_save_head_parse(data, size, &error);
    CHECK((head == NULL) == (error != NULL));
    if (head == NULL) {
        CHECK(error->domain == STASIS_ERROR && strchr(error->message, '\n') == NULL);
        return 0;
    }
    CHECK(head->compression < STASIS_SAVE_N_COMPRESSIONS);
    g_autoptr(GBytes) bytes = stasis_save_head_write(head);
    gsize len;
    const guint8 *again = g_bytes_get_data(bytes, &len);
    g_autoptr(StasisSaveHead) other = stasis_save_head_parse(again, len, &error);
    CHECK(other != NULL && strcmp(other->xml, head->xml) == 0);
    CHECK(g_strcmp0(other->cookie, head->cookie) == 0);
    CHECK(!other->was_running == !head->was_running && other->compression == head->compression);
    return 0;
}

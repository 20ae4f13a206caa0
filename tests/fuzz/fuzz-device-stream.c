/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whatever a migration stream holds, reading it ends in time, names only blocks and offsets that
 * it has declared, and gives the devices or one error. The first byte chooses in what pieces the
 * rest arrives.
 */
#include <device/stream-read.h>
#include <device/vmstate.h>
#include <stasis/error.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)  \
    do {                  \
        if (!(condition)) \
            abort();      \
    } while (0)

typedef struct {
    const uint8_t *data;
    size_t left, step;
    guint n_blocks;
    guint64 sizes[STASIS_STREAM_MAX_BLOCKS];
    guint sum; /* of what was handed over, so that it is read */
} Input;

static gssize give(void *buf, gsize len, gpointer user_data, GError **error)
{
    Input *input = user_data;
    gsize n = MIN(MIN(len, input->step), input->left);
    memcpy(buf, input->data, n);
    input->data += n;
    input->left -= n;
    return (gssize)n;
}

static gboolean take_block(guint block, const char *name, guint64 size_bytes, gpointer user_data,
                           GError **error)
{
    Input *input = user_data;
    CHECK(block == input->n_blocks && block < STASIS_STREAM_MAX_BLOCKS && strlen(name) > 0);
    CHECK(size_bytes > 0 && size_bytes % 4096 == 0 && size_bytes <= STASIS_STREAM_MAX_RAM_BYTES);
    input->sizes[input->n_blocks++] = size_bytes;
    return TRUE;
}

static gboolean take_page(guint block, guint64 offset, const guint8 *page, gpointer user_data,
                          GError **error)
{
    Input *input = user_data;
    CHECK(block < input->n_blocks && offset % 4096 == 0);
    CHECK(offset <= input->sizes[block] - 4096);
    for (guint i = 0; page != NULL && i < 4096; i++)
        input->sum += page[i];
    return TRUE;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    g_autoptr(GError) error = NULL;
    Input input = { .data = data + 1, .left = size - 1, .step = (size_t)data[0] * 16 + 1 };
    StasisStreamOps ops = { give, take_block, take_page, &input };
    g_autoptr(GBytes) devices = stasis_stream_read(&ops, &error);
    CHECK((devices == NULL) == (error != NULL));
    if (error != NULL)
        CHECK(error->domain == STASIS_ERROR && strchr(error->message, '\n') == NULL);
    else
        CHECK(g_bytes_get_size(devices) < size && input.n_blocks > 0);
    return 0;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An image of processes as it comes out of a guest: parts of any content in any order. Each is a
 * u16 length and so many bytes. Nothing is written beside the image's directory, nor more than is
 * allowed. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/tree.h"
#include "engine/processes/proc-receive.h"

#define MAX_BYTES 65536

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/dev/shm/fuzz-proc-XXXXXX";
static StasisStore *store;

static void tidy(void)
{
    stasis_remove_tree(dir);
}

static gboolean next_part(const uint8_t **data, size_t *size, const uint8_t **part, guint32 *len)
{
    if (*size < 2)
        return FALSE;
    *len = (guint32)((*data)[0] | (*data)[1] << 8);
    *data += 2;
    *size -= 2;
    *len = (guint32)MIN(*len, *size);
    *part = *data;
    *data += *len;
    *size -= *len;
    return TRUE;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (store == NULL) {
        g_assert(g_mkdtemp(dir) != NULL);
        atexit(tidy);
        store = stasis_store_open(dir, STASIS_STORE_CREATE, NULL);
        g_assert(store != NULL);
    }
    g_autoptr(StasisProcImageWriter) writer = stasis_proc_image_writer_new(store, NULL);
    g_autoptr(StasisProcessImageInfo) info = g_new0(StasisProcessImageInfo, 1);
    g_assert(writer != NULL);
    g_autoptr(StasisProcReceiver) receiver =
        stasis_proc_receiver_new(writer, MAX_BYTES, NULL, NULL);
    const uint8_t *part;
    guint32 len;
    gboolean ok = TRUE;
    while (ok && next_part(&data, &size, &part, &len)) {
        g_autoptr(GBytes) last = g_bytes_new(part, len);
        if (stasis_proc_receiver_finish(receiver, last, info, NULL)) {
            g_assert(info->processes->len >= 1);
            g_clear_pointer(&info->processes, g_ptr_array_unref);
        }
        ok = stasis_proc_receiver_take(part, len, receiver, NULL);
    }
    return 0;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The manifest of an image of processes: any bytes, with the right digest at their end or with what
 * they have. What is taken is within its limits, and is written and read again as the same. */
#include <stdint.h>
#include <string.h>

#include "store/internal.h"
#include "store/manifest-text.h"
#include "store/proc-image-manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const char *text, gsize len)
{
    g_autoptr(GPtrArray) files = NULL, again = NULL;
    g_autoptr(StasisProcessImageInfo) info =
        stasis_proc_image_manifest_parse(text, len, &files, NULL);
    if (info == NULL)
        return;
    g_assert(stasis_id_is_valid(info->id));
    g_assert(info->processes->len >= 1 && info->processes->len <= STASIS_MAX_PROCESSES);
    for (guint i = 0; i < files->len; i++) {
        const StasisProcImageFile *file = g_ptr_array_index(files, i);
        g_assert(stasis_proc_image_file_name_is_valid(file->name));
        g_assert(strchr(file->name, '/') == NULL && file->name[0] != '.');
    }
    g_autofree char *written = stasis_proc_image_manifest_write(info, files, NULL, NULL);
    if (written == NULL)
        return; /* too large, laid out for people */
    g_autoptr(StasisProcessImageInfo) second =
        stasis_proc_image_manifest_parse(written, strlen(written), &again, NULL);
    g_assert(second != NULL && again->len == files->len);
    g_assert(second->stored_bytes == info->stored_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check((const char *)data, size);
    /* As if it had been made so: what comes before the last two lines is the fuzzer's. */
    g_autofree char *tail = NULL;
    g_autofree char *digest = stasis_manifest_digest((const char *)data, size, &tail, NULL);
    g_autoptr(GString) whole = g_string_new_len((const char *)data, (gssize)size);
    g_string_append(whole, tail);
    check(whole->str, whole->len);
    return digest == NULL;
}

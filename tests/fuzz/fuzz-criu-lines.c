/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Any bytes as tty-info.img of CRIU: nothing is touched outside of them, and what has been mended
 * needs no more of it. */
#include <stdlib.h>
#include <string.h>

#include "criu-image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const CriuLines lines = { .index = { 0, 1, 6, 7 }, .n = 4 };
    uint8_t *bytes = malloc(size + 1);
    memcpy(bytes, data, size);
    unsigned n = criu_lines_mend(&lines, bytes, size);
    if ((n == 0 && memcmp(bytes, data, size) != 0) || criu_lines_mend(&lines, bytes, size) != 0)
        abort();
    free(bytes);
    return 0;
}

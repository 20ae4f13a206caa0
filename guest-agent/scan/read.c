/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Text files of /proc. */
#include "scan/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define FIRST_BYTES ((size_t)32 << 10)

/* Room for more text; false: over the pass's limit. */
static bool grow(StasisScan *scan)
{
    size_t size = scan->text_size == 0 ? FIRST_BYTES : scan->text_size * 2;
    char *text = size <= scan->limits.max_bytes ? realloc(scan->text, size) : NULL;
    if (text == NULL) {
        stasis_scan_fail(scan, STASIS_SCAN_NO_MEMORY);
        return false;
    }
    scan->text = text;
    scan->text_size = size;
    return true;
}

char *stasis_read_text(StasisScan *scan, int dir, const char *path, StasisTextShape shape)
{
    int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    size_t len = 0;
    ssize_t n = 1;
    while (n > 0 && (scan->text_size > len + 1 || grow(scan))) {
        n = read(fd, scan->text + len, scan->text_size - len - 1);
        if (n < 0 && errno == EINTR) {
            n = 1;
            continue;
        }
        if (n > 0)
            len += (size_t)n;
        /* A text of one record is given whole, if there was room for more: no need to ask for its
         * end. Half of all reads would be that. */
        if (n > 0 && shape == STASIS_TEXT_ONE && len + 1 < scan->text_size)
            n = 0;
    }
    close(fd);
    if (n != 0)
        return NULL;
    scan->text[len] = '\0';
    return scan->text;
}

const char *stasis_text_field(const char *text, const char *name)
{
    size_t len = strlen(name);
    while (text != NULL && *text != '\0') {
        if (strncmp(text, name, len) == 0)
            return text + len;
        text = strchr(text, '\n');
        text = text == NULL ? NULL : text + 1;
    }
    return NULL;
}

char *stasis_text_line(char **cursor)
{
    char *line = *cursor;
    if (line == NULL || *line == '\0')
        return NULL;
    char *end = strchr(line, '\n');
    if (end == NULL) {
        *cursor = line + strlen(line);
        return line;
    }
    *end = '\0';
    *cursor = end + 1;
    return line;
}

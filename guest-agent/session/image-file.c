/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A file that stands for an image: "stasis-image ID" and a newline. The image itself is in the
 * host's store. Written aside and renamed, so that there is always a whole one, the last or the one
 * before.
 */
#include "session/image-file.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define HEAD "stasis-image "

static bool write_to(int fd, const char *id)
{
    char text[sizeof HEAD + IMAGE_ID_SIZE];
    int n = snprintf(text, sizeof text, HEAD "%s\n", id);
    ssize_t written = write(fd, text, (size_t)n);
    if (written >= 0 && written < n)
        errno = ENOSPC;
    return written == n && fsync(fd) == 0;
}

bool image_file_write(const char *path, const char *id)
{
    char aside[PATH_MAX];
    if (snprintf(aside, sizeof aside, "%s.new", path) >= (int)sizeof aside) {
        errno = ENAMETOOLONG;
        return false;
    }
    int fd = open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return false;
    bool written = write_to(fd, id);
    int saved = errno;
    close(fd);
    if (written && rename(aside, path) == 0)
        return true;
    errno = written ? errno : saved;
    saved = errno;
    unlink(aside);
    errno = saved;
    return false;
}

bool image_file_read(const char *path, char ret_id[IMAGE_ID_SIZE])
{
    char text[sizeof HEAD + IMAGE_ID_SIZE], *id = text + strlen(HEAD);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
    int saved = errno;
    if (fd >= 0)
        close(fd);
    errno = saved;
    if (n < 0)
        return false;
    text[n] = '\0';
    size_t length = 0;
    bool known = strncmp(text, HEAD, strlen(HEAD)) == 0;
    while (known && isalnum((unsigned char)id[length]))
        length++;
    if (!known || length == 0 || length >= IMAGE_ID_SIZE || strcmp(id + length, "\n") != 0) {
        errno = EBADMSG;
        return false;
    }
    memcpy(ret_id, id, length);
    ret_id[length] = '\0';
    return true;
}

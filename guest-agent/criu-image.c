/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading, and changing numbers in, the files of a CRIU image. See criu-image.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "criu-image.h"

#define HEAD_BYTES 8u

/* How a field is written (its key's lowest three bits). */
enum { WIRE_VARINT, WIRE_64, WIRE_BYTES, WIRE_32 = 5 };

CriuBytes criu_image_entries(void *bytes, size_t size)
{
    uint8_t *at = bytes;
    size_t head = size < HEAD_BYTES ? size : HEAD_BYTES;
    return (CriuBytes){ at + head, at + size };
}

static bool take(CriuBytes *from, uint64_t n, CriuBytes *ret)
{
    if (n > (size_t)(from->end - from->at))
        return false;
    *ret = (CriuBytes){ from->at, from->at + n };
    from->at += n;
    return true;
}

bool criu_image_next(CriuBytes *entries, CriuBytes *ret_message)
{
    CriuBytes word;
    uint32_t length;
    if (!take(entries, sizeof length, &word))
        return false;
    memcpy(&length, word.at, sizeof length);
    return take(entries, length, ret_message);
}

/* Seven bits a byte, the lowest first; all but the last have the eighth set. */
static bool take_varint(CriuBytes *from, uint64_t *ret)
{
    uint64_t value = 0;
    for (unsigned shift = 0; from->at < from->end && shift < 64; shift += 7) {
        uint8_t byte = *from->at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0) {
            *ret = value;
            return true;
        }
    }
    return false;
}

bool criu_field_next(CriuBytes *message, CriuField *ret)
{
    uint64_t key, length;
    if (!take_varint(message, &key) || key >> 3 == 0 || key >> 3 > UINT32_MAX >> 3)
        return false;
    *ret = (CriuField){ .number = (unsigned)(key >> 3), .is_number = (key & 7) == WIRE_VARINT };
    uint8_t *at = message->at;
    switch (key & 7) {
    case WIRE_VARINT:
        if (!take_varint(message, &ret->value))
            return false;
        ret->bytes = (CriuBytes){ at, message->at };
        return true;
    case WIRE_BYTES:
        return take_varint(message, &length) && take(message, length, &ret->bytes);
    case WIRE_64:
        return take(message, 8, &ret->bytes);
    case WIRE_32:
        return take(message, 4, &ret->bytes);
    default:
        return false;
    }
}

bool criu_field_set(const CriuField *field, uint64_t value)
{
    size_t n = (size_t)(field->bytes.end - field->bytes.at);
    if (!field->is_number || (n < 10 && value >> (7 * n) != 0))
        return false;
    for (size_t i = 0; i < n; i++, value >>= 7)
        field->bytes.at[i] = (uint8_t)((value & 0x7f) | (i + 1 < n ? 0x80 : 0));
    return true;
}

/* ---- files ---- */

static bool map(int fd, CriuFile *ret)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return false;
    if (st.st_size == 0)
        return true;
    void *bytes = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED)
        return false;
    *ret = (CriuFile){ bytes, (size_t)st.st_size };
    return true;
}

bool criu_file_open(const char *dir, const char *name, CriuFile *ret)
{
    char path[512];
    *ret = (CriuFile){ 0 };
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT;
    bool good = map(fd, ret);
    close(fd);
    return good;
}

void criu_file_close(CriuFile *file)
{
    if (file->bytes != NULL)
        munmap(file->bytes, file->size);
    *file = (CriuFile){ 0 };
}

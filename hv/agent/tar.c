/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/tar.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define NAME_BYTES 100u
#define PREFIX_BYTES 155u
#define MAX_SIZE ((uint64_t)1 << 62)

typedef struct {
    char name[NAME_BYTES], mode[8], uid[8], gid[8], size[12], mtime[12], sum[8], type, link[100],
        magic[8], uname[32], gname[32], major[8], minor[8], prefix[PREFIX_BYTES], unused[12];
} Head;
_Static_assert(sizeof(Head) == STASIS_TAR_BLOCK, "a head is a block");

bool stasis_tar_name_is_valid(const char *name)
{
    size_t n = strlen(name);
    if (n == 0 || n > STASIS_TAR_MAX_NAME)
        return false;
    for (const char *part = name; part != NULL;) {
        size_t len = strcspn(part, "/");
        if (len == 0 || (part[0] == '.' && (len == 1 || (len == 2 && part[1] == '.'))))
            return false;
        part = part[len] == '/' ? part + len + 1 : NULL;
    }
    return true;
}

/* ---- numbers ---- */

static void put_number(char *field, size_t size, uint64_t n)
{
    if (n >> 3 * (size - 1) == 0) {
        field[size - 1] = '\0';
        for (size_t i = size - 1; i-- > 0; n >>= 3)
            field[i] = (char)('0' + (n & 7));
        return;
    }
    for (size_t i = size; i-- > 0; n >>= 8)
        field[i] = (char)(n & 0xff);
    field[0] = (char)0x80;
}

static bool get_number(const char *field, size_t size, uint64_t max, uint64_t *ret)
{
    uint64_t n = 0;
    bool binary = (uint8_t)field[0] == 0x80;
    for (size_t i = binary ? 1 : 0; i < size; i++) {
        uint8_t c = (uint8_t)field[i];
        if (!binary && i == size - 1 && c == '\0')
            break;
        if ((!binary && (c < '0' || c > '7')) || n > max >> (binary ? 8 : 3))
            return false;
        n = binary ? n << 8 | c : n << 3 | (uint64_t)(c - '0');
    }
    *ret = n;
    return n <= max;
}

/* Of all bytes, those of the sum itself taken as spaces. */
static unsigned sum_of(const uint8_t *block)
{
    unsigned sum = 0;
    for (size_t i = 0; i < STASIS_TAR_BLOCK; i++)
        sum += i - offsetof(Head, sum) < sizeof(((Head *)0)->sum) ? ' ' : block[i];
    return sum;
}

/* ---- heads ---- */

/* The last part of @name goes to one field and what is before it to the other, if need be. */
static bool put_name(Head *head, const char *name)
{
    size_t n = strlen(name), at = 0;
    if (n > NAME_BYTES) {
        for (at = n - NAME_BYTES - 1; at < n && name[at] != '/'; at++)
            ;
        if (at == n || at > PREFIX_BYTES)
            return false;
        memcpy(head->prefix, name, at++);
    }
    memcpy(head->name, name + at, n - at);
    return true;
}

static bool is_valid(const StasisTarEntry *entry)
{
    bool link = entry->type == STASIS_TAR_LINK;
    bool known = link || entry->type == STASIS_TAR_FILE || entry->type == STASIS_TAR_FIFO;
    return known && (link ? stasis_tar_name_is_valid(entry->link) : entry->link[0] == '\0') &&
           stasis_tar_name_is_valid(entry->name) && entry->mode <= 07777 &&
           entry->size <= MAX_SIZE && entry->mtime_s <= MAX_SIZE &&
           (entry->type == STASIS_TAR_FILE || entry->size == 0);
}

bool stasis_tar_format(const StasisTarEntry *entry, uint8_t *block)
{
    Head head = { .type = (char)entry->type, .magic = "ustar\00000" };
    if (!is_valid(entry) || !put_name(&head, entry->name))
        return false;
    memcpy(head.link, entry->link, strlen(entry->link));
    put_number(head.mode, sizeof head.mode, entry->mode);
    put_number(head.uid, sizeof head.uid, entry->uid);
    put_number(head.gid, sizeof head.gid, entry->gid);
    put_number(head.size, sizeof head.size, entry->size);
    put_number(head.mtime, sizeof head.mtime, entry->mtime_s);
    put_number(head.major, sizeof head.major, 0);
    put_number(head.minor, sizeof head.minor, 0);
    memcpy(block, &head, sizeof head);
    put_number(head.sum, sizeof head.sum - 1, sum_of(block));
    head.sum[sizeof head.sum - 1] = ' ';
    memcpy(block, &head, sizeof head);
    return true;
}

static void get_name(const Head *head, StasisTarEntry *ret)
{
    int prefix = (int)strnlen(head->prefix, PREFIX_BYTES);
    snprintf(ret->name, sizeof ret->name, "%.*s%s%.*s", prefix, head->prefix, prefix > 0 ? "/" : "",
             (int)strnlen(head->name, NAME_BYTES), head->name);
}

bool stasis_tar_parse(const uint8_t *block, StasisTarEntry *ret)
{
    Head head;
    uint64_t sum, mode, uid, gid;
    StasisTarEntry entry = { .size = 0 };
    memcpy(&head, block, sizeof head);
    if (memcmp(head.magic, "ustar\00000", sizeof head.magic) != 0 ||
        head.sum[sizeof head.sum - 1] != ' ' ||
        !get_number(head.sum, sizeof head.sum - 1, UINT32_MAX, &sum) || sum != sum_of(block) ||
        !get_number(head.mode, sizeof head.mode, 07777, &mode) ||
        !get_number(head.uid, sizeof head.uid, UINT32_MAX, &uid) ||
        !get_number(head.gid, sizeof head.gid, UINT32_MAX, &gid) ||
        !get_number(head.size, sizeof head.size, MAX_SIZE, &entry.size) ||
        !get_number(head.mtime, sizeof head.mtime, MAX_SIZE, &entry.mtime_s))
        return false;
    get_name(&head, &entry);
    memcpy(entry.link, head.link, sizeof head.link);
    entry.type = (StasisTarType)head.type;
    entry.mode = (uint32_t)mode;
    entry.uid = (uint32_t)uid;
    entry.gid = (uint32_t)gid;
    if (!is_valid(&entry))
        return false;
    *ret = entry;
    return true;
}

bool stasis_tar_is_end(const uint8_t *block)
{
    for (size_t i = 0; i < STASIS_TAR_BLOCK; i++)
        if (block[i] != 0)
            return false;
    return true;
}

unsigned stasis_tar_padding(uint64_t size)
{
    return (unsigned)(-size % STASIS_TAR_BLOCK);
}

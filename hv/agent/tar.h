/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Heads of entries of a tar archive, as POSIX has them (pax(1), "ustar Interchange Format"), for
 * files that go with an image of processes. Pure C: the agent in the guest writes and reads them,
 * so that any tar can, too. Numbers too large for octal are as GNU tar has them (base 256).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define STASIS_TAR_BLOCK 512u
#define STASIS_TAR_MAX_NAME 256u
#define STASIS_TAR_MAX_LINK 100u

typedef enum {
    STASIS_TAR_FILE = '0',
    STASIS_TAR_LINK = '1', /* a hard link to an earlier file */
    STASIS_TAR_FIFO = '6',
} StasisTarType;

typedef struct {
    char name[STASIS_TAR_MAX_NAME + 1]; /* relative: no "/" in front, no "." or ".." in it */
    char link[STASIS_TAR_MAX_LINK + 1]; /* of a link: that file's name; else "" */
    StasisTarType type;
    uint32_t mode; /* permissions alone: 07777 */
    uint32_t uid, gid;
    uint64_t size; /* of the content, that follows in whole blocks; of others 0 */
    uint64_t mtime_s;
} StasisTarEntry;

/* A name that an entry may have, whoever made it up. */
bool stasis_tar_name_is_valid(const char *name);
/* Fill in @block (STASIS_TAR_BLOCK bytes); false when the entry is not valid, or its name can't be
 * told in the two parts that there are for it (100 and 155 bytes, parted at a "/"). */
bool stasis_tar_format(const StasisTarEntry *entry, uint8_t *block);
/* The entry that @block begins; false when it is none of those that stasis_tar_format() makes. */
bool stasis_tar_parse(const uint8_t *block, StasisTarEntry *ret);
/* A block of zeros: two of them end an archive. */
bool stasis_tar_is_end(const uint8_t *block);
/* Bytes between the end of content of @size and the next head. */
unsigned stasis_tar_padding(uint64_t size);

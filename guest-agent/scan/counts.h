/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What was really said over the objects that processes share, as somebody counted it (talk/): the
 * scanners only look numbers up. One entry for each process and object; of what has none, nothing
 * was seen.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What an object number means. Those with an inode have the file type of its mode there. */
typedef enum {
    STASIS_COUNTED_NOT = 0,
    STASIS_COUNTED_PIPE = 1,    /* inode; FIFOs too */
    STASIS_COUNTED_MQUEUE = 8,  /* inode */
    STASIS_COUNTED_SOCKET = 12, /* inode, of one end */
    STASIS_COUNTED_SEM = 32,    /* ID of a SysV set */
    STASIS_COUNTED_MSG,         /* ID of a SysV queue */
    STASIS_COUNTED_SIGNAL,      /* process ID of the receiver */
} StasisCounted;

typedef struct {
    uint32_t pid; /* in the first PID namespace */
    uint32_t kind;
    uint64_t object;
} StasisCountKey;

/* Calls, not bytes. */
typedef struct {
    StasisCountKey key;
    uint64_t sent, received;
} StasisCount;

typedef struct {
    const StasisCount *items; /* by kind, object, pid */
    size_t n;
    uint64_t since_ns; /* CLOCK_BOOTTIME: counting began */
    /* Counting has only begun, or more was said than could be counted: everybody may have talked.
     */
    bool unknown;
} StasisCounts;

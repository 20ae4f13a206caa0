/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * POSIX message queues with their messages (mq_overview(7)), in a file of its own that goes with an
 * image of processes, since CRIU has no place for them. Pure C, for whoever writes or reads it.
 * Numbers are little-endian:
 *
 *     file     "STASISMQ", version (u32, 1), flags (u32)
 *     queue    name (256 bytes, ends in NUL), mode uid gid flags (u32), messages it has room for,
 *              bytes of one (u64), number of keys, number of messages (u32), keys, messages
 *     key      mount ID, 0 (u32), inode (u64)
 *     message  priority, length (u32), bytes
 *
 * Queues up to the end of the file, messages as mq_receive(3) gives them: sent in this order they
 * make the same queue.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STASIS_MQUEUE_FILE "mqueue.bin"
#define STASIS_MQUEUE_HEAD_BYTES 16u
#define STASIS_MQUEUE_BYTES 296u
#define STASIS_MQUEUE_KEY_BYTES 16u
#define STASIS_MQUEUE_MESSAGE_BYTES 8u
#define STASIS_MQUEUE_MAX_KEYS 8u
#define STASIS_MQUEUE_MAX_PRIORITY 32768u /* MQ_PRIO_MAX, mq_overview(7) */
/* What a kernel allows root (ipc/mqueue.c: HARD_MSGMAX, HARD_MSGSIZEMAX). */
#define STASIS_MQUEUE_MAX_MESSAGES 65536u
#define STASIS_MQUEUE_MAX_SIZE (16u << 20)

/* By which CRIU knows an open file: --external 'file[MOUNT:INODE]' (criu(8)). */
typedef struct {
    uint32_t mount;
    uint64_t inode;
} StasisMqueueKey;

typedef struct {
    char name[256]; /* as for mq_open(3): "/name"; "": it has none any more */
    uint32_t mode;  /* permissions alone: 07777 */
    uint32_t uid, gid;
    bool shared; /* somebody who is not in the image has it, too */
    uint64_t max_messages, max_size;
    uint32_t n_keys, n_messages;
    StasisMqueueKey keys[STASIS_MQUEUE_MAX_KEYS]; /* a queue may be reached by several mounts */
} StasisMqueue;

/* ---- writing ---- */

/* The head of a file. @own_namespace: the processes have an IPC namespace that CRIU makes anew. */
void stasis_mqueue_format_head(bool own_namespace, uint8_t ret[STASIS_MQUEUE_HEAD_BYTES]);
/* A queue and its keys, without messages: the number of bytes; 0 when it is not valid. */
size_t stasis_mqueue_format(
    const StasisMqueue *queue,
    uint8_t ret[STASIS_MQUEUE_BYTES + STASIS_MQUEUE_MAX_KEYS * STASIS_MQUEUE_KEY_BYTES]);
/* What stands before a message's bytes. */
void stasis_mqueue_format_message(uint32_t priority, uint32_t length,
                                  uint8_t ret[STASIS_MQUEUE_MESSAGE_BYTES]);

/* ---- reading: a file as a whole in memory, which is not copied ---- */

typedef struct {
    const uint8_t *at, *end;
    bool own_namespace;
    bool broken;       /* what comes is none of ours, or a part of one */
    uint32_t n_left;   /* messages of the present queue that have not been read */
    uint64_t max_size; /* its */
} StasisMqueueReader;

void stasis_mqueue_begin(StasisMqueueReader *reader, const void *bytes, size_t size);
/* The next queue; messages of the last one that have not been read are left out. False at the end,
 * or when it is broken. */
bool stasis_mqueue_next(StasisMqueueReader *reader, StasisMqueue *ret);
/* The next message of that queue; false when there is none, or it is broken. */
bool stasis_mqueue_next_message(StasisMqueueReader *reader, uint32_t *ret_priority,
                                const uint8_t **ret_bytes, uint32_t *ret_length);

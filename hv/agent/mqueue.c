/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/mqueue.h"

#include <string.h>

#define MAGIC "STASISMQ"
#define VERSION 1u
#define OWN_NAMESPACE 1u
#define SHARED 1u
#define NAME_BYTES sizeof(((StasisMqueue *)0)->name)

/* ---- numbers ---- */

static uint8_t *put(uint8_t *at, uint64_t n, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        at[i] = (uint8_t)(n >> 8 * i);
    return at + bytes;
}

static uint64_t get(const uint8_t **at, unsigned bytes)
{
    uint64_t n = 0;
    for (unsigned i = bytes; i-- > 0;)
        n = n << 8 | (*at)[i];
    *at += bytes;
    return n;
}

/* ---- what a queue may be ---- */

static bool is_name(const char name[NAME_BYTES])
{
    size_t n = strnlen(name, NAME_BYTES);
    if (n == 0)
        return true;
    return n > 1 && n < NAME_BYTES && name[0] == '/' && strchr(name + 1, '/') == NULL &&
           strcmp(name, "/.") != 0 && strcmp(name, "/..") != 0;
}

static bool is_valid(const StasisMqueue *q)
{
    return is_name(q->name) && q->mode <= 07777 && q->max_messages >= 1 &&
           q->max_messages <= STASIS_MQUEUE_MAX_MESSAGES && q->max_size >= 1 &&
           q->max_size <= STASIS_MQUEUE_MAX_SIZE && q->n_messages <= q->max_messages &&
           q->n_keys >= 1 && q->n_keys <= STASIS_MQUEUE_MAX_KEYS;
}

/* ---- writing ---- */

void stasis_mqueue_format_head(bool own_namespace, uint8_t ret[STASIS_MQUEUE_HEAD_BYTES])
{
    memcpy(ret, MAGIC, 8);
    put(put(ret + 8, VERSION, 4), own_namespace ? OWN_NAMESPACE : 0, 4);
}

size_t stasis_mqueue_format(
    const StasisMqueue *queue,
    uint8_t ret[STASIS_MQUEUE_BYTES + STASIS_MQUEUE_MAX_KEYS * STASIS_MQUEUE_KEY_BYTES])
{
    if (!is_valid(queue))
        return 0;
    memset(ret, 0, NAME_BYTES);
    memcpy(ret, queue->name, strlen(queue->name));
    uint8_t *at = put(ret + NAME_BYTES, queue->mode, 4);
    at = put(put(at, queue->uid, 4), queue->gid, 4);
    at = put(at, queue->shared ? SHARED : 0, 4);
    at = put(put(at, queue->max_messages, 8), queue->max_size, 8);
    at = put(put(at, queue->n_keys, 4), queue->n_messages, 4);
    for (uint32_t i = 0; i < queue->n_keys; i++)
        at = put(put(put(at, queue->keys[i].mount, 4), 0, 4), queue->keys[i].inode, 8);
    return (size_t)(at - ret);
}

void stasis_mqueue_format_message(uint32_t priority, uint32_t length,
                                  uint8_t ret[STASIS_MQUEUE_MESSAGE_BYTES])
{
    put(put(ret, priority, 4), length, 4);
}

/* ---- reading ---- */

/* True, and @at moves, when @n bytes are there. */
static bool has(StasisMqueueReader *reader, uint64_t n)
{
    if (!reader->broken && n > (uint64_t)(reader->end - reader->at))
        reader->broken = true;
    return !reader->broken;
}

void stasis_mqueue_begin(StasisMqueueReader *reader, const void *bytes, size_t size)
{
    *reader = (StasisMqueueReader){ .at = bytes, .end = (const uint8_t *)bytes + size };
    if (!has(reader, STASIS_MQUEUE_HEAD_BYTES))
        return;
    reader->broken = memcmp(reader->at, MAGIC, 8) != 0;
    reader->at += 8;
    uint64_t version = get(&reader->at, 4), flags = get(&reader->at, 4);
    reader->broken |= version != VERSION || flags > OWN_NAMESPACE;
    reader->own_namespace = flags == OWN_NAMESPACE;
}

static bool read_keys(StasisMqueueReader *reader, StasisMqueue *q)
{
    if (!has(reader, (uint64_t)q->n_keys * STASIS_MQUEUE_KEY_BYTES))
        return false;
    for (uint32_t i = 0; i < q->n_keys; i++) {
        q->keys[i].mount = (uint32_t)get(&reader->at, 4);
        get(&reader->at, 4);
        q->keys[i].inode = get(&reader->at, 8);
    }
    return true;
}

bool stasis_mqueue_next(StasisMqueueReader *reader, StasisMqueue *ret)
{
    uint32_t priority, length;
    const uint8_t *bytes;
    while (stasis_mqueue_next_message(reader, &priority, &bytes, &length))
        ;
    if (reader->broken || reader->at == reader->end || !has(reader, STASIS_MQUEUE_BYTES))
        return false;
    *ret = (StasisMqueue){ 0 };
    memcpy(ret->name, reader->at, NAME_BYTES);
    reader->at += NAME_BYTES;
    ret->mode = (uint32_t)get(&reader->at, 4);
    ret->uid = (uint32_t)get(&reader->at, 4);
    ret->gid = (uint32_t)get(&reader->at, 4);
    uint64_t flags = get(&reader->at, 4);
    ret->shared = flags == SHARED;
    ret->max_messages = get(&reader->at, 8);
    ret->max_size = get(&reader->at, 8);
    ret->n_keys = (uint32_t)get(&reader->at, 4);
    ret->n_messages = (uint32_t)get(&reader->at, 4);
    reader->broken = flags > SHARED || !is_valid(ret) || !read_keys(reader, ret);
    reader->n_left = ret->n_messages;
    reader->max_size = ret->max_size;
    return !reader->broken;
}

bool stasis_mqueue_next_message(StasisMqueueReader *reader, uint32_t *ret_priority,
                                const uint8_t **ret_bytes, uint32_t *ret_length)
{
    if (reader->broken || reader->n_left == 0 || !has(reader, STASIS_MQUEUE_MESSAGE_BYTES))
        return false;
    uint64_t priority = get(&reader->at, 4), length = get(&reader->at, 4);
    reader->broken = priority >= STASIS_MQUEUE_MAX_PRIORITY || length > reader->max_size;
    if (!has(reader, length))
        return false;
    *ret_priority = (uint32_t)priority;
    *ret_bytes = reader->at;
    *ret_length = (uint32_t)length;
    reader->at += length;
    reader->n_left--;
    return true;
}

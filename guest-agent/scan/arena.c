/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "scan/arena.h"

#include <stdint.h>
#include <stdlib.h>

#define CHUNK_BYTES ((size_t)64 << 10)

struct StasisArenaChunk {
    StasisArenaChunk *next;
    size_t size, used;
    max_align_t data[];
};

static StasisArenaChunk *add_chunk(StasisArena *arena, size_t size)
{
    size_t data = size > CHUNK_BYTES / 4 ? size : CHUNK_BYTES;
    size_t whole = sizeof(StasisArenaChunk) + data;
    if (whole > arena->limit_bytes || arena->used_bytes > arena->limit_bytes - whole)
        return NULL;
    StasisArenaChunk *chunk = calloc(1, whole);
    if (chunk == NULL)
        return NULL;
    chunk->size = data;
    arena->used_bytes += whole;
    /* A large piece goes behind the chunk that is being filled. */
    if (data != CHUNK_BYTES && arena->chunks != NULL) {
        chunk->next = arena->chunks->next;
        arena->chunks->next = chunk;
    } else {
        chunk->next = arena->chunks;
        arena->chunks = chunk;
    }
    return chunk;
}

void *stasis_arena_alloc(StasisArena *arena, size_t size)
{
    const size_t align = _Alignof(max_align_t);
    if (size > SIZE_MAX / 2)
        return NULL;
    size = (size + align - 1) / align * align;
    StasisArenaChunk *chunk = arena->chunks;
    if (chunk == NULL || chunk->size - chunk->used < size)
        chunk = add_chunk(arena, size);
    if (chunk == NULL)
        return NULL;
    void *p = (char *)chunk->data + chunk->used;
    chunk->used += size;
    return p;
}

void stasis_arena_clear(StasisArena *arena)
{
    while (arena->chunks != NULL) {
        StasisArenaChunk *chunk = arena->chunks;
        arena->chunks = chunk->next;
        free(chunk);
    }
    arena->used_bytes = 0;
}

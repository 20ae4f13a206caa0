/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory of one pass: allocated in chunks up to a limit, freed all at once. Nothing in a pass is
 * freed by itself, so that a failure anywhere needs no cleaning up but one call.
 */
#pragma once

#include <stddef.h>

typedef struct StasisArenaChunk StasisArenaChunk;

typedef struct {
    StasisArenaChunk *chunks;
    size_t used_bytes;  /* of all chunks, as taken from malloc */
    size_t limit_bytes; /* set by the owner before the first allocation */
} StasisArena;

/* Zeroed memory, aligned for anything; NULL when the limit is reached or there is no memory. */
void *stasis_arena_alloc(StasisArena *arena, size_t size);

/* Frees everything; the arena can be used again. */
void stasis_arena_clear(StasisArena *arena);

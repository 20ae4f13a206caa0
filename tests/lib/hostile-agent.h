/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the lying agent have in common. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "agent/field.h"
#include "agent/frame.h"

/* The answer's next part, which lies in bytes[]. */
extern uint8_t bytes[65536];
extern StasisFieldWriter part;
void send_part(uint64_t id, uint8_t flags);
/* It has hung up; or somebody speaks, though who asked waits: another one. */
bool host_has_left(void);

/* hostile-lies.c: a process that came in by edge @via (−1: was asked for), called @words in every
 * way. */
void put_process(uint64_t pid, uint64_t ppid, int64_t via, const char *words);
/* An answer to whatever was asked about processes. */
void lie_of_processes(const char *mode, uint64_t id);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * UNIX connections of which an image of processes has one end alone: a file beside CRIU's, which
 * can't be told of them otherwise. A line for each:
 *
 *     INODE log NAME    a way into systemd's log, of the process NAME
 *     INODE agent       a program's way to the agent (guest-agent/lib)
 *     INODE cut         any other, cut by name
 *
 * INODE is that of the socket in the image: CRIU takes a descriptor in its place, by the option
 * --inherit-fd 'fd[N]:socket:[INODE]' (criu.org/Inheriting_FDs_on_restore). Pure C, for whoever
 * reads it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define STASIS_HALVES_FILE "halves.txt"
#define STASIS_HALVES_MAX 256u
#define STASIS_HALVES_LINE_BYTES 64u /* a line has less */

typedef struct {
    uint64_t ino;
    bool log, agent;
    char name[16]; /* of a way into the log */
} StasisHalfLine;

/* Read a line, with or without its end; false when it is none of these. */
bool stasis_half_parse(const char *line, StasisHalfLine *ret);

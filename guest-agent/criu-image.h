/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files of a CRIU image, as bytes in memory: two magic numbers, then entries, each a protobuf
 * message with its length (32 bits, little-endian) in front (criu.org/Images; CRIU's images/ has
 * the messages, protobuf.dev/programming-guides/encoding how they are written). Nothing is copied
 * or allocated; what does not fit into its file ends it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A part of a file: from @at up to @end. */
typedef struct {
    uint8_t *at, *end;
} CriuBytes;

typedef struct {
    unsigned number; /* which field of its message */
    bool is_number;  /* a varint, and not bytes or anything else */
    uint64_t value;  /* when it is a number */
    CriuBytes bytes; /* what it is written with, without its key; a message: what is in it */
} CriuField;

/* All entries of a file of @size @bytes: nothing when it has no head. */
CriuBytes criu_image_entries(void *bytes, size_t size);
/* The next entry: a message; false at the end, or when it is not whole. */
bool criu_image_next(CriuBytes *entries, CriuBytes *ret_message);
/* The next field; false at the end of the message, or when it is not whole. */
bool criu_field_next(CriuBytes *message, CriuField *ret);
/* Write another number in the place of @field's, in as many bytes; false when it has not so many.
 */
bool criu_field_set(const CriuField *field, uint64_t value);

/* ---- files ---- */

typedef struct {
    void *bytes;
    size_t size;
} CriuFile;

/* The file @name of the image in @dir, in memory that is the file's own: what is written there is
 * written to it. One that is not there has no bytes; false, with errno, when it can't be had. */
bool criu_file_open(const char *dir, const char *name, CriuFile *ret);
void criu_file_close(CriuFile *file);

/* ---- criu-timers.c ---- */

/* Mend timerfds in files.img, of @size @bytes: how many were. */
unsigned criu_timers_mend(void *bytes, size_t size);
/* The same in @dir, where CRIU has written an image; false, with errno, when it can't be. */
bool criu_timers_mend_in(const char *dir);

/* ---- criu-lines.c ---- */

#define CRIU_MAX_LINES 256u

/* Pseudo-terminals whose unfinished line was made readable (lines.c), by their numbers. */
typedef struct CriuLines {
    uint64_t index[CRIU_MAX_LINES];
    unsigned n;
} CriuLines;

/* Put them back in tty-info.img, of @size @bytes: how many ends of them were. */
unsigned criu_lines_mend(const CriuLines *lines, void *bytes, size_t size);
/* The same in @dir, where CRIU has written an image; false, with errno, when it can't be. */
bool criu_lines_mend_in(const CriuLines *lines, const char *dir);

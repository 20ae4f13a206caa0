/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Terminals whose line that is being typed was made readable before CRIU read what waits in them
 * (lines.c): in the image they are put back to lines (ICANON, termios(3)), before it is sent. So
 * CRIU types it in again, half a line and all, into a terminal that waits for the rest of it, and
 * that echoes it on the new screen.
 *
 * One bit is changed where it is, in both ends' settings, which are the same to the kernel.
 */
#include <termios.h>

#include "criu-image.h"

/* images/tty.proto: tty_info_entry, termios_entry, tty_pty_entry. */
enum { TTY_TERMIOS = 9, TTY_PTY = 12 };
enum { TERMIOS_LFLAG = 4 };
enum { PTY_INDEX = 1 };

static bool find_number(CriuBytes message, unsigned number, CriuField *ret)
{
    while (criu_field_next(&message, ret))
        if (ret->number == number && ret->is_number)
            return true;
    return false;
}

static bool has(const CriuLines *lines, uint64_t index)
{
    for (unsigned i = 0; i < lines->n; i++)
        if (lines->index[i] == index)
            return true;
    return false;
}

/* @tty: an end of a pseudo-terminal. True: it was put back. */
static bool mend(const CriuLines *lines, CriuBytes tty)
{
    CriuField field, index, flags;
    bool named = false, set = false;
    while (criu_field_next(&tty, &field)) {
        if (field.number == TTY_PTY && !field.is_number)
            named = find_number(field.bytes, PTY_INDEX, &index);
        if (field.number == TTY_TERMIOS && !field.is_number)
            set = find_number(field.bytes, TERMIOS_LFLAG, &flags);
    }
    return named && set && has(lines, index.value) && (flags.value & ICANON) == 0 &&
           criu_field_set(&flags, flags.value | ICANON);
}

unsigned criu_lines_mend(const CriuLines *lines, void *bytes, size_t size)
{
    CriuBytes entries = criu_image_entries(bytes, size), tty;
    unsigned n = 0;
    while (criu_image_next(&entries, &tty))
        n += mend(lines, tty);
    return n;
}

bool criu_lines_mend_in(const CriuLines *lines, const char *dir)
{
    CriuFile file;
    if (lines->n == 0)
        return true;
    if (!criu_file_open(dir, "tty-info.img", &file))
        return false;
    criu_lines_mend(lines, file.bytes, file.size);
    criu_file_close(&file);
    return true;
}

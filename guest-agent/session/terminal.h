/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A terminal of the session's own, and the present one in front of it. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

/* Keys that are not passed on; -1: there is none. */
typedef struct {
    int save;     /* save it, and go on */
    int save_end; /* save it, and end it */
} TerminalKeys;

typedef enum {
    TERMINAL_ENDED, /* the session has, or its terminal */
    TERMINAL_SAVE,
    TERMINAL_SAVE_END,
} TerminalEvent;

/* Make a pseudo-terminal as large as the one at standard input, in the session's first process: the
 * descriptor of its slave, or -1 with errno. The master is open, too, until terminal_keep(). */
int terminal_make(void);
/* Once the command is there: leave the master to a child that keeps it, without ever reading it. It
 * ends when nobody has the slave open any more. False with errno: there is none. */
bool terminal_keep(void);
/* In the command: standard input, output and error are @slave, which controls its new session. */
bool terminal_enter(int slave);

/* Standard input and output are a terminal. */
bool terminal_is_present(void);
/* Put the terminal in front of that of the process @first, until something happens. Nothing of the
 * session's is open before and after. */
TerminalEvent terminal_attend(pid_t first, const TerminalKeys *keys);
/* "^E", "^]" …, one character, or "none": the key, or -2 when it is none of these. */
int terminal_parse_key(const char *text);

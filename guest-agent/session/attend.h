/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A session in front of whom somebody sits: until it ends, or is saved and ended. */
#pragma once

#include "session/terminal.h"

/* @first is the session's first process. True: it was saved, and has been ended; else it has ended
 * by itself. */
bool attend(pid_t first, const TerminalKeys *keys);
/* Have the host restore the image @id here: the first process of the session; -1, said. */
pid_t attend_resume(const char *id);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A session in front of whom somebody sits: until it ends, or is saved and ended. */
#pragma once

#include "session/terminal.h"

/* @first is the session's first process; @file, or NULL, gets each image's ID (image-file.h). True:
 * it was saved, and has been ended; else it has ended by itself. */
bool attend(pid_t first, const TerminalKeys *keys, const char *file);
/* Take a saved session up: @what is a directory of an exported image, a file with an ID, or the ID
 * of one that the host restores. The first process of the session; -1, said. */
pid_t attend_resume(const char *what);

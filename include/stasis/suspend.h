/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stasis/macros.h>

/* Ctrl-Z (SIGTSTP; also SIGTTIN and SIGTTOU) stops this process at once as before, but not while it
 * holds a VM: stopped, with writes to memory that wait for it, with output held, or with the
 * guest's file systems frozen or devices of it suspended. Then it is stopped as soon as it has let
 * go of all. For programs at a terminal; for good, and for actions that are the default ones. */
STASIS_API void stasis_defer_suspend(void);

/* The process was told to end: a Ctrl-Z that waits does not stop it on its way any more. May be
 * called by a signal's handler. */
STASIS_API void stasis_forget_suspend(void);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A VM is held by this process: stopped, or its writes to memory, or what it sends, or its guest's
 * writes to frozen file systems or suspended devices, wait for us.
 * Ctrl-Z would make it wait for as long as the user likes. Where the program asked for it
 * (stasis_defer_suspend() of <stasis/suspend.h>), that comes into force when nothing is held any
 * more.
 */
#pragma once

#include <glib.h>
#include <stasis/suspend.h>

G_BEGIN_DECLS

/* They nest, and any thread may call them. Between the two no SIGTSTP, SIGTTIN or SIGTTOU stops the
 * process. A few system calls; nothing is allocated. */
void stasis_hold_begin(void);
/* The last one stops the process, until SIGCONT, if SIGTSTP came meanwhile. */
void stasis_hold_end(void);

G_END_DECLS

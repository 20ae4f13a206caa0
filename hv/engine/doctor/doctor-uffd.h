/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whether this kernel lets us follow writes, tried on a few pages of our own. */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* A userfaultfd for our own address space, by the system call or by its device; *ret_way says
 * which. -1 with errno. */
int stasis_doctor_uffd(const char **ret_way);

/* NULL when asynchronous tracking works here, else the step that doesn't. */
const char *stasis_doctor_try_async(void);

/* Is there synchronous write protection of shared memory at least? */
gboolean stasis_doctor_has_sync(void);

G_END_DECLS

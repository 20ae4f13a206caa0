/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How many files this process may have open: stasis_raise_file_limit() of stasis/store.h, and the
 * way back. */
#pragma once

/* As it was before; for a child that becomes somebody else's program, which may not be able to deal
 * with high numbers (select(2)). Async-signal-safe. */
void stasis_restore_file_limit(void);

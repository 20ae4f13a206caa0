/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where the console of a VM goes, and what it said last. */
#pragma once

#include "vmm/registry.h"

G_BEGIN_DECLS

/* The file, or NULL: it goes to none. Free with g_free(). */
char *stasis_watch_find_console(const StasisRecord *record);
/* The end of it, empty where there is none. */
GBytes *stasis_watch_read_console(const StasisRecord *record, gsize max_bytes);

G_END_DECLS

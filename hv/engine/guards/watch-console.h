/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the console of a VM said last. */
#pragma once

#include "vmm/registry.h"

G_BEGIN_DECLS

/* The end of it, empty where it goes to no file. */
GBytes *stasis_watch_read_console(const StasisRecord *record, gsize max_bytes);

G_END_DECLS

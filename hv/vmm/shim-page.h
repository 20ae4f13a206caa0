/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the shim inside a QEMU says of itself without being asked: a page in a memfd among QEMU's
 * descriptors (hv/shim/shim-abi.h). Reading it needs what reading QEMU's memory needs.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

#include "shim/shim-abi.h"

G_BEGIN_DECLS

/* A consistent copy; FALSE when @pid has no shim, or one of another ABI. Untrusted: the numbers are
 * bounded, the addresses are whatever that process says. */
gboolean stasis_shim_page_read(pid_t pid, struct stasis_shim_page *ret);

/* The range that has [address, +bytes) as a whole; its number, or -1. */
int stasis_shim_page_find(const struct stasis_shim_page *page, guint64 address, guint64 bytes);

/* Are its numbers such as the shim writes them? For tests, too. */
gboolean stasis_shim_page_check(const struct stasis_shim_page *page);

G_END_DECLS

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Libraries that are looked up when they are first needed, and not with the program: most commands
 * need none of them, and each brings others along. A process that is linked with libvirt, libnbd
 * and libxml2 has 80 libraries to load, and one of stasis is started for each checkpoint and each
 * pager.
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

typedef struct {
    const char *name;
    gsize offset; /* of its pointer in the table */
} StasisLateSymbol;

typedef struct {
    const char *library; /* as the linker knows it: "libnbd.so.0" */
    const char *what;    /* for people: "libnbd" */
    const char *least;   /* the oldest that will do: "1.4" */
    const char *package; /* Debian's */
    const StasisLateSymbol *symbols;
    gsize n_symbols;
} StasisLateLibrary;

/*
 * Fill @table with the addresses of all symbols. The library stays loaded; its own symbols are
 * nobody else's. STASIS_ERROR_UNSUPPORTED when it is not there, or has not got one of them; the
 * table may be filled in part then. For one thread at a time.
 */
gboolean stasis_late_load(const StasisLateLibrary *library, gpointer table, GError **error);

G_END_DECLS

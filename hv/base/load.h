/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A shared library that is looked up when it is needed first, and not linked. Each library that a
 * program is linked with is mapped and relocated at each start of it, with all that it needs
 * itself, whether it is used or not.
 *
 * Its functions are called by a table of the user's own, whose members have the types that the
 * library's headers declare (__typeof__), so no prototype is written twice, and no name of the
 * library's is taken.
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

typedef struct {
    const char *name;
    gsize offset; /* of the member in the table */
} StasisSymbol;

typedef struct {
    const char *soname;  /* "libnbd.so.0" */
    const char *needed;  /* what has all of the symbols: "libnbd 1.14 or later" */
    const char *package; /* Debian's */
    const StasisSymbol *symbols;
    gsize n_symbols;
} StasisLibrary;

/* Fills @table in. It stays loaded. STASIS_ERROR_UNSUPPORTED when the library is not there, or too
 * old. No locking: the caller's table is filled by one thread. */
gboolean stasis_library_load(const StasisLibrary *library, gpointer table, GError **error);

G_END_DECLS

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Text tables: cells aligned in columns, two spaces between them, nothing behind the last. */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

typedef struct _CliTable CliTable;

/* @align holds 'l' or 'r' for each column. */
CliTable *cli_table_new(const char *align);
void cli_table_free(CliTable *table);

/* Add a row: a string for each column, copied and made printable; NULL is an empty cell. */
void cli_table_add(CliTable *table, ...);

/* Write it to stdout, each line after @indent spaces. */
void cli_table_print(const CliTable *table, guint indent);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(CliTable, cli_table_free)

G_END_DECLS

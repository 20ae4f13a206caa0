/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Width is counted in characters of the terminal (wide ones take two, combining ones none), since
 * names and notes may be in any language. */
#include "table.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "output.h"

struct _CliTable {
    char *align;
    GPtrArray *rows; /* of GStrv */
};

CliTable *cli_table_new(const char *align)
{
    CliTable *table = g_new0(CliTable, 1);
    table->align = g_strdup(align);
    table->rows = g_ptr_array_new_with_free_func((GDestroyNotify)g_strfreev);
    return table;
}

void cli_table_free(CliTable *table)
{
    g_free(table->align);
    g_ptr_array_unref(table->rows);
    g_free(table);
}

void cli_table_add(CliTable *table, ...)
{
    size_t n = strlen(table->align);
    char **row = g_new0(char *, n + 1);
    va_list ap;
    va_start(ap, table);
    for (size_t i = 0; i < n; i++)
        row[i] = cli_printable(va_arg(ap, const char *));
    va_end(ap);
    g_ptr_array_add(table->rows, row);
}

static guint cell_width(const char *text)
{
    guint width = 0;
    for (const char *p = text; *p != '\0'; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);
        width += g_unichar_iszerowidth(c) ? 0 : (g_unichar_iswide(c) ? 2 : 1);
    }
    return width;
}

static void print_row(const CliTable *table, char **row, const guint *widths, guint indent)
{
    guint gap = indent;
    for (size_t i = 0; table->align[i] != '\0'; i++) {
        guint pad = widths[i] - cell_width(row[i]);
        if (table->align[i] == 'r')
            gap += pad;
        /* Blanks go out only before text, so that no line ends with any. */
        if (row[i][0] != '\0') {
            printf("%*s%s", (int)gap, "", row[i]);
            gap = table->align[i] == 'r' ? 2 : pad + 2;
        } else {
            gap += (table->align[i] == 'r' ? 0 : pad) + 2;
        }
    }
    putchar('\n');
}

void cli_table_print(const CliTable *table, guint indent)
{
    size_t n = strlen(table->align);
    g_autofree guint *widths = g_new0(guint, n);
    for (guint r = 0; r < table->rows->len; r++) {
        char **row = table->rows->pdata[r];
        for (size_t i = 0; i < n; i++)
            widths[i] = MAX(widths[i], cell_width(row[i]));
    }
    for (guint r = 0; r < table->rows->len; r++)
        print_row(table, table->rows->pdata[r], widths, indent);
}

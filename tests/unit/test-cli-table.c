/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: columns of a table are aligned as a terminal shows them, in any script, numbers to the
 * right; no line ends in a blank, and no text from outside controls the terminal. */
#include "cli/table.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* What printing the table writes. */
static char *print(const CliTable *table, guint indent)
{
    int file = memfd_create("stdout", MFD_CLOEXEC), kept = dup(STDOUT_FILENO);
    fflush(stdout);
    g_assert_cmpint(dup2(file, STDOUT_FILENO), >=, 0);
    cli_table_print(table, indent);
    fflush(stdout);
    dup2(kept, STDOUT_FILENO);
    close(kept);
    off_t size = lseek(file, 0, SEEK_END);
    char *text = g_malloc0((gsize)size + 1);
    g_assert_cmpint(pread(file, text, (size_t)size, 0), ==, size);
    close(file);
    return text;
}

static void test_alignment(void)
{
    g_autoptr(CliTable) table = cli_table_new("lrl");
    cli_table_add(table, "NAME", "SIZE", "NOTE");
    cli_table_add(table, "a", "1 B", "x");
    cli_table_add(table, "longer-name", "1023.9 MiB", NULL);
    cli_table_add(table, "", "7", "y");
    g_autofree char *text = print(table, 0);
    g_assert_cmpstr(text, ==,
                    "NAME               SIZE  NOTE\n"
                    "a                   1 B  x\n"
                    "longer-name  1023.9 MiB\n"
                    "                      7  y\n");
    g_autofree char *indented = print(table, 2);
    g_assert_true(g_str_has_prefix(indented, "  NAME "));
}

static void test_display_width(void)
{
    g_autoptr(CliTable) table = cli_table_new("ll");
    cli_table_add(table, "虚拟机", "|");    /* six columns */
    cli_table_add(table, "größe", "|");     /* five */
    cli_table_add(table, "e\u0301te", "|"); /* three: the accent takes none */
    cli_table_add(table, "└─x", "|");       /* three */
    g_autofree char *text = print(table, 0);
    g_assert_cmpstr(text, ==, "虚拟机  |\ngröße   |\ne\u0301te     |\n└─x     |\n");
}

static void test_hostile_text(void)
{
    g_autoptr(CliTable) table = cli_table_new("ll");
    cli_table_add(table, "\x1b[2Ja\nb", "|");
    cli_table_add(table, "\xff\xfe", "|");
    g_autofree char *text = print(table, 0);
    g_assert_null(strchr(text, '\x1b'));
    g_assert_true(g_utf8_validate(text, -1, NULL));
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    g_assert_cmpuint(g_strv_length(lines), ==, 3);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cli/table/alignment", test_alignment);
    g_test_add_func("/cli/table/display-width", test_display_width);
    g_test_add_func("/cli/table/hostile-text", test_hostile_text);
    return g_test_run();
}

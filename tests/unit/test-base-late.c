/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a library that is looked up late is there with all that is asked of it, or an error says
 * what is missing and what to do; libnbd and libxml2 are there, and no program begins with them. */
#include <math.h>
#include <stasis/error.h>
#include <string.h>

#include "base/late.h"
#include "disk/nbd-load.h"
#include "vmm/xml-load.h"

typedef struct {
    double (*cosine)(double);
    double (*none)(double);
} Table;

static const StasisLateSymbol symbols[] = { { "cos", G_STRUCT_OFFSET(Table, cosine) },
                                            { "stasis_no_such", G_STRUCT_OFFSET(Table, none) } };

static void finds(void)
{
    StasisLateLibrary library = { "libm.so.6", "libm", "2.0", "libc6", symbols, 1 };
    g_autoptr(GError) error = NULL;
    Table table = { NULL, NULL };
    g_assert_true(stasis_late_load(&library, &table, &error));
    g_assert_no_error(error);
    g_assert_true(table.cosine(0) == 1);
    g_assert_null(table.none);
}

static void lacks(void)
{
    static const struct {
        const char *library, *says;
    } cases[] = {
        { "libm.so.6", "libm.so.6 has no stasis_no_such: libm 2.0 or later is needed" },
        { "libstasis-none.so.1", "install it (Debian: libc6)" },
    };
    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        StasisLateLibrary library = { cases[i].library, "libm", "2.0", "libc6", symbols, 2 };
        g_autoptr(GError) error = NULL;
        Table table = { NULL, NULL };
        g_assert_false(stasis_late_load(&library, &table, &error));
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED);
        g_assert_nonnull(strstr(error->message, cases[i].says));
    }
}

/* Of this program's mappings: the library is part of it now. */
static gboolean is_loaded(const char *library)
{
    g_autofree char *maps = NULL;
    g_assert_true(g_file_get_contents("/proc/self/maps", &maps, NULL, NULL));
    return strstr(maps, library) != NULL;
}

static void when_needed(void)
{
    static const struct {
        const char *library;
        gboolean (*load)(GError **error);
    } cases[] = { { "/libxml2.so", stasis_xml_load },
                  { "/libnbd.so", stasis_nbd_load } }; /* which brings the other along */
    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_false(is_loaded(cases[i].library));
        for (int twice = 0; twice < 2; twice++)
            g_assert_true(cases[i].load(&error));
        g_assert_no_error(error);
        g_assert_true(is_loaded(cases[i].library));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/late/finds", finds);
    g_test_add_func("/late/lacks", lacks);
    g_test_add_func("/late/when-needed", when_needed);
    return g_test_run();
}

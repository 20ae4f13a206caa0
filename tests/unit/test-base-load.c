/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a library that is looked up when it is needed does what one that is linked does; without
 * it, or with too old a one, an error says what to install, and the table is not for use. */
#include <string.h>

#include <stasis/error.h>

#include "base/load.h"
#include "disk/nbd-load.h"
#include "vmm/libxml-load.h"

typedef struct {
    __typeof__(strlen) *strlen;
    void *other;
} Table;

static const StasisSymbol there[] = { { "strlen", G_STRUCT_OFFSET(Table, strlen) } };
static const StasisSymbol too_new[] = { { "strlen", G_STRUCT_OFFSET(Table, strlen) },
                                        { "strlen_ng", G_STRUCT_OFFSET(Table, other) } };

static void found(void)
{
    g_autoptr(GError) error = NULL;
    Table table = { 0 };
    const StasisLibrary library = { "libc.so.6", "glibc 2", "libc6", there, G_N_ELEMENTS(there) };
    g_assert_true(stasis_library_load(&library, &table, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(table.strlen("four"), ==, 4);
}

static void refused(const StasisLibrary *library, const char *named, const char *advice)
{
    g_autoptr(GError) error = NULL;
    Table table = { 0 };
    g_assert_false(stasis_library_load(library, &table, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED);
    g_assert_nonnull(strstr(error->message, named));
    g_assert_nonnull(strstr(error->message, advice));
    g_assert_null(strchr(error->message, '\n'));
}

static void missing(void)
{
    const StasisLibrary library = { "libstasis-none.so.7", "none 7", "libnone7", there,
                                    G_N_ELEMENTS(there) };
    refused(&library, "libstasis-none.so.7", "libnone7");
}

static void too_old(void)
{
    const StasisLibrary library = { "libc.so.6", "glibc 99 or later", "libc6", too_new,
                                    G_N_ELEMENTS(too_new) };
    refused(&library, "strlen_ng", "glibc 99 or later");
}

/* Those that stasis is built with have all that it calls; twice is as good as once. */
static void ours(void)
{
    for (guint i = 0; i < 2; i++) {
        g_autoptr(GError) error = NULL;
        g_assert_true(stasis_libnbd_load(&error));
        g_assert_true(stasis_libxml_load(&error));
        g_assert_no_error(error);
    }
    struct nbd_handle *handle = stasis_libnbd->nbd_create();
    g_assert_nonnull(handle);
    stasis_libnbd->nbd_close(handle);
    xmlDoc *doc = stasis_libxml->xmlNewDoc((const xmlChar *)"1.0");
    g_assert_nonnull(doc);
    stasis_libxml->xmlFreeDoc(doc);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/base/load/found", found);
    g_test_add_func("/base/load/missing", missing);
    g_test_add_func("/base/load/too-old", too_old);
    g_test_add_func("/base/load/ours", ours);
    return g_test_run();
}

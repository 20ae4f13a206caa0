/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/ci-bundle.h"

#include <stasis/bundle.h>
#include <string.h>

gboolean stasis_ci_bundle_write(const char *path, const char *vm, const StasisCiTest *test,
                                StasisCiRing *ring, const char *console, GCancellable *cancellable,
                                GError **error)
{
    const GPtrArray *ids = stasis_ci_ring_get_ids(ring);
    g_autofree const char **list = g_new0(const char *, ids->len + 1);
    for (guint i = 0; i < ids->len; i++)
        list[i] = g_ptr_array_index(ids, i);
    char *text = stasis_ci_test_to_text(test);
    g_autoptr(GBytes) file = g_bytes_new_take(text, strlen(text));
    g_autoptr(GBytes) said = console != NULL ? g_bytes_new_static(console, strlen(console)) : NULL;
    StasisBundleFile extra = { STASIS_CI_TEST_FILE, file };
    StasisBundleOptions options = STASIS_BUNDLE_OPTIONS_INIT;
    options.kind = "test";
    options.detail = test->outcome.name;
    options.at_us = g_get_real_time();
    options.domain = vm;
    options.command = (const char *const *)test->argv;
    options.console = said;
    options.files = &extra;
    options.n_files = 1;
    return stasis_bundle_create(stasis_ci_ring_get_store(ring), list, path, &options, cancellable,
                                error);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/ci/ci-bundle.h"

#include <stasis/bundle.h>
#include <string.h>

gboolean stasis_ci_bundle_write(const char *path, const char *vm, const StasisCiTest *test,
                                StasisRing *ring, const char *console, GBytes *events,
                                GCancellable *cancellable, GError **error)
{
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
    options.events = events;
    options.files = &extra;
    options.n_files = 1;
    return stasis_ring_bundle(ring, path, &options, cancellable, error);
}

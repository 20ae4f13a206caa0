/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bundles are untrusted: opening, reading and importing one of any bytes ends with an error or a
 * store that is whole. */
#include <glib/gstdio.h>
#include <stasis/bundle.h>
#include <stdint.h>
#include <unistd.h>

#include "base/io.h"
#include "base/tree.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("fuzz-bundle-XXXXXX", &path, NULL);
    if (fd < 0)
        return 0;
    stasis_write_all(fd, data, size);
    close(fd);
    g_autoptr(StasisBundle) bundle = stasis_bundle_open(path, NULL);
    if (bundle != NULL) {
        stasis_bundle_verify(bundle, NULL, NULL, NULL, NULL);
        g_autoptr(GBytes) console = stasis_bundle_read(bundle, "console.log", NULL);
        g_autofree char *to = g_dir_make_tmp("fuzz-bundle-XXXXXX", NULL);
        g_autoptr(StasisStore) store = stasis_bundle_extract(bundle, to, NULL, NULL);
        g_clear_pointer(&store, stasis_store_unref);
        stasis_remove_tree(to);
    }
    g_unlink(path);
    return 0;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A RAM template and the QEMU that maps it. */
#pragma once

#include "store/cache.h"
#include "vmm/qmp.h"

G_BEGIN_DECLS

/* Take from QEMU @pid the means to change the files: what it opened for writing becomes read-only,
 * under the same number. (A balloon that gives memory back would else punch holes into the memory
 * of all clones.) The mappings stay as they are. Fails when QEMU has not opened these very files.
 */
gboolean stasis_template_protect(const StasisTemplate *templates, StasisQmp *qmp, pid_t pid,
                                 GError **error);

G_END_DECLS

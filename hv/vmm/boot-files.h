/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a machine is booted from beside its disks: files of the host, which its image names. */
#pragma once

#include "vmm/machine.h"

G_BEGIN_DECLS

/* QEMU's options for them, without dashes; NULL-terminated. Also how the files are called in a
 * directory of such. */
extern const char *const stasis_boot_files[];

/* The absolute path that @machine's option @name has, or NULL. Free with g_free(). */
char *stasis_boot_file_path(const StasisMachine *machine, const char *name);
/* Have @machine take those that lie in directory @dir, an absolute path. */
void stasis_boot_files_use(StasisMachine *machine, const char *dir);

G_END_DECLS

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/shim-preload.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"

#define SHIM_FILE "stasis-shim.so"

char *stasis_shim_find(void)
{
    Dl_info self;
    const char *override = g_getenv("STASIS_SHIM");
    if (override != NULL)
        return override[0] == '/' && access(override, R_OK) == 0 ? g_strdup(override) : NULL;
    if (dladdr((void *)stasis_shim_find, &self) != 0 && self.dli_fname != NULL) {
        g_autofree char *dir = g_path_get_dirname(self.dli_fname);
        const char *const places[] = { SHIM_FILE, "../" SHIM_FILE, "../../" SHIM_FILE,
                                       "../libexec/stasis/" SHIM_FILE };
        for (gsize i = 0; i < G_N_ELEMENTS(places); i++) {
            g_autofree char *path = g_build_filename(dir, places[i], NULL);
            if (access(path, R_OK) == 0)
                return g_canonicalize_filename(path, NULL);
        }
    }
    const char *installed = STASIS_LIBEXECDIR "/" SHIM_FILE;
    return access(installed, R_OK) == 0 ? g_strdup(installed) : NULL;
}

static gboolean is_elf(const char *program)
{
    char head[SELFMAG];
    stasis_autofd int fd = open(program, O_RDONLY | O_CLOEXEC);
    return fd >= 0 && stasis_pread_all(fd, head, sizeof(head), 0) == 0 &&
           memcmp(head, ELFMAG, SELFMAG) == 0;
}

char **stasis_shim_environment(const char *shim, const char *program)
{
    char **environment = g_get_environ();
    /* The dynamic linker splits the list at both. */
    if (shim == NULL || strpbrk(shim, ": ") != NULL || !is_elf(program))
        return environment;
    const char *others = g_environ_getenv(environment, "LD_PRELOAD");
    g_autofree char *list =
        others != NULL && *others != '\0' ? g_strdup_printf("%s:%s", shim, others) : g_strdup(shim);
    return g_environ_setenv(environment, "LD_PRELOAD", list, TRUE);
}

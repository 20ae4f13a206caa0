/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Can libguestfs's appliance be made? It is not started: that takes too long. */
#include <string.h>
#include <unistd.h>

#include "engine/doctor/doctor-internal.h"
#include "vmm/libexec.h"
#include "vmm/machine.h"

/* What supermin(1) makes the appliance of: a kernel that can be read and has its modules. */
static gboolean find_kernel(char **ret_usable, char **ret_unreadable)
{
    static const char prefix[] = "vmlinuz-";
    g_autoptr(GDir) dir = g_dir_open("/boot", 0, NULL);
    const char *name;
    *ret_usable = *ret_unreadable = NULL;
    while (dir != NULL && *ret_usable == NULL && (name = g_dir_read_name(dir)) != NULL) {
        if (!g_str_has_prefix(name, prefix))
            continue;
        g_autofree char *path = g_build_filename("/boot", name, NULL);
        g_autofree char *modules = g_build_filename("/lib/modules", name + strlen(prefix), NULL);
        if (access(modules, R_OK) != 0)
            continue;
        char **found = access(path, R_OK) == 0 ? ret_usable : ret_unreadable;
        g_free(*found);
        *found = g_steal_pointer(&path);
    }
    return *ret_usable != NULL;
}

void stasis_doctor_files(StasisCheck *check)
{
    g_autofree char *program = stasis_libexec_find("stasis-files", "STASIS_FILES");
    g_autofree char *kernel = NULL, *unreadable = NULL;
    g_autofree char *advice = NULL;
    if (program == NULL) {
        stasis_doctor_conclude(check, STASIS_CHECK_LIMITED,
                               g_strdup("stasis was built without libguestfs"),
                               "file-ls, file-cat, file-copy-out, mount and agent-install need it: "
                               "build stasis where libguestfs-dev is");
    } else if (find_kernel(&kernel, &unreadable)) {
        stasis_doctor_conclude(
            check, STASIS_CHECK_OK,
            g_strdup_printf("libguestfs's appliance can be made of %s%s", kernel,
                            stasis_kvm_probe(NULL) ? "" : " (it starts in 10 to 20 s without KVM)"),
            NULL);
    } else if (unreadable != NULL) {
        advice = g_strdup_printf("the appliance is made of the host's kernel, which must be "
                                 "readable: chmod 0644 %s, or run as root",
                                 unreadable);
        stasis_doctor_conclude(check, STASIS_CHECK_LIMITED,
                               g_strdup_printf("%s can't be read", unreadable), advice);
    } else {
        stasis_doctor_conclude(check, STASIS_CHECK_LIMITED,
                               g_strdup("no kernel with its modules in /boot for libguestfs's "
                                        "appliance"),
                               "Debian: apt-get install linux-image-cloud-amd64");
    }
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What there is of libvirt. All of it is "limited" where it is missing: VMs without libvirt need
 * none of it. The security driver is looked up in files: libvirtd itself tells it only after it has
 * started every QEMU once to see what it can do.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "engine/doctor/doctor-internal.h"
#include "vmm/domain.h"
#include "vmm/libvirt-load.h"
#include "vmm/shim-preload.h"

#define DEFAULT_URI "qemu:///system"
#define QEMU_CONF "/etc/libvirt/qemu.conf"
#define APPARMOR_ENABLED "/sys/module/apparmor/parameters/enabled"
#define APPARMOR_TEMPLATE "/etc/apparmor.d/libvirt/TEMPLATE.qemu"
#define APPARMOR_LOCAL "/etc/apparmor.d/local/abstractions/libvirt-qemu"
#define SELINUX_ENFORCE "/sys/fs/selinux/enforce"

/* Where names are looked up unless a command is told otherwise. */
static const char *default_uri(void)
{
    static const char *const variables[] = { "STASIS_CONNECT", "LIBVIRT_DEFAULT_URI" };
    for (guint i = 0; i < G_N_ELEMENTS(variables); i++) {
        const char *uri = g_getenv(variables[i]);
        if (uri != NULL && *uri != '\0')
            return uri;
    }
    return DEFAULT_URI;
}

void stasis_doctor_libvirt(StasisCheck *check)
{
    g_autoptr(GError) error = NULL;
    if (!stasis_virt_load(&error)) {
        stasis_doctor_conclude(check, STASIS_CHECK_LIMITED, g_strdup(error->message),
                               "libvirt domains can't be used, all other VMs can; Debian: apt-get "
                               "install libvirt0");
        return;
    }
    const char *uri = default_uri();
    g_autoptr(GPtrArray) domains = stasis_domain_list(uri, &error);
    if (domains != NULL)
        stasis_doctor_conclude(check, STASIS_CHECK_OK,
                               g_strdup_printf("%s answers: %u domain%s", uri, domains->len,
                                               domains->len == 1 ? "" : "s"),
                               NULL);
    else
        stasis_doctor_conclude(
            check, STASIS_CHECK_LIMITED,
            g_strdup_printf("the library is there, but %s", error->message),
            "for libvirt domains: systemctl start libvirtd (Debian: apt-get install "
            "libvirt-daemon-system), or name another with STASIS_CONNECT");
}

/* Is the file's first byte @c? */
static gboolean begins_with(const char *path, char c)
{
    g_autofree char *text = NULL;
    return g_file_get_contents(path, &text, NULL, NULL) && text[0] == c;
}

/* Switched off in libvirt's own configuration. */
static gboolean is_switched_off(const char *conf)
{
    return g_regex_match_simple("^\\s*security_driver\\s*=\\s*\\[?\\s*\"none\"", conf,
                                G_REGEX_MULTILINE, 0);
}

/* Does the administrator's part of the profile let the shim in? */
static gboolean is_shim_allowed(const char *shim)
{
    g_autofree char *local = NULL;
    return shim == NULL ||
           (g_file_get_contents(APPARMOR_LOCAL, &local, NULL, NULL) && strstr(local, shim) != NULL);
}

static void conclude_apparmor(StasisCheck *check)
{
    g_autofree char *shim = stasis_shim_find();
    g_autofree char *advice =
        g_strdup_printf("a prepared domain starts without the shim, and a restored one can't open "
                        "disks that the profile does not allow: put \"%s mr,\" and the directory "
                        "of --disk-dir into " APPARMOR_LOCAL,
                        shim);
    if (is_shim_allowed(shim))
        stasis_doctor_conclude(check, STASIS_CHECK_OK,
                               g_strdup(shim != NULL
                                            ? "AppArmor confines QEMU, and its profile allows the "
                                              "shim"
                                            : "AppArmor confines QEMU"),
                               NULL);
    else
        stasis_doctor_conclude(check, STASIS_CHECK_LIMITED,
                               g_strdup("AppArmor confines QEMU, and does not allow the shim"),
                               advice);
}

void stasis_doctor_libvirt_security(StasisCheck *check)
{
    g_autofree char *conf = NULL;
    g_autoptr(GError) error = NULL;
    gboolean readable = g_file_get_contents(QEMU_CONF, &conf, NULL, &error);
    if (!readable && !g_error_matches(error, G_FILE_ERROR, G_FILE_ERROR_NOENT))
        stasis_doctor_conclude(check, STASIS_CHECK_LIMITED, g_strdup(error->message),
                               "run as root to see whether libvirt confines its QEMUs");
    else if (readable && is_switched_off(conf))
        stasis_doctor_conclude(check, STASIS_CHECK_OK,
                               g_strdup("libvirt confines no QEMU (security_driver is none)"),
                               NULL);
    else if (begins_with(SELINUX_ENFORCE, '1'))
        stasis_doctor_conclude(check, STASIS_CHECK_LIMITED, g_strdup("SELinux confines QEMU"),
                               "not tested with it; the shim's file needs the label of a library "
                               "(lib_t), and disks of restored domains one that QEMU may write");
    else if (begins_with(APPARMOR_ENABLED, 'Y') && access(APPARMOR_TEMPLATE, F_OK) == 0)
        conclude_apparmor(check);
    else
        stasis_doctor_conclude(check, STASIS_CHECK_OK,
                               g_strdup("nothing confines libvirt's QEMUs but their user and "
                                        "seccomp"),
                               NULL);
}

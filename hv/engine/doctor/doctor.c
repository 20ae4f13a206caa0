/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What works on this host. Each check asks the thing itself wherever that can be done without
 * leaving a trace (a userfaultfd on a page of our own, a loop through KVM) and goes by a version
 * number only where it can't. The checks are one table; a check fills in what it found and, unless
 * all is well, what to do about it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/kvm.h>
#include <stasis/doctor.h>
#include <stasis/store.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>

#include "base/fd.h"
#include "engine/doctor/doctor-internal.h"
#include "engine/doctor/doctor-uffd.h"
#include "track/tracker.h"
#include "vmm/machine.h"
#include "vmm/shim-preload.h"

#define GIB ((guint64)1 << 30)

typedef struct {
    const char *store_path; /* as stasis_store_open() will see it */
} Host;

typedef struct {
    const char *name;
    void (*probe)(const Host *host, StasisCheck *check);
} Probe;

void stasis_check_free(StasisCheck *check)
{
    if (check == NULL)
        return;
    g_free(check->name);
    g_free(check->found);
    g_free(check->advice);
    g_free(check);
}

void stasis_doctor_conclude(StasisCheck *check, StasisCheckStatus status, char *found,
                            const char *advice)
{
    check->status = status;
    check->found = found;
    check->advice = g_strdup(advice);
}

static void probe_kernel(const Host *host, StasisCheck *check)
{
    struct utsname name;
    int major = 0, minor = 0;
    if (uname(&name) < 0 || sscanf(name.release, "%d.%d", &major, &minor) != 2) {
        stasis_doctor_conclude(check, STASIS_CHECK_LIMITED, g_strdup("a kernel of unknown version"),
                               "Linux 6.7 or newer is what stasis is made for");
        return;
    }
    char *found = g_strdup_printf("Linux %s, %s", name.release, name.machine);
    int version = major * 1000 + minor;
    if (strcmp(name.machine, "x86_64") != 0)
        stasis_doctor_conclude(check, STASIS_CHECK_MISSING, found,
                               "only x86_64 hosts are supported");
    else if (version >= 6007)
        stasis_doctor_conclude(check, STASIS_CHECK_OK, found, NULL);
    else if (version >= 5019)
        stasis_doctor_conclude(
            check, STASIS_CHECK_LIMITED, found,
            "checkpoints work but are never incremental, and slow a writing guest down; "
            "6.7 or newer has asynchronous write protection");
    else
        stasis_doctor_conclude(check, STASIS_CHECK_MISSING, found,
                               "write protection of shared memory needs Linux 5.19, better 6.7");
}

/* ---- following writes ---- */

static void probe_userfaultfd(const Host *host, StasisCheck *check)
{
    const char *way;
    stasis_autofd int fd = stasis_doctor_uffd(&way);
    if (fd < 0 && errno == ENOSYS) {
        stasis_doctor_conclude(
            check, STASIS_CHECK_MISSING, g_strdup("not in this kernel"),
            "a kernel with CONFIG_USERFAULTFD is needed to find what a guest writes");
        return;
    }
    if (fd < 0) {
        stasis_doctor_conclude(check, STASIS_CHECK_MISSING,
                               g_strdup_printf("not permitted (%s)", g_strerror(errno)),
                               "run as root, or get access to /dev/userfaultfd, or set the sysctl "
                               "vm.unprivileged_userfaultfd to 1");
        return;
    }
    const char *failed = stasis_doctor_try_async();
    if (failed == NULL)
        stasis_doctor_conclude(
            check, STASIS_CHECK_OK,
            g_strdup_printf("asynchronous write protection and PAGEMAP_SCAN work (by %s)", way),
            NULL);
    else if (stasis_doctor_has_sync())
        stasis_doctor_conclude(
            check, STASIS_CHECK_LIMITED,
            g_strdup_printf("synchronous write protection only (%s fails)", failed),
            "tracker uffd-sync is used: no incremental images; Linux 6.7 or newer has the "
            "rest");
    else
        stasis_doctor_conclude(
            check, STASIS_CHECK_MISSING,
            g_strdup_printf("no write protection of shared memory (%s fails)", failed),
            "Linux 5.19 or newer is needed, better 6.7");
}

static void probe_userfaultfd_device(const Host *host, StasisCheck *check)
{
    stasis_autofd int fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (fd >= 0)
        stasis_doctor_conclude(check, STASIS_CHECK_OK, g_strdup("/dev/userfaultfd opens"), NULL);
    else
        stasis_doctor_conclude(
            check, STASIS_CHECK_LIMITED, g_strdup_printf("/dev/userfaultfd: %s", g_strerror(errno)),
            "a QEMU that runs unprivileged and sandboxed can't be attached without it; run as "
            "root, on Linux 6.1 or newer");
}

static gboolean read_number(const char *path, const char *field, guint base, guint64 *ret)
{
    g_autofree char *text = NULL;
    if (!g_file_get_contents(path, &text, NULL, NULL))
        return FALSE;
    const char *at = field != NULL ? strstr(text, field) : text;
    if (at == NULL)
        return FALSE;
    *ret = g_ascii_strtoull(at + (field != NULL ? strlen(field) : 0), NULL, base);
    return TRUE;
}

static void probe_kvm_log(const Host *host, StasisCheck *check)
{
    g_autofree char *shim = stasis_shim_find();
    const char *slow = stasis_kvm_log_why_slow();
    stasis_autofd int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (shim == NULL)
        stasis_doctor_conclude(
            check, STASIS_CHECK_LIMITED, g_strdup("stasis-shim.so is not where the library is"),
            "install stasis as a whole; until then guests are tracked by userfaultfd, which "
            "costs them more and takes longer with more RAM");
    else if (kvm < 0)
        stasis_doctor_conclude(check, STASIS_CHECK_LIMITED, g_strdup_printf("%s, but no KVM", shim),
                               "VMs under TCG are tracked by userfaultfd");
    else if (slow != NULL)
        stasis_doctor_conclude(
            check, STASIS_CHECK_LIMITED, g_strdup_printf("%s; %s", shim, slow),
            "it works, but scanning takes longer with more RAM: swapoff, and \"never\" in "
            "/sys/kernel/mm/transparent_hugepage/shmem_enabled, make it independent of RAM");
    else
        stasis_doctor_conclude(
            check, STASIS_CHECK_OK,
            g_strdup_printf("%s, for VMs that stasis starts under KVM%s", shim,
                            ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING) > 0
                                ? "; kvm-log (bitmap, or dirty ring by dirty-ring-size)"
                                : ""),
            NULL);
}

static void probe_privileges(const Host *host, StasisCheck *check)
{
    guint64 caps = 0, scope = 0;
    read_number("/proc/self/status", "CapEff:", 16, &caps);
    if (caps & ((guint64)1 << CAP_SYS_PTRACE)) {
        stasis_doctor_conclude(
            check, STASIS_CHECK_OK,
            g_strdup_printf("CAP_SYS_PTRACE, %s", geteuid() == 0 ? "root" : "not root"), NULL);
        return;
    }
    /* Without Yama anyone may trace processes of their own. */
    read_number("/proc/sys/kernel/yama/ptrace_scope", NULL, 10, &scope);
    if (scope == 0)
        stasis_doctor_conclude(check, STASIS_CHECK_LIMITED, g_strdup("no CAP_SYS_PTRACE"),
                               "only VMs of this user can be checkpointed; run as root for others");
    else
        stasis_doctor_conclude(
            check, STASIS_CHECK_MISSING,
            g_strdup_printf("no CAP_SYS_PTRACE, and kernel.yama.ptrace_scope is %u", (guint)scope),
            "run as root or with CAP_SYS_PTRACE");
}

static void probe_kvm(const Host *host, StasisCheck *check)
{
    stasis_autofd int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        stasis_doctor_conclude(
            check, STASIS_CHECK_LIMITED, g_strdup_printf("/dev/kvm: %s", g_strerror(errno)),
            errno == ENOENT ? "VMs run under TCG, slower; load kvm_intel or kvm_amd, or "
                              "switch virtualization on in the firmware"
                            : "VMs run under TCG, slower; join the group of /dev/kvm");
        return;
    }
    g_autofree char *reason = NULL;
    if (stasis_kvm_probe(&reason))
        stasis_doctor_conclude(check, STASIS_CHECK_OK,
                               g_strdup("/dev/kvm runs guests at full speed"), NULL);
    else
        stasis_doctor_conclude(
            check, STASIS_CHECK_LIMITED,
            g_strdup(reason != NULL ? reason : "/dev/kvm does not run an ordinary guest"),
            "Linux guests run under TCG, slower; `stasis run --accel kvm` insists on KVM");
}

static void probe_qemu(const Host *host, StasisCheck *check)
{
    g_autofree char *path = g_find_program_in_path("qemu-system-x86_64");
    if (path == NULL) {
        stasis_doctor_conclude(check, STASIS_CHECK_MISSING,
                               g_strdup("no qemu-system-x86_64 in PATH"),
                               "install it: apt-get install qemu-system-x86");
        return;
    }
    char *argv[] = { path, (char *)"--version", NULL };
    g_autofree char *out = NULL;
    guint major = 0, minor = 0, micro = 0;
    static const char intro[] = "QEMU emulator version ";
    gboolean ran = g_spawn_sync(NULL, argv, NULL, G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL, &out,
                                NULL, NULL, NULL);
    if (!ran || out == NULL || !g_str_has_prefix(out, intro) ||
        sscanf(out + strlen(intro), "%u.%u.%u", &major, &minor, &micro) != 3) {
        stasis_doctor_conclude(check, STASIS_CHECK_MISSING,
                               g_strdup_printf("%s tells no version", path),
                               "see whether it starts at all: qemu-system-x86_64 --version");
        return;
    }
    char *found = g_strdup_printf("%s, version %u.%u.%u", path, major, minor, micro);
    if (major == 7 && minor == 2)
        stasis_doctor_conclude(check, STASIS_CHECK_OK, found, NULL);
    else
        stasis_doctor_conclude(
            check, STASIS_CHECK_LIMITED, found,
            "stasis is tested with QEMU 7.2; checkpoint and restore a VM that you can spare "
            "first");
}

static void probe_memory(const Host *host, StasisCheck *check)
{
    guint64 total = 0, available = 0;
    if (!read_number("/proc/meminfo", "MemTotal:", 10, &total) ||
        !read_number("/proc/meminfo", "MemAvailable:", 10, &available)) {
        stasis_doctor_conclude(check, STASIS_CHECK_LIMITED, g_strdup("/proc/meminfo can't be read"),
                               "mount /proc");
        return;
    }
    char *found = g_strdup_printf("%.1f GiB available of %.1f GiB", (double)available / (1 << 20),
                                  (double)total / (1 << 20));
    if (available >= 512 * 1024)
        stasis_doctor_conclude(check, STASIS_CHECK_OK, found, NULL);
    else
        stasis_doctor_conclude(
            check, STASIS_CHECK_LIMITED, found,
            "checkpoints in mode cow need buffers, restores all of the VM's RAM");
}

static void probe_hugepages(const Host *host, StasisCheck *check)
{
    guint64 total = 0, available = 0, size_kib = 0;
    read_number("/proc/meminfo", "HugePages_Total:", 10, &total);
    read_number("/proc/meminfo", "HugePages_Free:", 10, &available);
    read_number("/proc/meminfo", "Hugepagesize:", 10, &size_kib);
    /* Only a VM that asks for them needs any, so none is no fault. */
    if (total == 0)
        stasis_doctor_conclude(check, STASIS_CHECK_OK,
                               g_strdup("none reserved (VMs rarely need any)"), NULL);
    else
        stasis_doctor_conclude(check, STASIS_CHECK_OK,
                               g_strdup_printf("%u of %u free, %u KiB each", (guint)available,
                                               (guint)total, (guint)size_kib),
                               NULL);
}

/* ---- directories ---- */

/* The nearest directory above @path, or @path itself, that is there. */
static char *nearest_existing(const char *path)
{
    char *at = g_canonicalize_filename(path, NULL);
    while (!g_file_test(at, G_FILE_TEST_EXISTS) && strcmp(at, "/") != 0) {
        char *parent = g_path_get_dirname(at);
        g_free(at);
        at = parent;
    }
    return at;
}

/* Can files be made in @path, or in the directory that it would be made in? An advice if not;
 * *ret_existing is that directory. */
static char *check_directory(const char *path, char **ret_existing)
{
    g_autofree char *existing = nearest_existing(path);
    char *advice = NULL;
    if (!g_file_test(existing, G_FILE_TEST_IS_DIR))
        advice = g_strdup_printf("%s is no directory; name another place", existing);
    else if (faccessat(AT_FDCWD, existing, W_OK | X_OK, AT_EACCESS) < 0)
        advice = g_strdup_printf("%s: %s; name another place or get the right to write there",
                                 existing, g_strerror(errno));
    *ret_existing = g_steal_pointer(&existing);
    return advice;
}

static gboolean is_empty_directory(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    return dir != NULL && g_dir_read_name(dir) == NULL;
}

static void probe_store(const Host *host, StasisCheck *check)
{
    g_autofree char *existing = NULL;
    g_autofree char *advice = check_directory(host->store_path, &existing);
    g_autofree char *absolute = g_canonicalize_filename(host->store_path, NULL);
    gboolean is_there = strcmp(existing, absolute) == 0 && !is_empty_directory(existing);
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisStore) store =
        is_there ? stasis_store_open(host->store_path, STASIS_STORE_EXISTING, &error) : NULL;
    struct statvfs fs = { 0 };
    statvfs(existing, &fs);
    guint64 space = (guint64)fs.f_bavail * fs.f_frsize;
    char *found = g_strdup_printf("%s: %s, %.1f GiB free", absolute,
                                  store != NULL ? "a store"
                                  : is_there    ? "no store yet"
                                                : "not there yet",
                                  (double)space / (double)GIB);
    if (advice != NULL && store != NULL)
        stasis_doctor_conclude(check, STASIS_CHECK_LIMITED, found,
                               "it can be read only: restore works, checkpoint-create does not");
    else if (advice != NULL)
        stasis_doctor_conclude(check, STASIS_CHECK_MISSING, found, advice);
    else if (is_there && store == NULL)
        stasis_doctor_conclude(check, STASIS_CHECK_LIMITED, found, error->message);
    else if (space < GIB)
        stasis_doctor_conclude(
            check, STASIS_CHECK_LIMITED, found,
            "an image can need as much as the VM's RAM; free some space, or use --store");
    else
        stasis_doctor_conclude(check, STASIS_CHECK_OK, found, NULL);
}

static void probe_runtime_dir(const Host *host, StasisCheck *check)
{
    const char *named = g_getenv("STASIS_RUNTIME_DIR"), *xdg = g_getenv("XDG_RUNTIME_DIR");
    g_autofree char *path = NULL;
    if (named != NULL && *named != '\0')
        path = g_strdup(named);
    else if (geteuid() == 0)
        path = g_strdup("/run/stasis");
    else if (xdg != NULL && *xdg != '\0')
        path = g_build_filename(xdg, "stasis", NULL);
    if (path == NULL) {
        stasis_doctor_conclude(check, STASIS_CHECK_MISSING, g_strdup("no XDG_RUNTIME_DIR"),
                               "set STASIS_RUNTIME_DIR to a directory of your own");
        return;
    }
    g_autofree char *existing = NULL;
    g_autofree char *advice = check_directory(path, &existing);
    stasis_doctor_conclude(check, advice != NULL ? STASIS_CHECK_MISSING : STASIS_CHECK_OK,
                           g_strdup(path), advice);
}

static void probe_libvirt(const Host *host, StasisCheck *check)
{
    stasis_doctor_libvirt(check);
}

static void probe_libvirt_security(const Host *host, StasisCheck *check)
{
    stasis_doctor_libvirt_security(check);
}

static void probe_files(const Host *host, StasisCheck *check)
{
    stasis_doctor_files(check);
}

static const Probe probes[] = {
    { "kernel", probe_kernel },
    { "userfaultfd", probe_userfaultfd },
    { "uffd-device", probe_userfaultfd_device },
    { "kvm-log", probe_kvm_log },
    { "privileges", probe_privileges },
    { "kvm", probe_kvm },
    { "qemu", probe_qemu },
    { "memory", probe_memory },
    { "hugepages", probe_hugepages },
    { "store", probe_store },
    { "runtime-dir", probe_runtime_dir },
    { "libvirt", probe_libvirt },
    { "libvirt-security", probe_libvirt_security },
    { "libguestfs", probe_files },
};

GPtrArray *stasis_doctor(const char *store_path)
{
    const char *from_env = g_getenv("STASIS_STORE");
    Host host = { .store_path = store_path };
    if (store_path == NULL || *store_path == '\0')
        host.store_path = from_env != NULL && *from_env != '\0' ? from_env : "/var/lib/stasis";
    GPtrArray *checks = g_ptr_array_new_with_free_func((GDestroyNotify)stasis_check_free);
    for (guint i = 0; i < G_N_ELEMENTS(probes); i++) {
        StasisCheck *check = g_new0(StasisCheck, 1);
        check->name = g_strdup(probes[i].name);
        probes[i].probe(&host, check);
        g_ptr_array_add(checks, check);
    }
    return checks;
}

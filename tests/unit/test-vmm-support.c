/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a machine whose memory can't be followed is refused before anything is touched, and the
 * message names the device; an ordinary machine is not. */
#include "test-vmm-ram.h"

#include <fcntl.h>
#include <sched.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "vmm/pci.h"

static void assert_refused(TestQemu *qemu, pid_t pid, const char *name, const char *why)
{
    g_autoptr(GError) error = NULL;
    g_assert_false(stasis_vm_check_supported(qemu != NULL ? qemu->qmp : NULL, pid, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED);
    g_assert_nonnull(strstr(error->message, name));
    g_assert_nonnull(strstr(error->message, why));
    g_assert_null(strchr(error->message, '\n'));
}

static void test_ordinary(gconstpointer options)
{
    g_autoptr(TestQemu) qemu = test_qemu_start(options);
    g_autoptr(GError) error = NULL;
    g_assert_true(stasis_vm_check_supported(qemu->qmp, qemu->pid, &error));
    g_assert_no_error(error);
    g_assert_true(stasis_vm_check_supported(qemu->qmp, 0, &error));
    g_assert_no_error(error);
}

/* QEMU 7.2 can't save an NVMe controller, and says so itself. */
static void test_unmigratable(void)
{
    g_autoptr(TestQemu) qemu =
        test_qemu_start("-S -machine q35 -m 64 -drive if=none,id=d,file=null-co://,format=raw "
                        "-device nvme,serial=1,drive=d");
    assert_refused(qemu, 0, "nvme", "can't save");
}

#define SHARED \
    "-machine q35,memory-backend=m -m 64 -object memory-backend-memfd,id=m,size=64M,share=on "

/* The least of a vhost-user back end: QEMU waits for its features before it starts. */
static gpointer serve_vhost_user(gpointer data)
{
    struct {
        guint32 request, flags, size;
        guint64 payload;
    } __attribute__((packed)) message;
    int listener = GPOINTER_TO_INT(data), fd = accept(listener, NULL, NULL);
    while (read(fd, &message, 12) == 12) {
        for (guint32 i = 0; i < message.size; i++) {
            char byte;
            g_assert_cmpint(read(fd, &byte, 1), ==, 1);
        }
        if (message.request != 1) /* VHOST_USER_GET_FEATURES */
            continue;
        message.flags = 1 | 1 << 2;
        message.size = 8;
        message.payload = (guint64)1 << 32;
        g_assert_cmpint(write(fd, &message, sizeof message), ==, sizeof message);
    }
    close(fd);
    return NULL;
}

static void test_vhost_user_net(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = g_dir_make_tmp("stasis-vmm-ram-XXXXXX", &error);
    g_assert_no_error(error);
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    g_snprintf(address.sun_path, sizeof address.sun_path, "%s/switch", dir);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(listener, (struct sockaddr *)&address, sizeof address), ==, 0);
    g_assert_cmpint(listen(listener, 1), ==, 0);
    GThread *server = g_thread_new("vhost-user", serve_vhost_user, GINT_TO_POINTER(listener));
    g_autofree char *options =
        g_strdup_printf("-S " SHARED "-chardev socket,id=c,path=%s "
                        "-netdev vhost-user,id=switch0,chardev=c -device virtio-net,netdev=switch0",
                        address.sun_path);
    TestQemu *qemu = test_qemu_start(options);
    assert_refused(qemu, 0, "switch0 (vhost-user)", "another process");
    test_qemu_free(qemu);
    g_thread_join(server);
    close(listener);
    g_unlink(address.sun_path);
    g_rmdir(dir);
}

/* The same device, when it is suspended: by the way to it, as the guest and QEMU's sections have
 * it. */
static void test_named(TestQemu *qemu)
{
    const char *const names[] = { "disk7", NULL }, *const unknown[] = { "disk8", NULL },
                      *const no_pci[] = { "/machine", NULL };
    g_autoptr(GError) error = NULL;
    gboolean untracked = FALSE;
    g_autoptr(GPtrArray) devices = stasis_pci_find(qemu->qmp, names, &error);
    g_assert_no_error(error);
    const StasisPciDevice *device = devices->pdata[0];
    g_assert_cmpuint(devices->len, ==, 1);
    g_assert_cmpstr(device->way, ==, "1e.0/03.0");
    g_assert_cmpstr(device->section_prefix, ==, "0000:00:1e.0:03.0/");
    g_assert_true(stasis_vm_check_suspended(qemu->qmp, 0, devices, &untracked, &error));
    g_assert_no_error(error);
    g_assert_true(untracked);
    g_assert_null(stasis_pci_find(qemu->qmp, unknown, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND);
    g_clear_error(&error);
    g_assert_null(stasis_pci_find(qemu->qmp, no_pci, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED);
}

/* A real vhost-user disk, served by qemu-storage-daemon. */
static void test_vhost_user_blk(void)
{
    g_autofree char *daemon = g_find_program_in_path("qemu-storage-daemon");
    if (daemon == NULL) {
        g_test_skip("NO qemu-storage-daemon (package qemu-utils)");
        return;
    }
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = g_dir_make_tmp("stasis-vmm-ram-XXXXXX", &error);
    g_autofree char *socket = g_build_filename(dir, "disk", NULL);
    g_autofree char *export =
        g_strdup_printf("type=vhost-user-blk,id=e,node-name=d,addr.type=unix,addr.path=%s", socket);
    char *argv[] = {
        daemon,     "--blockdev", "driver=null-co,node-name=d,size=1048576,read-zeroes=on",
        "--export", export,       NULL
    };
    pid_t pid;
    g_spawn_async(NULL, argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD, test_die_with_parent, NULL, &pid,
                  &error);
    g_assert_no_error(error);
    for (int i = 0; i < 1000 && !g_file_test(socket, G_FILE_TEST_EXISTS); i++)
        g_usleep(10000);
    g_autofree char *options = g_strdup_printf("-S " SHARED "-chardev socket,id=c,path=%s "
                                               "-device pci-bridge,id=b,chassis_nr=1,addr=1e.0 "
                                               "-device vhost-user-blk-pci,id=disk7,chardev=c,"
                                               "bus=b,addr=3.0",
                                               socket);
    TestQemu *qemu = test_qemu_start(options);
    assert_refused(qemu, 0, "/machine/peripheral/disk7 (vhost-user-blk-pci)", "another process");
    test_named(qemu);
    test_qemu_free(qemu);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    g_unlink(socket);
    g_rmdir(dir);
}

/* A descriptor below /dev/vfio refuses the process, whatever QMP says. */
static void test_vfio_descriptor(void)
{
    gboolean was_there = g_file_test("/dev/vfio", G_FILE_TEST_IS_DIR);
    if (geteuid() != 0 || (!was_there && g_mkdir("/dev/vfio", 0700) < 0)) {
        g_test_skip("NOT ROOT: can't make a file in /dev/vfio");
        return;
    }
    g_autofree char *path = g_strdup_printf("/dev/vfio/stasis-test-%d", (int)getpid());
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    g_unlink(path);
    if (!was_there)
        g_rmdir("/dev/vfio");
    g_assert_cmpint(fd, >=, 0);
    assert_refused(NULL, getpid(), path, "hardware");
    close(fd);
    g_autoptr(GError) error = NULL;
    g_assert_true(stasis_vm_check_supported(NULL, getpid(), &error));
}

/* What QEMU may have open, by what the link says. */
static const struct {
    const char *link, *why; /* why: NULL: it is fine */
} descriptors[] = {
    { "/dev/vfio/12", "hardware" },
    { "/dev/vfio/vfio", "hardware" },
    { "/dev/iommu", "hardware" },
    { "/dev/vhost-vdpa-0", "hardware" },
    { "anon_inode:[vfio-device]", "hardware" },
    { "/dev/sev", "encrypted" },
    { "/dev/sgx_vepc", "encrypted" },
    { "anon_inode:[tdx-vm]", "encrypted" },
    { "/dev/kvm", NULL },
    { "anon_inode:kvm-vm", NULL },
    { "/dev/vhost-net", NULL },
    { "/srv/dev/sev", NULL },
};

/* Each of them in a /proc of our own, since hardware for most of them is nowhere here. */
static void test_descriptors(void)
{
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", "/proc", "tmpfs", 0, NULL) < 0) {
        g_test_skip("NOT ROOT: can't make mounts of our own");
        return;
    }
    g_autofree char *dir = g_strdup_printf("/proc/%d/fd", (int)getpid());
    g_autofree char *path = g_build_filename(dir, "7", NULL);
    g_assert_cmpint(g_mkdir_with_parents(dir, 0700), ==, 0);
    for (guint i = 0; i < G_N_ELEMENTS(descriptors); i++) {
        g_autoptr(GError) error = NULL;
        g_test_message("%s", descriptors[i].link);
        g_assert_cmpint(symlink(descriptors[i].link, path), ==, 0);
        if (descriptors[i].why != NULL)
            assert_refused(NULL, getpid(), descriptors[i].link, descriptors[i].why);
        else
            g_assert_true(stasis_vm_check_supported(NULL, getpid(), &error));
        g_assert_no_error(error);
        g_assert_cmpint(g_unlink(path), ==, 0);
    }
    g_assert_cmpint(umount2("/proc", MNT_DETACH), ==, 0);
}

/* A machine with an object that encrypts its memory; it gets that when it is there already, since
 * without such hardware QEMU would not start with it. */
static void test_encryption(void)
{
    g_autoptr(TestQemu) qemu =
        test_qemu_start("-S -machine q35 -m 64 -object sev-guest,id=sev0,cbitpos=47,"
                        "reduced-phys-bits=1");
    g_autoptr(GError) error = NULL;
    g_assert_true(stasis_vm_check_supported(qemu->qmp, 0, &error));
    g_assert_no_error(error);
    g_autoptr(JsonObject) arguments = json_object_new();
    json_object_set_string_member(arguments, "path", "/machine");
    json_object_set_string_member(arguments, "property", "confidential-guest-support");
    json_object_set_string_member(arguments, "value", "/objects/sev0");
    g_autoptr(JsonNode) answer = stasis_qmp_execute(qemu->qmp, "qom-set", arguments, -1, 0, &error);
    g_assert_no_error(error);
    g_assert_nonnull(answer);
    assert_refused(qemu, 0, "/objects/sev0", "encrypted");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/vmm/support/pc", "-S -machine pc -m 64 -nic user,id=vhost-user0",
                         test_ordinary);
    g_test_add_data_func("/vmm/support/q35",
                         "-S " SHARED "-device virtio-net-pci -device virtio-balloon-pci "
                         "-device virtio-gpu-pci -object rng-random,id=vfio-rng",
                         test_ordinary);
    g_test_add_data_func("/vmm/support/microvm", "-S -machine microvm -m 64", test_ordinary);
    g_test_add_func("/vmm/support/unmigratable", test_unmigratable);
    g_test_add_func("/vmm/support/vhost-user-net", test_vhost_user_net);
    g_test_add_func("/vmm/support/vhost-user-blk", test_vhost_user_blk);
    g_test_add_func("/vmm/support/encryption", test_encryption);
    g_test_add_func("/vmm/support/vfio-descriptor", test_vfio_descriptor);
    g_test_add_func("/vmm/support/descriptors", test_descriptors);
    return g_test_run();
}

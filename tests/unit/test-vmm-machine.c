/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a launched QEMU stands by itself, prepared for checkpoints; its description starts the
 * same machine again beside it; and a description from an image can't harm us. */
#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "vmm/machine.h"
#include "vmm/registry.h"

typedef struct {
    char *dir;
    StasisLaunchOptions options;
    StasisLaunch *launch;
    StasisQmp *qmp;
    pid_t pid;
} Vm;

static void vm_init(Vm *vm, gboolean incoming)
{
    g_autoptr(GError) error = NULL;
    *vm = (Vm){ .dir = g_dir_make_tmp("stasis,vm-XXXXXX", &error) };
    g_assert_no_error(error);
    vm->options = (StasisLaunchOptions){ vm->dir, "tcg", incoming };
}

static gboolean vm_start(Vm *vm, const char *const *argv, const char *cwd,
                         GCancellable *cancellable, GError **error)
{
    vm->launch = stasis_launch_prepare(argv, &vm->options, error);
    g_assert_nonnull(vm->launch);
    vm->qmp = stasis_launch_spawn(vm->launch, &vm->options, cwd, &vm->pid, cancellable, error);
    return vm->qmp != NULL;
}

/* It ends, and was never our child to reap. */
static void assert_vanishes(pid_t pid)
{
    g_assert_cmpint(waitpid(pid, NULL, WNOHANG), ==, -1);
    g_assert_cmpint(errno, ==, ECHILD);
    for (int i = 0; i < 500 && stasis_process_start_time(pid) != 0; i++)
        g_usleep(10000);
    g_assert_cmpuint(stasis_process_start_time(pid), ==, 0);
}

static void vm_clear(Vm *vm)
{
    static const char *const files[] = { "qmp.sock", "console.log", "qemu.log", "pid",
                                         "fake-qemu" };
    g_clear_pointer(&vm->qmp, stasis_qmp_free);
    g_clear_pointer(&vm->launch, stasis_launch_free);
    if (vm->pid > 0) {
        kill(vm->pid, SIGKILL);
        assert_vanishes(vm->pid);
    }
    for (guint i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *path = g_build_filename(vm->dir, files[i], NULL);
        g_unlink(path);
    }
    g_assert_cmpint(g_rmdir(vm->dir), ==, 0);
    g_free(vm->dir);
}

static char *proc_text(pid_t pid, const char *what)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/%s", (int)pid, what);
    char *text = NULL;
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    return text;
}

static char *proc_link(pid_t pid, const char *what)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/%s", (int)pid, what);
    return g_file_read_link(path, NULL);
}

static const char *const pc_argv[] = {
    "qemu-system-x86_64", "-M", "q35", "-m", "48", "-smp", "2", "-serial", "mon:stdio", NULL
};

static void test_launch(void)
{
    g_autoptr(GError) error = NULL;
    Vm vm;
    vm_init(&vm, FALSE);
    int marker = open("/etc/passwd", O_RDONLY); /* inheritable on purpose */
    g_assert_true(vm_start(&vm, pc_argv, "/usr", NULL, &error));
    g_assert_no_error(error);
    g_autofree char *state = stasis_qmp_run_state(vm.qmp, &error);
    g_assert_cmpstr(state, ==, "prelaunch");
    g_assert_cmpint(stasis_qmp_get_peer_pid(vm.qmp), ==, vm.pid);

    /* main memory: a shared memfd, under its usual name */
    g_autofree char *maps = proc_text(vm.pid, "maps");
    g_assert_true(g_regex_match_simple("^\\S+ rw-s .*/memfd:memory-backend-memfd", maps,
                                       G_REGEX_MULTILINE, 0));
    g_autofree char *blocks = stasis_qmp_human(vm.qmp, "info ramblock", &error);
    g_assert_true(g_regex_match_simple("^ *pc\\.ram ", blocks, G_REGEX_MULTILINE, 0));

    /* stands by itself */
    g_assert_cmpint(getsid(vm.pid), !=, getsid(0));
    g_autofree char *cwd = proc_link(vm.pid, "cwd");
    g_autofree char *in = proc_link(vm.pid, "fd/0");
    g_assert_cmpstr(cwd, ==, "/usr");
    g_assert_cmpstr(in, ==, "/dev/null");
    for (int fd = 0; fd < 100; fd++) {
        g_autofree char *what = g_strdup_printf("fd/%d", fd);
        g_autofree char *target = proc_link(vm.pid, what);
        g_assert_cmpstr(target, !=, "/etc/passwd");
    }

    g_assert_true(stasis_qmp_execute_line(vm.qmp, "{\"execute\":\"cont\"}\n", 0, &error));
    g_free(state);
    state = stasis_qmp_run_state(vm.qmp, &error);
    g_assert_cmpstr(state, ==, "running");
    g_assert_true(g_file_test(vm.launch->console_path, G_FILE_TEST_IS_REGULAR));
    close(marker);
    vm_clear(&vm);
}

/* The description of a running machine, through JSON, starts its twin beside it. */
static void test_twin(void)
{
    g_autoptr(GError) error = NULL;
    Vm vm, twin;
    vm_init(&vm, FALSE);
    vm_init(&twin, TRUE);
    g_assert_true(vm_start(&vm, pc_argv, "/usr", NULL, &error));
    g_autoptr(StasisMachine) a =
        stasis_machine_from_running("some-vm", vm.qmp, vm.pid, NULL, &error);
    g_assert_no_error(error);
    g_assert_true(g_str_has_prefix(a->machine, "pc-q35-"));
    g_assert_null(strstr(a->machine, "-machine"));
    g_assert_cmpstr(a->accel, ==, "tcg");
    g_assert_cmpuint(a->n_vcpus, ==, 2);
    g_assert_cmpstr(a->cwd, ==, "/usr");
    g_assert_true(g_path_is_absolute(a->argv[0]));
    g_assert_cmpstr(a->qemu_version, ==, stasis_qmp_get_version(vm.qmp));

    g_autoptr(GBytes) json = stasis_machine_to_json(a);
    g_autoptr(StasisMachine) b = stasis_machine_from_json(json, &error);
    g_assert_no_error(error);
    g_assert_true(g_strv_equal((const char *const *)a->argv, (const char *const *)b->argv));
    g_assert_cmpstr(b->name, ==, "some-vm");
    g_assert_cmpstr(b->cwd, ==, a->cwd);
    g_assert_cmpstr(b->machine, ==, a->machine);
    g_assert_cmpuint(b->n_vcpus, ==, 2);

    g_assert_true(vm_start(&twin, (const char *const *)b->argv, b->cwd, NULL, &error));
    g_assert_no_error(error);
    g_autofree char *state = stasis_qmp_run_state(twin.qmp, &error);
    g_assert_cmpstr(state, ==, "inmigrate");
    g_autofree char *blocks_a = stasis_qmp_human(vm.qmp, "info ramblock", &error);
    g_autofree char *blocks_b = stasis_qmp_human(twin.qmp, "info ramblock", &error);
    g_assert_nonnull(strstr(blocks_a, "pc.ram"));
    g_assert_nonnull(strstr(blocks_b, "pc.ram"));
    g_autofree char *still = stasis_qmp_run_state(vm.qmp, &error);
    g_assert_cmpstr(still, ==, "prelaunch");
    vm_clear(&twin);
    vm_clear(&vm);
}

/* A monitor of the user's own that the running machine listens at is not taken from it. */
static void test_twin_leaves_monitor(void)
{
    g_autoptr(GError) error = NULL;
    Vm vm, twin;
    vm_init(&vm, FALSE);
    vm_init(&twin, TRUE);
    g_autofree char *sock = g_strdup_printf("/tmp/stasis-test-mon-%d", (int)getpid());
    g_autofree char *own = g_strdup_printf("unix:%s,server=on,wait=off", sock);
    const char *argv[] = { "qemu-system-x86_64", "-M", "none", "-qmp", own, NULL };
    vm_start(&vm, argv, NULL, NULL, &error);
    g_assert_no_error(error);
    vm_start(&twin, argv, NULL, NULL, &error);
    g_assert_no_error(error);
    g_autoptr(StasisQmp) qmp = stasis_qmp_connect(sock, 60000, &error);
    g_assert_no_error(error);
    g_assert_cmpint(stasis_qmp_get_peer_pid(qmp), ==, vm.pid);
    vm_clear(&vm);
    /* free again: kept */
    g_autoptr(StasisLaunch) later = stasis_launch_prepare(argv, &twin.options, &error);
    g_assert_true(g_strv_contains((const char *const *)later->argv, own));
    vm_clear(&twin);
    g_unlink(sock);
}

static void test_early_death(void)
{
    g_autoptr(GError) error = NULL;
    static const char *const bad[] = { "qemu-system-x86_64", "-M", "pc", "-device",
                                       "no-such-thing",      NULL };
    static const char *const missing[] = { "no-such-qemu", NULL };
    static const char *const no_exec[] = { "/etc/passwd", NULL };
    Vm vm;
    vm_init(&vm, FALSE);
    guint64 start = stasis_now_us();
    g_assert_false(vm_start(&vm, bad, NULL, NULL, &error));
    g_assert_cmpuint(stasis_now_us() - start, <, 120000000);
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, "'no-such-thing' is not a valid device model name"));
    g_assert_null(strchr(error->message, '\n'));
    g_clear_error(&error);
    g_clear_pointer(&vm.launch, stasis_launch_free);
    g_assert_false(vm_start(&vm, missing, NULL, NULL, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
    g_clear_error(&error);
    g_clear_pointer(&vm.launch, stasis_launch_free);
    g_assert_false(vm_start(&vm, no_exec, NULL, NULL, &error));
    g_clear_error(&error);
    g_clear_pointer(&vm.launch, stasis_launch_free);
    g_assert_false(vm_start(&vm, pc_argv, "/no/such/dir", NULL, &error));
    g_assert_nonnull(strstr(error->message, "/no/such/dir"));
    vm_clear(&vm);
}

typedef struct {
    GCancellable *cancellable;
    const char *pidfile;
} Cancel;

/* Once the program is at work. */
static gpointer cancel_when_up(gpointer data)
{
    const Cancel *cancel = data;
    g_autofree char *text = NULL;
    while (!g_file_get_contents(cancel->pidfile, &text, NULL, NULL) || strchr(text, '\n') == NULL) {
        g_clear_pointer(&text, g_free);
        g_usleep(1000);
    }
    g_cancellable_cancel(cancel->cancellable);
    return NULL;
}

/* Cancelled while a program that never greets is waited for: all of it ends. */
static void test_cancel(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    Vm vm;
    vm_init(&vm, FALSE);
    g_autofree char *program = g_build_filename(vm.dir, "fake-qemu", NULL);
    g_autofree char *pidfile = g_build_filename(vm.dir, "pid", NULL);
    g_autofree char *script =
        g_strdup_printf("#!/bin/sh\nsleep 600 &\necho $! >'%s'\nwait\n", pidfile);
    g_assert_true(g_file_set_contents(program, script, -1, NULL));
    g_chmod(program, 0700);
    const char *argv[] = { program, NULL };
    Cancel cancel = { cancellable, pidfile };
    GThread *thread = g_thread_new("cancel", cancel_when_up, &cancel);
    g_assert_false(vm_start(&vm, argv, NULL, cancellable, &error));
    g_assert_cmpint(stasis_error_exit_code(error), ==, 130);
    g_thread_join(thread);
    g_autofree char *text = NULL;
    g_assert_true(g_file_get_contents(pidfile, &text, NULL, NULL));
    assert_vanishes((pid_t)g_ascii_strtoll(text, NULL, 10));
    vm_clear(&vm);
}

#define GOOD                                                                                  \
    "{\"name\":\"v\",\"argv\":[\"/usr/bin/qemu-system-x86_64\",\"-S\"],\"cwd\":\"/\","        \
    "\"machine\":\"pc-q35-7.2\",\"accel\":\"kvm\",\"qemu_version\":\"7.2.22\",\"n_vcpus\":1," \
    "\"layout\":[{\"gpa\":0,\"size_bytes\":4096,\"block\":\"pc.ram\",\"offset\":0,"           \
    "\"rom\":false},{\"gpa\":4096,\"size_bytes\":4096,\"block\":\"pc.bios\",\"offset\":0,"    \
    "\"rom\":true}]}"

static StasisMachine *parse(const char *text, GError **error)
{
    g_autoptr(GBytes) bytes = g_bytes_new(text, strlen(text));
    return stasis_machine_from_json(bytes, error);
}

static void test_hostile_json(void)
{
    static const struct {
        const char *from, *to;
    } rows[] = {
        { "\"v\"", "\"../v\"" },
        { "\"v\"", "\"\"" },
        { "\"name\"", "\"nome\"" },
        { "\"/usr/bin/qemu-system-x86_64\",", "" },
        { "/usr/bin/qemu-system-x86_64", "/bin/sh" },
        { "/usr/bin/qemu-system-x86_64", "qemu-system-x86_64" },
        { "[\"/usr/bin/qemu-system-x86_64\",\"-S\"]", "[]" },
        { "\"-S\"", "5" },
        { "\"-S\"", "\"\\222\"" },
        { "\"/\"", "\"tmp\"" },
        { "pc-q35-7.2", "pc\\nq35" },
        { "\"kvm\"", "\"xen\"" },
        { "\"n_vcpus\":1", "\"n_vcpus\":-1" },
        { "\"n_vcpus\":1", "\"n_vcpus\":100000" },
        { "\"n_vcpus\":1", "\"n_vcpus\":1.5" },
        { "\"gpa\":4096", "\"gpa\":4095" },
        { "\"gpa\":4096", "\"gpa\":9223372036854775807" },
        { "\"size_bytes\":4096", "\"size_bytes\":0" },
        { "\"block\":\"pc.ram\"", "\"block\":\"\"" },
        { "\"offset\":0", "\"offset\":\"0\"" },
        { "\"rom\":true", "\"rom\":1" },
        { "\"layout\":[", "\"layout\":[[]," },
        { "{", "[{" },
        { "}]}", "}]" },
    };
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisMachine) good = parse(GOOD, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(good->layout->len, ==, 2);
    const StasisGpaRange *rom = g_ptr_array_index(good->layout, 1);
    g_assert_cmpstr(rom->block, ==, "pc.bios");
    g_assert_true(rom->rom);
    g_autoptr(GBytes) json = stasis_machine_to_json(good);
    g_autoptr(StasisMachine) again = stasis_machine_from_json(json, &error);
    g_autoptr(GBytes) json2 = stasis_machine_to_json(again);
    g_assert_true(g_bytes_equal(json, json2));
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GString) text = g_string_new(GOOD);
        g_assert_cmpuint(g_string_replace(text, rows[i].from, rows[i].to, 1), ==, 1);
        g_autoptr(StasisMachine) bad = parse(text->str, &error);
        if (bad != NULL)
            g_error("taken: %s", text->str);
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
        g_assert_null(strchr(error->message, '\n'));
        g_clear_error(&error);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vmm/machine/launch", test_launch);
    g_test_add_func("/vmm/machine/twin", test_twin);
    g_test_add_func("/vmm/machine/twin-leaves-monitor", test_twin_leaves_monitor);
    g_test_add_func("/vmm/machine/early-death", test_early_death);
    g_test_add_func("/vmm/machine/cancel", test_cancel);
    g_test_add_func("/vmm/machine/hostile-json", test_hostile_json);
    return g_test_run();
}

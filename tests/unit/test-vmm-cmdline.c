/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: what a user's QEMU command line says is kept, whatever its spelling, and preparing it
 * any number of times gives the same machine. */
#include <glib.h>
#include <stasis/error.h>
#include <string.h>

#include "vmm/cmdline.h"
#include "vmm/machine.h"

static GPtrArray *parse(const char *line)
{
    g_auto(GStrv) argv = NULL;
    g_autoptr(GError) error = NULL;
    g_assert_true(g_shell_parse_argv(line, NULL, &argv, &error));
    return stasis_cmdline_parse((const char *const *)argv);
}

/* Each name that the installed QEMU's own help lists takes an argument exactly if we think so. Two
 * options that don't exist follow it: QEMU complains about the first of them that is no argument.
 */
static void test_table_matches_qemu(void)
{
    g_autofree char *help = NULL;
    g_autoptr(GError) error = NULL;
    guint n_checked = 0;
    g_assert_true(g_spawn_command_line_sync("qemu-system-x86_64 -help", &help, NULL, NULL, &error));
    g_auto(GStrv) lines = g_strsplit(help, "\n", -1);
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; lines[i] != NULL; i++) {
        if (lines[i][0] != '-')
            continue;
        char *name = lines[i] + strspn(lines[i], "-");
        name[strcspn(name, " /\t")] = '\0';
        if (g_str_has_prefix(name, "h") || strcmp(name, "version") == 0 ||
            !g_hash_table_add(seen, name))
            continue;
        g_autofree char *dashed = g_strconcat("-", name, NULL);
        const char *argv[] = { "qemu-system-x86_64", dashed, "-wrong1", "-wrong2", NULL };
        g_autofree char *said = NULL;
        g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL,
                                   G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL, NULL, NULL,
                                   NULL, &said, NULL, &error));
        gboolean takes = strstr(said, "-wrong2: invalid option") != NULL;
        g_assert_true(takes || strstr(said, "-wrong1: invalid option") != NULL);
        g_autoptr(GPtrArray) options = stasis_cmdline_parse(argv);
        const StasisOption *first = g_ptr_array_index(options, 0);
        if ((first->value != NULL) != takes)
            g_error("-%s: takes an argument: %s", name, takes ? "yes" : "no");
        n_checked++;
    }
    g_assert_cmpuint(n_checked, >, 80);
}

static void test_parse(void)
{
    g_autoptr(GPtrArray) options =
        parse("qemu -S --m 512 disk.img -append '-S quiet' -serial -enable-kvm -nographic -name");
    g_assert_cmpuint(options->len, ==, 7);
    static const struct {
        const char *name, *value;
    } expected[] = {
        { "S", NULL },
        { "m", "512" },
        { NULL, "disk.img" },
        { "append", "-S quiet" },
        { "serial", "-enable-kvm" },
        { "nographic", NULL },
        { "name", NULL },
    };
    for (guint i = 0; i < options->len; i++) {
        const StasisOption *option = g_ptr_array_index(options, i);
        g_assert_cmpstr(option->name, ==, expected[i].name);
        g_assert_cmpstr(option->value, ==, expected[i].value);
    }
}

static void test_optlist(void)
{
    static const struct {
        const char *list, *key, *implied, *value;
    } rows[] = {
        { "q35,accel=kvm", "type", "type", "q35" },
        { "q35,accel=kvm", "accel", "type", "kvm" },
        { "accel=kvm,type=pc", "type", "type", "pc" },
        { "accel=kvm", "type", "type", NULL },
        { "a=1,a=2", "a", NULL, "2" },
        { "file,path=/a,,b,id=x", "path", "backend", "/a,b" },
        { "file,path=/a,,b,id=x", "id", "backend", "x" },
        { "socket,server", "server", "backend", "on" },
        { "x,,y", "type", "type", "x,y" },
        { "a=,b=2", "a", NULL, "" },
        { "", "a", "a", NULL },
        { "{\"qom-type\": \"memory-backend-ram\", \"id\": \"m\", \"size\": 5}", "id", NULL, "m" },
        { "{\"qom-type\": \"x\", \"share\": true}", "share", NULL, "on" },
        { "{\"size\": 5}", "size", NULL, "5" },
        { "{broken", "id", NULL, NULL },
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *value = stasis_optlist_get(rows[i].list, rows[i].key, rows[i].implied);
        g_assert_cmpstr(value, ==, rows[i].value);
    }
    g_autofree char *escaped = stasis_optlist_escape("/a,b,,c");
    g_assert_cmpstr(escaped, ==, "/a,,b,,,,c");
}

static void test_size(void)
{
    static const struct {
        const char *text;
        gboolean ok;
        guint64 size;
    } rows[] = {
        { "512", TRUE, (guint64)512 << 20 },
        { "1G", TRUE, (guint64)1 << 30 },
        { "1g", TRUE, (guint64)1 << 30 },
        { "64k", TRUE, 64 << 10 },
        { "2T", TRUE, (guint64)2 << 40 },
        { "1.5G", TRUE, (guint64)1536 << 20 },
        { "4096B", TRUE, 4096 },
        { "0x10M", TRUE, (guint64)16 << 20 },
        { "0", TRUE, 0 },
        { "", FALSE, 0 },
        { "-1", FALSE, 0 },
        { "G", FALSE, 0 },
        { "1GB", FALSE, 0 },
        { "1X", FALSE, 0 },
        { "99999999999999999999", FALSE, 0 },
        { "9999999E", FALSE, 0 },
        { "9999999.5E", FALSE, 0 },
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        guint64 size = 0;
        g_test_message("%s", rows[i].text);
        g_assert_cmpint(stasis_size_parse(rows[i].text, 20, &size), ==, rows[i].ok);
        g_assert_cmpuint(size, ==, rows[i].size);
    }
}

#define DIR1 "/run/v/one"
#define DIR2 "/run/v/two"

/* argv as one line, single spaces, behind the program. */
static char *prepared(const char *line, const StasisLaunchOptions *options)
{
    g_auto(GStrv) argv = NULL;
    g_autoptr(GError) error = NULL;
    g_assert_true(g_shell_parse_argv(line, NULL, &argv, &error));
    g_autoptr(StasisLaunch) launch =
        stasis_launch_prepare((const char *const *)argv, options, &error);
    g_assert_no_error(error);
    g_assert_nonnull(launch->accel_reason);
    g_assert_null(strchr(launch->accel_reason, '\n'));
    return g_strjoinv(" ", launch->argv + 1);
}

#define QMP                                                                    \
    "-chardev socket,id=stasis-qmp,path=" DIR1 "/qmp.sock,server=on,wait=off " \
    "-mon chardev=stasis-qmp,mode=control "
#define CONSOLE "-chardev file,id=stasis-console,path=" DIR1 "/console.log,append=on "
#define SERIAL "-serial chardev:stasis-console "
#define NO_WINDOW "-display none "
#define RAM(id, size)                                            \
    "-object memory-backend-memfd,id=" id ",share=on,size=" size \
    ",x-use-canonical-path-for-ramblock-id=off -machine memory-backend=" id " "

static const struct {
    const char *line, *prepared;
} rewrites[] = {
    { "qemu-system-x86_64",
      SERIAL NO_WINDOW RAM("pc.ram", "134217728") QMP "-accel tcg " CONSOLE "-S" },
    /* the process's own matters go */
    { "qemu-system-x86_64 -daemonize -S -pidfile /p -incoming tcp:0:1 -loadvm x -m 1G",
      "-m 1G " SERIAL NO_WINDOW RAM("pc.ram", "1073741824") QMP "-accel tcg " CONSOLE "-S" },
    { "qemu-system-x86_64 --machine q35,accel=kvm -m size=512,slots=2,maxmem=4G",
      "-machine q35,accel=kvm -m size=512,slots=2,maxmem=4G " SERIAL NO_WINDOW RAM(
          "pc.ram", "536870912") QMP CONSOLE "-S" },
    { "qemu-system-x86_64 -M pc -enable-kvm -m 1.5G",
      "-M pc -enable-kvm -m 1.5G " SERIAL NO_WINDOW RAM("pc.ram", "1610612736") QMP CONSOLE "-S" },
    { "qemu-system-x86_64 -accel kvm,dirty-ring-size=4096",
      "-accel kvm,dirty-ring-size=4096 " SERIAL NO_WINDOW RAM("pc.ram", "134217728") QMP CONSOLE
      "-S" },
    { "qemu-system-x86_64 -M microvm -m 64",
      "-M microvm -m 64 " SERIAL NO_WINDOW RAM("microvm.ram", "67108864") QMP "-accel tcg " CONSOLE
                                                                              "-S" },
    /* memory of its own */
    { "qemu-system-x86_64 -m 1G -object memory-backend-ram,id=x,size=1G -machine "
      "q35,memory-backend=x",
      "-m 1G -object memory-backend-ram,id=x,size=1G -machine q35,memory-backend=x " SERIAL
          NO_WINDOW QMP "-accel tcg " CONSOLE "-S" },
    { "qemu-system-x86_64 -object '{\"qom-type\":\"memory-backend-ram\",\"id\":\"a\"}' -numa "
      "node,memdev=a",
      "-object {\"qom-type\":\"memory-backend-ram\",\"id\":\"a\"} -numa node,memdev=a " SERIAL
          NO_WINDOW QMP "-accel tcg " CONSOLE "-S" },
    { "qemu-system-x86_64 -mem-path /dev/hugepages -mem-prealloc",
      "-mem-path /dev/hugepages -mem-prealloc " SERIAL NO_WINDOW QMP "-accel tcg " CONSOLE "-S" },
    { "qemu-system-x86_64 -readconfig f",
      "-readconfig f " SERIAL NO_WINDOW QMP "-accel tcg " CONSOLE "-S" },
    { "qemu-system-x86_64 -m lots", "-m lots " SERIAL NO_WINDOW QMP "-accel tcg " CONSOLE "-S" },
    { "qemu-system-aarch64 -M virt", "-M virt " SERIAL NO_WINDOW QMP "-accel tcg " CONSOLE "-S" },
    /* a back end that is only for a DIMM leaves main memory to us */
    { "qemu-system-x86_64 -object memory-backend-ram,id=d,size=1G -device pc-dimm,memdev=d",
      "-object memory-backend-ram,id=d,size=1G -device pc-dimm,memdev=d " SERIAL NO_WINDOW RAM(
          "pc.ram", "134217728") QMP "-accel tcg " CONSOLE "-S" },
    /* the terminal */
    { "qemu-system-x86_64 -M none -nographic",
      "-M none -machine graphics=off " SERIAL NO_WINDOW QMP "-accel tcg " CONSOLE "-S" },
    { "qemu-system-x86_64 -M none -serial mon:stdio -vnc :1",
      "-M none " SERIAL "-vnc :1 " QMP "-accel tcg " CONSOLE "-S" },
    { "qemu-system-x86_64 -M none -serial file:x -debugcon stdio -monitor stdio -display curses",
      "-M none -serial file:x -debugcon chardev:stasis-console -monitor none -display none " QMP
      "-accel tcg " CONSOLE "-S" },
    { "qemu-system-x86_64 -M none -chardev stdio,id=c,mux=on,signal=off -serial chardev:c -mon "
      "chardev=c",
      "-M none -chardev file,id=c,path=" DIR1 "/console.log,append=on,mux=on -serial chardev:c "
      "-mon chardev=c " NO_WINDOW QMP "-accel tcg -S" },
    { "qemu-system-x86_64 -M none -nodefaults -qmp stdio",
      "-M none -nodefaults " NO_WINDOW QMP "-accel tcg -S" },
    { "qemu-system-x86_64 -M none -device isa-serial,chardev=x -display gtk",
      "-M none -device isa-serial,chardev=x -display gtk " QMP "-accel tcg -S" },
    /* what QEMU would not take stays what it is */
    { "qemu-system-x86_64 -M none -nodefaults ---S x --no-acpi -display gtk",
      "-M none -nodefaults ---S x -no-acpi -display gtk " QMP "-accel tcg -S" },
    { "qemu-system-x86_64 -M none -nodefaults -chardev null,id=stasis-qmp -display gtk -chardev "
      "null,id=stasis-qmp",
      "-M none -nodefaults -display gtk " QMP "-accel tcg -S" },
};

static void test_rewrite(void)
{
    StasisLaunchOptions options = { .runtime_dir = DIR1, .accel = "tcg" };
    for (guint i = 0; i < G_N_ELEMENTS(rewrites); i++) {
        g_autofree char *line = prepared(rewrites[i].line, &options);
        g_assert_cmpstr(line, ==, rewrites[i].prepared);
    }
}

/* Again for another directory and accelerator gives what the original line would have given. */
static void test_idempotent(void)
{
    StasisLaunchOptions first = { .runtime_dir = DIR1, .accel = "kvm", .incoming = TRUE };
    StasisLaunchOptions second = { .runtime_dir = DIR2, .accel = "tcg" };
    for (guint i = 0; i < G_N_ELEMENTS(rewrites); i++) {
        g_auto(GStrv) argv = NULL;
        g_autoptr(GError) error = NULL;
        g_assert_true(g_shell_parse_argv(rewrites[i].line, NULL, &argv, &error));
        g_autoptr(StasisLaunch) a =
            stasis_launch_prepare((const char *const *)argv, &first, &error);
        g_assert_no_error(error);
        g_autoptr(StasisLaunch) b =
            stasis_launch_prepare((const char *const *)a->argv, &second, &error);
        g_assert_no_error(error);
        g_autoptr(StasisLaunch) c =
            stasis_launch_prepare((const char *const *)argv, &second, &error);
        g_assert_no_error(error);
        g_autofree char *again = g_strjoinv(" ", b->argv);
        g_autofree char *straight = g_strjoinv(" ", c->argv);
        g_assert_cmpstr(again, ==, straight);
        g_assert_cmpstr(b->console_path, ==, c->console_path);
        g_assert_cmpstr(b->accel, ==, c->accel);
        g_assert_null(strstr(again, DIR1));
    }
}

static void test_accel(void)
{
    static const struct {
        const char *line, *wanted, *accel, *reason;
    } rows[] = {
        { "qemu-system-x86_64 -accel kvm:tcg", "tcg", "kvm", "kvm:tcg: as the command line asks" },
        { "qemu-system-x86_64 -M accel=tcg", "kvm", "tcg", "tcg: as the command line asks" },
        { "qemu-system-x86_64", "kvm", "kvm", "kvm: as asked" },
        { "qemu-system-x86_64 -cpu host,pmu=off", "auto", "kvm", "kvm: -cpu host needs it" },
        { "qemu-system-x86_64 -icount shift=3", "auto", "tcg", "tcg: -icount needs it" },
    };
    g_autoptr(GError) error = NULL;
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        StasisLaunchOptions options = { .runtime_dir = DIR1, .accel = rows[i].wanted };
        g_auto(GStrv) argv = g_strsplit(rows[i].line, " ", -1);
        g_autoptr(StasisLaunch) launch =
            stasis_launch_prepare((const char *const *)argv, &options, &error);
        g_assert_no_error(error);
        g_assert_cmpstr(launch->accel, ==, rows[i].accel);
        g_assert_cmpstr(launch->accel_reason, ==, rows[i].reason);
    }
    StasisLaunchOptions options = { .runtime_dir = DIR1, .accel = "xen" };
    const char *const argv[] = { "qemu-system-x86_64", NULL };
    g_assert_null(stasis_launch_prepare(argv, &options, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
    g_clear_error(&error);
    options.accel = "auto";
    g_autoptr(StasisLaunch) launch = stasis_launch_prepare(argv, &options, &error);
    g_autofree char *why = NULL;
    gboolean good = stasis_kvm_probe(&why);
    g_test_message("probe: %s", good ? "good" : why);
    g_assert_cmpstr(launch->accel, ==, good ? "kvm" : "tcg");
    g_assert_true(good || g_str_has_suffix(launch->accel_reason, why));
}

static void test_hostile_argv(void)
{
    g_autoptr(GError) error = NULL;
    StasisLaunchOptions options = { .runtime_dir = DIR1, .accel = "tcg" };
    const char *const empty[] = { NULL };
    const char *const option_first[] = { "-m", "512", NULL };
    const char *const odd[] = { "/qemu-system-x86_64", "",  "-", "--", ",", "-m", "-chardev",
                                "id=stasis-qmp",       NULL };
    g_assert_null(stasis_launch_prepare(empty, &options, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
    g_clear_error(&error);
    g_assert_null(stasis_launch_prepare(option_first, &options, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
    g_clear_error(&error);
    g_autoptr(StasisLaunch) launch = stasis_launch_prepare(odd, &options, &error);
    g_assert_nonnull(launch);
    g_assert_null(
        stasis_launch_prepare((const char *const[]){ "qemu", "-S", "-m", NULL }, &options, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
    g_clear_error(&error);
    g_autofree char *deep = g_strnfill(120, 'd');
    options.runtime_dir = deep;
    g_assert_null(stasis_launch_prepare((const char *const[]){ "qemu", NULL }, &options, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
}

/* ---- the agent's port ---- */

#define START_M "qemu-system-x86_64 -M none,memory-backend=m -nodefaults -display none "
#define SOCKET_AT(dir) "-chardev socket,id=stasis-agent,server=on,wait=off,path=" dir "/agent.sock "
#define PORT \
    "-device virtserialport,bus=stasis-serial.0,chardev=stasis-agent,name=org.stasis.agent.0 "

/* What follows "-display none" up to what every line gets at its end. */
static char *with_agent(const char *line, const StasisLaunchOptions *options)
{
    g_autofree char *all = prepared(line, options);
    const char *begin = strstr(all, "-display none ") + strlen("-display none ");
    const char *end = strstr(all, "-chardev socket,id=stasis-qmp");
    g_assert_nonnull(end);
    return g_strndup(begin, (gsize)(end - begin));
}

/* It is added when it is wanted and not there, stays for ever, and moves to each VM's directory; a
 * port of the user's own stays his. */
static void test_agent(void)
{
    StasisLaunchOptions wanted = { .runtime_dir = DIR1, .accel = "tcg", .agent = TRUE },
                        again = { .runtime_dir = DIR2, .accel = "tcg" };
    g_autofree char *first = with_agent(START_M, &wanted);
    g_assert_cmpstr(first, ==, SOCKET_AT(DIR1) "-device virtio-serial-pci,id=stasis-serial " PORT);
    g_autofree char *line = prepared(START_M, &wanted);
    g_autofree char *whole = g_strconcat("qemu-system-x86_64 ", line, NULL);
    g_autofree char *moved = with_agent(whole, &again);
    g_assert_cmpstr(moved, ==, SOCKET_AT(DIR2) "-device virtio-serial-pci,id=stasis-serial " PORT);
    StasisLaunchClone clone = { .keep_network = TRUE, .keep_identity = TRUE };
    StasisLaunchOptions cloned = { .runtime_dir = DIR2, .accel = "tcg", .clone = &clone };
    g_autofree char *own = with_agent(whole, &cloned);
    g_assert_cmpstr(own, ==, moved);
    g_autofree char *none = with_agent(START_M, &again);
    g_assert_cmpstr(none, ==, "");
    static const char theirs[] = "-chardev socket,id=mine,path=/mine,server=on,wait=off -device "
                                 "virtio-serial -device "
                                 "virtserialport,chardev=mine,name=org.stasis.agent.0 ";
    g_autofree char *with_theirs = g_strconcat(START_M, theirs, NULL);
    g_autofree char *kept = with_agent(with_theirs, &wanted);
    g_assert_cmpstr(kept, ==, theirs);
    g_autofree char *no_pci = with_agent(
        "qemu-system-x86_64 -M microvm,memory-backend=m -nodefaults -display none", &wanted);
    g_assert_nonnull(strstr(no_pci, "-device virtio-serial-device,id=stasis-serial "));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vmm/cmdline/parse", test_parse);
    g_test_add_func("/vmm/cmdline/optlist", test_optlist);
    g_test_add_func("/vmm/cmdline/size", test_size);
    g_test_add_func("/vmm/cmdline/rewrite", test_rewrite);
    g_test_add_func("/vmm/cmdline/idempotent", test_idempotent);
    g_test_add_func("/vmm/cmdline/accel", test_accel);
    g_test_add_func("/vmm/cmdline/agent", test_agent);
    g_test_add_func("/vmm/cmdline/hostile-argv", test_hostile_argv);
    g_test_add_func("/vmm/cmdline/table-matches-qemu", test_table_matches_qemu);
    return g_test_run();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: an image of a booted machine (--warm) is used for a machine that would be the same, and
 * for no other: other arguments, another QEMU, another kernel, initrd or disk, or one with another
 * content; a file that was only made anew is the same. */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/ci/ci-machine.h"
#include "test-store-util.h"

typedef struct {
    char *dir;
    char *files[5]; /* QEMU, kernel, initrd, disk, and a copy of the kernel */
} World;

enum { QEMU, KERNEL, INITRD, DISK, COPY };

static void write_file(const char *path, const char *text)
{
    g_autoptr(GError) error = NULL;
    g_file_set_contents(path, text, -1, &error);
    g_assert_no_error(error);
    g_assert_cmpint(chmod(path, 0700), ==, 0);
}

/* The time of change, which is all that tells some changes. */
static void set_time(const char *path, time_t s, long ns)
{
    struct timespec times[2] = { { s, ns }, { s, ns } };
    g_assert_cmpint(utimensat(AT_FDCWD, path, times, 0), ==, 0);
}

static void set_up(World *world, gconstpointer unused)
{
    static const char *const names[] = { "qemu", "kernel", "initrd", "disk", "copy" };
    world->dir = test_make_dir();
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        world->files[i] = g_build_filename(world->dir, names[i], NULL);
        write_file(world->files[i], "text");
        set_time(world->files[i], 1000, 5);
    }
}

static void tear_down(World *world, gconstpointer unused)
{
    for (guint i = 0; i < G_N_ELEMENTS(world->files); i++)
        g_free(world->files[i]);
    test_remove_tree(world->dir);
    g_free(world->dir);
}

static StasisCiOptions machine(const World *world)
{
    static const char *const args[] = { "-device", "edu", NULL };
    StasisCiOptions options = STASIS_CI_OPTIONS_INIT;
    options.qemu = world->files[QEMU];
    options.kernel = world->files[KERNEL];
    options.initrd = world->files[INITRD];
    options.image = world->files[DISK];
    options.append = "console=ttyS0";
    options.memory = "256M";
    options.accel = "tcg";
    options.n_vcpus = 1;
    options.qemu_args = args;
    return options;
}

static char *key(const StasisCiOptions *options)
{
    g_autoptr(GError) error = NULL;
    char *found = stasis_ci_machine_key(options, &error);
    g_assert_no_error(error);
    return found;
}

static void test_options(World *world, gconstpointer unused)
{
    static const char *const more[] = { "-device", "edu", "-S", NULL }, *const none[] = { NULL };
    StasisCiOptions same = machine(world), others[12];
    g_autofree char *first = key(&same);
    for (guint i = 0; i < G_N_ELEMENTS(others); i++)
        others[i] = machine(world);
    others[0].append = "console=ttyS0 quiet";
    others[1].append = NULL;
    others[2].memory = "257M";
    others[3].accel = "kvm";
    others[4].n_vcpus = 2;
    others[5].qemu_args = more;
    others[6].qemu_args = none;
    others[7].add_agent = TRUE;
    others[8].kernel = world->files[COPY];
    others[9].initrd = NULL;
    others[10].image = NULL;
    others[11].image_format = "raw";
    for (guint i = 0; i < G_N_ELEMENTS(others); i++) {
        g_autofree char *other = key(&others[i]);
        g_test_message("machine %u", i);
        g_assert_cmpstr(other, !=, first);
    }
    /* The test that is to run in it is none of its business. */
    same.argv = more;
    same.timeout_us = same.every_us = 1;
    same.bundle = same.dir = "x";
    g_autofree char *again = key(&same);
    g_assert_cmpstr(again, ==, first);
}

static void test_files(World *world, gconstpointer unused)
{
    StasisCiOptions options = machine(world);
    g_autofree char *first = key(&options);
    for (guint i = QEMU; i <= DISK; i++) {
        g_test_message("file %u", i);
        write_file(world->files[i], "next");
        set_time(world->files[i], 1000, 5);
        g_autofree char *changed = key(&options);
        g_assert_cmpstr(changed, !=, first);
        g_assert_true(stasis_ci_machine_is_other_state(changed, first));
        write_file(world->files[i], "text");
        set_time(world->files[i], 2000, 6);
        g_autofree char *made_anew = key(&options);
        g_assert_cmpstr(made_anew, ==, first);
        g_assert_false(stasis_ci_machine_is_other_state(made_anew, first));
    }
    /* What one file lost another one has won. */
    write_file(world->files[KERNEL], "tex");
    write_file(world->files[INITRD], "ttext");
    g_autofree char *moved = key(&options);
    g_assert_cmpstr(moved, !=, first);
    options.memory = "257M";
    g_autofree char *other = key(&options);
    g_assert_false(stasis_ci_machine_is_other_state(other, moved));
}

static void check_changes(const World *world, const StasisCiOptions *options, const char *path)
{
    g_autofree char *first = key(options);
    write_file(path, "next");
    g_autofree char *changed = key(options);
    g_assert_cmpstr(changed, !=, first);
    g_assert_true(stasis_ci_machine_is_other_state(changed, first));
    write_file(path, "text");
    g_autofree char *again = key(options);
    g_assert_cmpstr(again, ==, first);
}

/* What further words for QEMU name; what is no file is not looked at. */
static void test_named(World *world, gconstpointer unused)
{
    static const char *const forms[] = {
        "if=virtio,file=%s,format=raw,readonly=on", "file=%s,snapshot=on",
        "{\"driver\": \"file\", \"read-only\": true, \"filename\": \"%s\"}",
        "driver=raw,read-only=on,file.filename=%s"
    };
    g_autofree char *fifo = g_build_filename(world->dir, "fifo", NULL);
    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    for (guint i = 0; i < G_N_ELEMENTS(forms); i++) {
        g_autofree char *word = g_strdup_printf(forms[i], world->files[COPY]);
        g_autofree char *waits = g_strdup_printf(forms[i], fifo);
        const char *const args[] = { "-drive", word, "file=nbd://nobody/x", waits, NULL };
        StasisCiOptions options = machine(world);
        options.qemu_args = args;
        g_test_message("%s", word);
        check_changes(world, &options, world->files[COPY]);
    }
}

/* What the machine itself writes to makes no other one of it. */
static void test_written(World *world, gconstpointer unused)
{
    static const char *const forms[] = { "if=pflash,file=%s", "file,id=log,path=%s", "%s" };
    for (guint i = 0; i < G_N_ELEMENTS(forms); i++) {
        g_autofree char *word = g_strdup_printf(forms[i], world->files[COPY]);
        const char *const args[] = { "-drive", word, NULL };
        StasisCiOptions options = machine(world);
        options.qemu_args = args;
        g_autofree char *before = stasis_ci_machine_key(&options, NULL);
        write_file(world->files[COPY], word);
        g_autofree char *after = stasis_ci_machine_key(&options, NULL);
        g_assert_cmpstr(before, ==, after);
    }
}

/* The agent that is put into the disk's overlay. */
static void test_agent(World *world, gconstpointer unused)
{
    static const char *const names[] = { "stasis-agent", "stasis-agent.service", "stasis-session" };
    char *paths[G_N_ELEMENTS(names)];
    StasisCiOptions options = machine(world);
    options.add_agent = TRUE;
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        paths[i] = g_build_filename(world->dir, names[i], NULL);
        write_file(paths[i], "text");
    }
    g_setenv("STASIS_GUEST_AGENT", paths[0], TRUE);
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        check_changes(world, &options, paths[i]);
        g_free(paths[i]);
    }
    g_unsetenv("STASIS_GUEST_AGENT");
}

/* A raw disk whose guest has written a qcow2 file's head into it, with a file of the host's behind
 * it: it is read as what it is, or not at all. */
static void test_format(World *world, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    StasisCiOptions options = machine(world);
    g_autofree char *overlay = g_build_filename(world->dir, "disk.qcow2", NULL);
    guint8 head[512] = { 'Q', 'F', 'I', 0xfb, 0, 0, 0, 3, [15] = 112, [19] = 4 };
    memcpy(head + 112, "/etc", 4);
    g_file_set_contents(world->files[DISK], (const char *)head, sizeof head, &error);
    g_assert_no_error(error);
    g_assert_null(stasis_ci_machine_argv(&options, world->dir, NULL, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
    g_assert_nonnull(strstr(error->message, "--image-format"));
    g_clear_error(&error);
    g_assert_false(g_file_test(overlay, G_FILE_TEST_EXISTS));
    options.image_format = "raw";
    g_auto(GStrv) argv = stasis_ci_machine_argv(&options, world->dir, NULL, &error);
    g_assert_no_error(error);
    g_assert_nonnull(argv);
    g_autofree char *written = NULL;
    gsize size;
    g_file_get_contents(overlay, &written, &size, &error);
    g_assert_no_error(error);
    g_assert_nonnull(memmem(written, size, world->files[DISK], strlen(world->files[DISK])));
    g_assert_nonnull(memmem(written, size, "raw", 3));
}

/* A path means the same from wherever. */
static void test_relative(World *world, gconstpointer unused)
{
    StasisCiOptions options = machine(world);
    g_autofree char *here = g_get_current_dir(), *first = key(&options);
    g_assert_cmpint(chdir(world->dir), ==, 0);
    options.kernel = "kernel";
    g_autofree char *again = key(&options);
    g_assert_cmpint(chdir(here), ==, 0);
    g_assert_cmpstr(again, ==, first);
}

/* One that takes long to read is known by its time. */
static void test_large(World *world, gconstpointer unused)
{
    StasisCiOptions options = machine(world);
    g_assert_cmpint(truncate(world->files[DISK], STASIS_CI_MACHINE_MAX_READ + 1), ==, 0);
    set_time(world->files[DISK], 1000, 5);
    g_autofree char *first = key(&options), *same = key(&options);
    set_time(world->files[DISK], 1000, 6);
    g_autofree char *later = key(&options);
    g_assert_cmpstr(same, ==, first);
    g_assert_cmpstr(later, !=, first);
}

static void test_missing(World *world, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    StasisCiOptions options = machine(world);
    g_assert_cmpint(g_unlink(world->files[INITRD]), ==, 0);
    g_assert_null(stasis_ci_machine_key(&options, &error));
    g_assert_nonnull(error);
    g_assert_nonnull(strstr(error->message, world->files[INITRD]));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, func) g_test_add("/ci-machine/" name, World, NULL, set_up, func, tear_down)
    ADD("options", test_options);
    ADD("files", test_files);
    ADD("named", test_named);
    ADD("written", test_written);
    ADD("agent", test_agent);
    ADD("format", test_format);
    ADD("relative", test_relative);
    ADD("large", test_large);
    ADD("missing", test_missing);
    return g_test_run();
}

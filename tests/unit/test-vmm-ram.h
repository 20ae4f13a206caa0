/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A real QEMU for the tests of hv/vmm/ram.h: starts, answers QMP, and dies with the test. */
#pragma once

#include <errno.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/ram.h"

typedef struct {
    pid_t pid;
    char *dir; /* temporary; removed with the test's files in it */
    StasisQmp *qmp;
} TestQemu;

static inline void test_die_with_parent(gpointer unused)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* Start QEMU with the words of @options (split at blanks; %D is the temporary directory). */
static inline TestQemu *test_qemu_start(const char *options)
{
    g_autoptr(GError) error = NULL;
    TestQemu *qemu = g_new0(TestQemu, 1);
    qemu->dir = g_dir_make_tmp("stasis-vmm-ram-XXXXXX", &error);
    g_assert_no_error(error);
    g_autofree char *socket = g_build_filename(qemu->dir, "qmp", NULL);
    g_auto(GStrv) parts = g_strsplit(options, "%D", -1);
    g_autofree char *all = g_strjoinv(qemu->dir, parts);
    g_autofree char *line = g_strdup_printf("qemu-system-x86_64 -display none -serial none "
                                            "-accel tcg -qmp unix:%s,server=on,wait=off %s",
                                            socket, all);
    g_auto(GStrv) argv = g_strsplit(line, " ", -1);
    g_spawn_async(NULL, argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD,
                  test_die_with_parent, NULL, &qemu->pid, &error);
    g_assert_no_error(error);
    for (int i = 0; i < 2000 && qemu->qmp == NULL; i++) {
        g_usleep(10000);
        g_clear_error(&error);
        qemu->qmp = stasis_qmp_connect(socket, 20000, &error);
        if (!g_error_matches(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND))
            break;
    }
    g_assert_no_error(error);
    g_assert_cmpint(stasis_qmp_get_peer_pid(qemu->qmp), ==, qemu->pid);
    return qemu;
}

static inline void test_qemu_free(TestQemu *qemu)
{
    stasis_qmp_free(qemu->qmp);
    kill(qemu->pid, SIGKILL);
    waitpid(qemu->pid, NULL, 0);
    g_autoptr(GDir) dir = g_dir_open(qemu->dir, 0, NULL);
    for (const char *name = g_dir_read_name(dir); name != NULL; name = g_dir_read_name(dir)) {
        g_autofree char *path = g_build_filename(qemu->dir, name, NULL);
        g_unlink(path);
    }
    g_rmdir(qemu->dir);
    g_free(qemu->dir);
    g_free(qemu);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TestQemu, test_qemu_free)

static inline char *test_human(TestQemu *qemu, const char *line)
{
    g_autoptr(GError) error = NULL;
    char *text = stasis_qmp_human(qemu->qmp, line, &error);
    g_assert_no_error(error);
    return text;
}

static inline void test_command(TestQemu *qemu, const char *line)
{
    g_autoptr(GError) error = NULL;
    stasis_qmp_execute_line(qemu->qmp, line, 0, &error);
    g_assert_no_error(error);
}

static inline StasisRam *test_discover(TestQemu *qemu)
{
    g_autoptr(GError) error = NULL;
    StasisRam *ram = stasis_ram_discover(qemu->qmp, qemu->pid, &error);
    g_assert_no_error(error);
    return ram;
}

/* Let the firmware run until it has mapped the video RAM, then pause. */
static inline void test_boot_and_stop(TestQemu *qemu)
{
    gboolean mapped = FALSE;
    for (int i = 0; i < 600 && !mapped; i++) {
        g_usleep(50000);
        g_autofree char *text = test_human(qemu, "info mtree -f");
        mapped = strstr(text, "ram): vga.vram") != NULL;
    }
    g_assert_true(mapped);
    test_command(qemu, "{\"execute\":\"stop\"}\n");
}

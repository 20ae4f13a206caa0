/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: whoever dies while it has a VM stopped leaves it running, if the lifeline was armed, and
 * exactly as it is if not. */
#include "vmm/lifeline.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/io.h"
#include "test-vmm-ram.h"

#define HANG_US 120000000u
/* In which QEMU runs again: milliseconds, on a host that has time for it. */
#define RESUME_US 60000000u

static const char *test_program;

/* ---- the process that dies ---- */

typedef enum {
    HOLD_ARMED,
    HOLD_UNARMED,
    HOLD_DISARMED,
    HOLD_MID_COMMAND,
    HOLD_BUSY,
    HOLD_MARKED,
    HOLD_UNTIDY,
    HOLD_TIDIED
} Hold;

static int socket_of(StasisQmp *qmp)
{
    StasisQmpLegacy legacy;
    stasis_qmp_get_legacy(qmp, &legacy);
    return legacy.fd;
}

/* As "--hold SOCKET WHAT": stops the VM with the lifeline as said, says so, and waits for its end.
 */
static void be_holder(int argc, char **argv)
{
    if (argc != 4 || strcmp(argv[1], "--hold") != 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setpgid(0, 0);
    Hold what = (Hold)atoi(argv[3]);
    StasisQmp *qmp = stasis_qmp_connect(argv[2], HANG_US / 1000, NULL);
    g_autofree char *mark = g_strdup_printf("%s.mark", argv[2]);
    g_autofree char *swept = g_strdup_printf("%s.swept", argv[2]);
    const char *sweeper[] = { "/usr/bin/touch", swept, NULL };
    StasisLifeline *lifeline = NULL;
    if (qmp != NULL)
        lifeline = what == HOLD_UNTIDY || what == HOLD_TIDIED
                       ? stasis_lifeline_new_sweeping(qmp, mark, sweeper, NULL)
                       : stasis_lifeline_new_unmarking(qmp, mark, NULL);
    if (lifeline == NULL)
        _exit(1);
    if (what == HOLD_UNTIDY || what == HOLD_TIDIED)
        stasis_lifeline_set_untidy(lifeline, TRUE);
    if (what == HOLD_TIDIED)
        stasis_lifeline_set_untidy(lifeline, FALSE);
    if (what != HOLD_UNARMED && what != HOLD_MARKED)
        stasis_lifeline_arm(lifeline);
    if (!stasis_qmp_execute_line(qmp, "{\"execute\":\"stop\"}\n", 0, NULL))
        _exit(2);
    if (what == HOLD_DISARMED)
        stasis_lifeline_disarm(lifeline);
    static const char half[] = "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command";
    if (what == HOLD_MID_COMMAND)
        stasis_write_all(socket_of(qmp), half, sizeof(half) - 1);
    /* Answers that nobody will have read. */
    static const char ask[] = "{\"execute\":\"query-qmp-schema\"}\n";
    if (what == HOLD_BUSY)
        stasis_write_all(socket_of(qmp), ask, sizeof(ask) - 1);
    stasis_write_all(1, "y", 1);
    for (;;)
        pause();
}

/* ---- here ---- */

typedef struct {
    TestQemu *qemu; /* its monitor is our second one; the first is for who dies */
    char *socket;
} Fixture;

static void set_up(Fixture *f, gconstpointer data)
{
    f->qemu = test_qemu_start("-machine none -qmp unix:%D/first,server=on,wait=off");
    f->socket = g_build_filename(f->qemu->dir, "first", NULL);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    test_qemu_free(f->qemu);
    g_free(f->socket);
}

static gboolean is_running(Fixture *f)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *state = stasis_qmp_run_state(f->qemu->qmp, &error);
    g_assert_no_error(error);
    return strcmp(state, "running") == 0;
}

/* The holder, which has the VM stopped. Its lifeline's process becomes our child when it dies. */
static pid_t start_holder(Fixture *f, Hold what)
{
    int ends[2];
    char word[16], answer = 0;
    g_snprintf(word, sizeof(word), "%d", (int)what);
    g_assert_true(is_running(f));
    g_assert_cmpint(pipe2(ends, O_CLOEXEC), ==, 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[1], 1);
        execl(test_program, test_program, "--hold", f->socket, word, NULL);
        _exit(127);
    }
    close(ends[1]);
    g_assert_cmpint(stasis_read_all(ends[0], &answer, 1), ==, 0);
    close(ends[0]);
    g_assert_false(is_running(f));
    return pid;
}

/* Its lifeline has ended, too. */
static void await_lifeline_end(pid_t holder)
{
    guint64 deadline = stasis_now_us() + HANG_US;
    for (guint n_gone = 0; n_gone < 2;) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG);
        g_assert_cmpuint(stasis_now_us(), <, deadline);
        if (pid <= 0)
            g_usleep(1000);
        else if (pid != holder)
            g_assert_true(WIFEXITED(status));
        n_gone += pid > 0;
    }
}

static void check_resumed(Fixture *f, guint64 killed_us)
{
    guint64 us = 0;
    while (!is_running(f)) {
        us = stasis_now_us() - killed_us;
        g_assert_cmpuint(us, <, RESUME_US);
        g_usleep(500);
    }
    g_test_message("running again after %" G_GUINT64_FORMAT " us", us);
}

/* The monitor is free again: nobody keeps the connection. */
static void check_monitor_free(Fixture *f)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisQmp) qmp = stasis_qmp_connect(f->socket, HANG_US / 1000, &error);
    g_assert_no_error(error);
    g_autofree char *state = stasis_qmp_run_state(qmp, &error);
    g_assert_no_error(error);
}

static void test_killed_armed(Fixture *f, gconstpointer data)
{
    const Hold how[] = { HOLD_ARMED, HOLD_MID_COMMAND, HOLD_BUSY };
    for (guint i = 0; i < 6; i++) {
        pid_t pid = start_holder(f, how[i % 3]);
        /* Alone, or with its whole process group, as a shell does it. */
        guint64 killed_us = stasis_now_us();
        g_assert_cmpint(kill(i < 3 ? pid : -pid, SIGKILL), ==, 0);
        check_resumed(f, killed_us);
        await_lifeline_end(pid);
        g_assert_true(is_running(f));
        check_monitor_free(f);
    }
}

static void test_ended_by_signal(Fixture *f, gconstpointer data)
{
    const int signals[] = { SIGTERM, SIGINT, SIGHUP };
    for (guint i = 0; i < G_N_ELEMENTS(signals); i++) {
        pid_t pid = start_holder(f, HOLD_ARMED);
        guint64 killed_us = stasis_now_us();
        kill(-pid, signals[i]);
        check_resumed(f, killed_us);
        await_lifeline_end(pid);
    }
}

static void test_killed_unarmed(Fixture *f, gconstpointer data)
{
    for (guint i = 0; i < 2; i++) {
        pid_t pid = start_holder(f, i == 0 ? HOLD_UNARMED : HOLD_DISARMED);
        kill(pid, SIGKILL);
        await_lifeline_end(pid);
        check_monitor_free(f);
        g_assert_false(is_running(f));
        test_command(f->qemu, "{\"execute\":\"cont\"}\n");
    }
}

/* The VM goes on first, then what was left behind is cleared away, if there is something. */
static void test_sweeper(Fixture *f, gconstpointer data)
{
    g_autofree char *swept = g_strdup_printf("%s.swept", f->socket);
    for (guint untidy = 0; untidy < 2; untidy++) {
        pid_t pid = start_holder(f, untidy ? HOLD_UNTIDY : HOLD_TIDIED);
        guint64 killed_us = stasis_now_us();
        kill(-pid, SIGKILL);
        check_resumed(f, killed_us);
        await_lifeline_end(pid);
        g_assert_cmpint(g_file_test(swept, G_FILE_TEST_EXISTS), ==, untidy);
        check_monitor_free(f);
    }
    unlink(swept);
}

/* A VM that is marked runs again without its mark, or stays as it is with it. */
static void test_mark(Fixture *f, gconstpointer data)
{
    g_autofree char *mark = g_strdup_printf("%s.mark", f->socket);
    for (guint armed = 0; armed < 2; armed++) {
        g_autoptr(GError) error = NULL;
        g_file_set_contents(mark, "half way", -1, &error);
        g_assert_no_error(error);
        pid_t pid = start_holder(f, armed ? HOLD_ARMED : HOLD_MARKED);
        kill(pid, SIGKILL);
        await_lifeline_end(pid);
        g_assert_cmpint(is_running(f), ==, armed);
        g_assert_cmpint(g_file_test(mark, G_FILE_TEST_EXISTS), ==, !armed);
        test_command(f->qemu, "{\"execute\":\"cont\"}\n");
    }
    /* A mark that can't be taken back keeps the VM where it is. */
    g_assert_cmpint(g_mkdir(mark, 0700), ==, 0);
    pid_t pid = start_holder(f, HOLD_ARMED);
    kill(pid, SIGKILL);
    await_lifeline_end(pid);
    g_assert_false(is_running(f));
    g_rmdir(mark);
}

/* ---- in one process ---- */

static StasisQmp *connect_first(Fixture *f)
{
    g_autoptr(GError) error = NULL;
    StasisQmp *qmp = stasis_qmp_connect(f->socket, HANG_US / 1000, &error);
    g_assert_no_error(error);
    return qmp;
}

static StasisLifeline *new_lifeline(StasisQmp *qmp)
{
    g_autoptr(GError) error = NULL;
    StasisLifeline *lifeline = stasis_lifeline_new(qmp, &error);
    g_assert_no_error(error);
    return lifeline;
}

/* Nothing of it is left, and it is not waited for again. */
static void check_no_child(Fixture *f)
{
    g_assert_cmpint(waitpid(-1, NULL, WNOHANG), ==, 0); /* QEMU only */
    g_assert_cmpint(kill(f->qemu->pid, 0), ==, 0);
}

static void test_fire(Fixture *f, gconstpointer data)
{
    StasisQmp *qmp = connect_first(f);
    for (guint armed = 0; armed < 2; armed++) {
        g_autoptr(StasisLifeline) lifeline = new_lifeline(qmp);
        if (armed)
            stasis_lifeline_arm(lifeline);
        test_command(f->qemu, "{\"execute\":\"stop\"}\n");
        stasis_lifeline_fire(lifeline);
        g_assert_cmpint(is_running(f), ==, armed);
        check_no_child(f);
        stasis_lifeline_fire(lifeline); /* once is all */
        stasis_lifeline_disarm(lifeline);
        if (armed) {
            test_command(f->qemu, "{\"execute\":\"stop\"}\n");
            stasis_lifeline_fire(lifeline);
            g_assert_false(is_running(f));
        }
    }
    stasis_qmp_free(qmp);
}

/* As in a checkpoint that went well: armed for the stop, disarmed after it, freed. Over and over
 * no process and no descriptor is left, and the connection is not disturbed. */
static void test_normal(Fixture *f, gconstpointer data)
{
    StasisQmp *qmp = connect_first(f);
    guint n_before = 0, n_after = 0;
    for (guint i = 0; i < 30; i++) {
        g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);
        for (n_after = 0; g_dir_read_name(dir) != NULL;)
            n_after++;
        n_before = i == 0 ? n_after : n_before;
        g_autoptr(GError) error = NULL;
        g_autoptr(StasisLifeline) lifeline = new_lifeline(qmp);
        stasis_lifeline_arm(lifeline);
        stasis_qmp_execute_line(qmp, "{\"execute\":\"stop\"}\n", 0, &error);
        g_assert_no_error(error);
        if (i % 2)
            stasis_qmp_execute_line(qmp, "{\"execute\":\"cont\"}\n", 0, &error);
        g_assert_no_error(error);
        stasis_lifeline_disarm(lifeline);
        g_clear_pointer(&lifeline, stasis_lifeline_free);
        g_assert_cmpint(is_running(f), ==, i % 2);
        check_no_child(f);
        g_autofree char *state = stasis_qmp_run_state(qmp, &error);
        g_assert_no_error(error);
        test_command(f->qemu, "{\"execute\":\"cont\"}\n");
    }
    g_assert_cmpuint(n_after, ==, n_before);
    stasis_qmp_free(qmp);
}

/* PIDs of our children, from /proc. */
static pid_t find_child(pid_t but)
{
    g_autoptr(GDir) dir = g_dir_open("/proc", 0, NULL);
    for (const char *name; (name = g_dir_read_name(dir)) != NULL;) {
        g_autofree char *path = g_strdup_printf("/proc/%s/stat", name);
        g_autofree char *text = NULL;
        int parent = 0;
        if (!g_ascii_isdigit(*name) || !g_file_get_contents(path, &text, NULL, NULL) ||
            sscanf(strrchr(text, ')') + 1, " %*c %d", &parent) != 1)
            continue;
        if (parent == getpid() && atoi(name) != but)
            return atoi(name);
    }
    return 0;
}

/* It has the monitor and our end, and nothing else: no guest memory, no userfaultfd, no lock. */
static void test_few_descriptors(Fixture *f, gconstpointer data)
{
    StasisQmp *qmp = connect_first(f);
    int extra[] = { dup(2), memfd_create("guest-ram", 0), dup2(2, 700), open("/dev/null", O_RDWR) };
    g_autoptr(StasisLifeline) lifeline = new_lifeline(qmp);
    pid_t pid = find_child(f->qemu->pid);
    g_assert_cmpint(pid, >, 0);
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", (int)pid);
    guint64 deadline = stasis_now_us() + HANG_US;
    for (guint n = 0; n != 2;) {
        g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
        for (n = 0; g_dir_read_name(dir) != NULL;)
            n++;
        g_assert_cmpuint(stasis_now_us(), <, deadline);
        g_usleep(1000);
    }
    for (guint i = 0; i < G_N_ELEMENTS(extra); i++)
        close(extra[i]);
    g_clear_pointer(&lifeline, stasis_lifeline_free);
    stasis_qmp_free(qmp);
}

static void stop_by(Fixture *f, StasisQmp *qmp, StasisLifeline *lifeline, gboolean wanted_by_us)
{
    g_autoptr(GError) error = NULL;
    gboolean by_us = !wanted_by_us;
    g_assert_true(stasis_lifeline_stop(lifeline, qmp, &by_us, &error));
    g_assert_no_error(error);
    g_assert_cmpint(by_us, ==, wanted_by_us);
    g_assert_false(is_running(f));
}

/* A stop of ours is under the lifeline until the VM goes on; one of somebody else's is not. */
static void test_stop(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    StasisQmp *qmp = connect_first(f);
    StasisLifeline *lifeline = new_lifeline(qmp);
    stop_by(f, qmp, lifeline, TRUE);
    g_assert_true(stasis_lifeline_resume(lifeline, qmp, &error));
    g_assert_no_error(error);
    g_assert_true(is_running(f));
    test_command(f->qemu, "{\"execute\":\"stop\"}\n");
    stop_by(f, qmp, lifeline, FALSE);
    stasis_lifeline_free(lifeline);
    g_assert_false(is_running(f));
    test_command(f->qemu, "{\"execute\":\"cont\"}\n");
    lifeline = new_lifeline(qmp);
    stop_by(f, qmp, lifeline, TRUE);
    stasis_lifeline_free(lifeline);
    g_assert_true(is_running(f));
    stasis_qmp_free(qmp);
}

/* Our end of the connection is lost: the lifeline, which has its own, says "cont". */
static void test_resume_lost(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    gboolean by_us = FALSE;
    StasisQmp *qmp = connect_first(f);
    g_autoptr(StasisLifeline) lifeline = new_lifeline(qmp);
    stop_by(f, qmp, lifeline, TRUE);
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    g_assert_cmpint(dup2(null_fd, socket_of(qmp)), >=, 0);
    close(null_fd);
    g_assert_false(stasis_lifeline_resume(lifeline, qmp, &error));
    g_assert_nonnull(error);
    g_assert_true(is_running(f));
    check_no_child(f);
    /* And a stop that can't be said may have been heard. */
    stasis_lifeline_free(lifeline);
    lifeline = new_lifeline(f->qemu->qmp);
    g_assert_false(stasis_lifeline_stop(lifeline, qmp, &by_us, NULL));
    g_assert_true(by_us);
    test_command(f->qemu, "{\"execute\":\"stop\"}\n");
    stasis_lifeline_fire(lifeline);
    g_assert_true(is_running(f));
    stasis_qmp_free(qmp);
}

/* QEMU is gone: nobody waits for its answer for long. */
static void test_qemu_gone(Fixture *f, gconstpointer data)
{
    StasisQmp *qmp = connect_first(f);
    StasisLifeline *lifeline = new_lifeline(qmp);
    stasis_lifeline_arm(lifeline);
    kill(f->qemu->pid, SIGKILL);
    guint64 begin = stasis_now_us();
    stasis_lifeline_free(lifeline);
    g_assert_cmpuint(stasis_now_us() - begin, <, HANG_US);
    stasis_qmp_free(qmp);
}

int main(int argc, char **argv)
{
    be_holder(argc, argv);
    test_program = g_canonicalize_filename(argv[0], NULL);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    g_test_init(&argc, &argv, NULL);
#define ADD(name, func) g_test_add("/vmm/lifeline/" name, Fixture, NULL, set_up, func, tear_down)
    ADD("killed-armed", test_killed_armed);
    ADD("ended-by-signal", test_ended_by_signal);
    ADD("killed-unarmed", test_killed_unarmed);
    ADD("sweeper", test_sweeper);
    ADD("mark", test_mark);
    ADD("fire", test_fire);
    ADD("normal", test_normal);
    ADD("few-descriptors", test_few_descriptors);
    ADD("stop", test_stop);
    ADD("resume-lost", test_resume_lost);
    ADD("qemu-gone", test_qemu_gone);
    return g_test_run();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a system call run inside another process does what it should, and the process does not
 * notice: not its registers, its waits, its signals, nor our death in the middle. */
#include "test-track-inject.h"

#include <stasis/error.h>

#include "track/inject.h"
#include "track/tracker.h"
#include "track/uffd.h"

typedef struct {
    SubjectProcess *p;
    guint n_calls;
} Call;

static const unsigned long none[6];

static gboolean call_getpid(StasisInject *inject, gpointer data, GError **error)
{
    Call *call = data;
    for (guint i = 0; i < call->n_calls; i++) {
        long r = stasis_inject_syscall(inject, SYS_getpid, none);
        if (r == call->p->pid)
            continue;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "getpid there is %ld", r);
        return FALSE;
    }
    return TRUE;
}

static void inject(SubjectProcess *p, guint n_calls)
{
    g_autoptr(GError) error = NULL;
    stasis_inject(p->pid, call_getpid, &(Call){ p, n_calls }, &error);
    g_assert_no_error(error);
}

/* ---- results ---- */

static gboolean call_many(StasisInject *inject, gpointer data, GError **error)
{
    SubjectProcess *p = ((Call *)data)->p;
    long pid = stasis_inject_syscall(inject, SYS_getpid, none);
    g_assert_cmpint(pid, ==, p->pid);
    unsigned long open_args[6] = { (unsigned long)AT_FDCWD, p->shared->path_address, O_RDWR };
    long fd = stasis_inject_syscall(inject, SYS_openat, open_args);
    g_assert_cmpint(fd, >=, 0);
    g_autofree char *path = g_strdup_printf("/proc/%d/fd/%ld", (int)p->pid, fd);
    g_autofree char *target = g_file_read_link(path, NULL);
    g_assert_cmpstr(target, ==, "/dev/null");
    unsigned long close_args[6] = { (unsigned long)fd };
    g_assert_cmpint(stasis_inject_syscall(inject, SYS_close, close_args), ==, 0);
    g_assert_cmpint(stasis_inject_syscall(inject, SYS_close, close_args), ==, -EBADF);
    g_assert_false(g_file_test(path, G_FILE_TEST_IS_SYMLINK));
    g_assert_cmpint(stasis_inject_syscall(inject, 100000, none), ==, -ENOSYS);
    /* All six arguments arrive: an anonymous page at an address of our choosing. */
    unsigned long map_args[6] = {
        0x60000000,        4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
        (unsigned long)-1, 0
    };
    g_assert_cmpint(stasis_inject_syscall(inject, SYS_mmap, map_args), ==, 0x60000000);
    unsigned long unmap_args[6] = { 0x60000000, 4096 };
    g_assert_cmpint(stasis_inject_syscall(inject, SYS_munmap, unmap_args), ==, 0);
    return TRUE;
}

static gboolean call_and_fail(StasisInject *inject, gpointer data, GError **error)
{
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_BUSY, "for a reason of its own");
    return FALSE;
}

static void test_results(gconstpointer data)
{
    SubjectKind kind = (SubjectKind)GPOINTER_TO_INT(data);
    g_autoptr(SubjectProcess) p = subject_new(kind);
    g_autoptr(GError) error = NULL;
    g_autofree char *before = subject_status(p->pid, "SigBlk:");
    for (guint i = 0; i < 5; i++) {
        stasis_inject(p->pid, call_many, &(Call){ p }, &error);
        g_assert_no_error(error);
    }
    g_assert_false(stasis_inject(p->pid, call_and_fail, NULL, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_BUSY);
    if (kind != SUBJECT_COMPUTE)
        subject_await_state(p->pid, 'S');
    g_autofree char *after = subject_status(p->pid, "SigBlk:");
    g_assert_cmpstr(after, ==, before);
    g_autofree char *tracer = subject_status(p->pid, "TracerPid:");
    g_assert_cmpstr(tracer, ==, "TracerPid:\t0");
    subject_check_goes_on(p, kind);
}

/* ---- waits go on where they were ---- */

/* A bounded wait ends by itself however often it is disturbed, and neither early nor with EINTR. */
static void test_bounded_wait(gconstpointer data)
{
    SubjectKind kind = (SubjectKind)GPOINTER_TO_INT(data);
    g_autoptr(SubjectProcess) p = subject_new(kind);
    guint n = 0;
    guint64 deadline = stasis_now_us() + SUBJECT_HANG_US;
    for (; subject_get(&p->shared->loops) < 4; n++) {
        inject(p, 1 + n % 3);
        g_usleep(2000);
        g_assert_cmpuint(stasis_now_us(), <, deadline);
    }
    g_test_message("%u injections, longest wait %" G_GUINT64_FORMAT " us", n,
                   p->shared->worst_late_us);
    g_assert_cmpuint(n, >, 4);
    g_assert_cmpuint(subject_get(&p->shared->n_eintr), ==, 0);
    g_assert_cmpuint(subject_get(&p->shared->wrong), ==, 0);
}

/* A wait without end stays one, and ends for what it waits for. */
static void test_endless_wait(gconstpointer data)
{
    SubjectKind kind = (SubjectKind)GPOINTER_TO_INT(data);
    g_autoptr(SubjectProcess) p = subject_new(kind);
    for (guint round = 0; round < 5; round++) {
        guint64 loops = subject_get(&p->shared->loops);
        for (guint i = 0; i < 20; i++)
            inject(p, 1 + i % 3);
        subject_await_state(p->pid, 'S');
        g_assert_cmpuint(subject_get(&p->shared->loops), ==, loops);
        subject_check_goes_on(p, kind);
        g_assert_cmpuint(subject_get(&p->shared->loops), ==, loops + 1);
    }
    g_assert_cmpuint(subject_get(&p->shared->n_eintr), ==, 0);
    g_assert_cmpuint(subject_get(&p->shared->n_signals), ==, kind == SUBJECT_PPOLL ? 5 : 0);
}

static void test_registers(void)
{
    g_autoptr(SubjectProcess) p = subject_new(SUBJECT_COMPUTE);
    for (guint i = 0; i < 80; i++)
        inject(p, 1 + i % 3);
    subject_check_goes_on(p, SUBJECT_COMPUTE);
}

/* A process that someone has stopped stays stopped, whether the calls could be made or not. */
static void test_stopped(void)
{
    g_autoptr(SubjectProcess) p = subject_new(SUBJECT_COMPUTE);
    kill(p->pid, SIGSTOP);
    subject_await_state(p->pid, 'T');
    guint64 loops = subject_get(&p->shared->loops);
    for (guint i = 0; i < 5; i++) {
        g_autoptr(GError) error = NULL;
        stasis_inject(p->pid, call_getpid, &(Call){ p, 2 }, &error);
        g_test_message("stopped: %s", error != NULL ? error->message : "done");
        subject_await_state(p->pid, 'T');
    }
    g_usleep(20000);
    g_assert_cmpuint(subject_get(&p->shared->loops), <=, loops + 1);
    kill(p->pid, SIGCONT);
    subject_check_goes_on(p, SUBJECT_COMPUTE);
}

/* ---- signals ---- */

static gboolean call_itimer(StasisInject *inject, gpointer data, GError **error)
{
    const unsigned long args[6] = { ITIMER_REAL, *(unsigned long *)data, 0 };
    g_assert_cmpint(stasis_inject_syscall(inject, SYS_setitimer, args), ==, 0);
    return TRUE;
}

typedef struct {
    pid_t pid;
    guint64 n_sent;
    gint quit;
} Sender;

/* Real-time signals queue: each is counted there. */
static gpointer send_signals(gpointer data)
{
    Sender *sender = data;
    while (!g_atomic_int_get(&sender->quit)) {
        if (sigqueue(sender->pid, SIGRTMIN, (union sigval){ 0 }) == 0)
            sender->n_sent++;
        g_usleep(300);
    }
    return NULL;
}

static void test_signals_queued(gconstpointer data)
{
    SubjectKind kind = (SubjectKind)GPOINTER_TO_INT(data);
    g_autoptr(SubjectProcess) p = subject_new(kind);
    Sender sender = { .pid = p->pid };
    GThread *thread = g_thread_new("send", send_signals, &sender);
    for (guint i = 0; i < 250; i++)
        inject(p, 2);
    g_atomic_int_set(&sender.quit, TRUE);
    g_thread_join(thread);
    for (guint i = 0; i < 2000 && subject_get(&p->shared->n_signals) < sender.n_sent; i++)
        g_usleep(1000);
    g_test_message("%" G_GUINT64_FORMAT " signals sent, %" G_GUINT64_FORMAT " handled",
                   sender.n_sent, subject_get(&p->shared->n_signals));
    g_assert_cmpuint(subject_get(&p->shared->n_signals), ==, sender.n_sent);
    subject_check_goes_on(p, kind);
}

/* An interval timer of its own, 1 kHz. The address of struct itimerval is in the shared memory. */
static void test_signals_timer(void)
{
    g_autoptr(SubjectProcess) p = subject_new(SUBJECT_COMPUTE);
    g_autoptr(GError) error = NULL;
    struct itimerval every_ms = { { 0, 1000 }, { 0, 1000 } }, off = { 0 };
    G_STATIC_ASSERT(sizeof(every_ms) <= sizeof(p->shared->path));
    memcpy(p->shared->path, &every_ms, sizeof(every_ms));
    stasis_inject(p->pid, call_itimer, &p->shared->path_address, &error);
    g_assert_no_error(error);
    for (guint i = 0; i < 200; i++)
        inject(p, 10);
    guint64 n = subject_get(&p->shared->n_signals);
    g_test_message("%" G_GUINT64_FORMAT " timer signals handled", n);
    g_assert_cmpuint(n, >, 20);
    /* The timer still ticks. */
    subject_await(&p->shared->n_signals, n + 50);
    memcpy(p->shared->path, &off, sizeof(off));
    stasis_inject(p->pid, call_itimer, &p->shared->path_address, &error);
    g_assert_no_error(error);
    subject_check_goes_on(p, SUBJECT_COMPUTE);
}

/* ---- we die in the middle ---- */

/* As "--injector PID", with STASIS_FAULT in the environment. */
static void be_injector(int argc, char **argv)
{
    if (argc != 3 || strcmp(argv[1], "--injector") != 0)
        return;
    g_autoptr(StasisUffd) uffd =
        stasis_uffd_create(atoi(argv[2]), NULL, STASIS_UFFD_ASYNC_FEATURES, FALSE, NULL);
    _exit(uffd != NULL ? 0 : 1);
}

static void die_at(const char *point, pid_t pid)
{
    int status;
    char word[16];
    g_snprintf(word, sizeof(word), "%d", (int)pid);
    pid_t injector = fork();
    if (injector == 0) {
        setenv("STASIS_FAULT", point, 1);
        execl(test_program, test_program, "--injector", word, NULL);
        _exit(127);
    }
    g_assert_cmpint(waitpid(injector, &status, 0), ==, injector);
    g_assert_true(WIFSIGNALED(status));
    g_assert_cmpint(WTERMSIG(status), ==, SIGKILL);
}

static guint count_uffds(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", (int)pid);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    guint n = 0;
    for (const char *name; (name = g_dir_read_name(dir)) != NULL;) {
        g_autofree char *link = g_build_filename(path, name, NULL);
        g_autofree char *target = g_file_read_link(link, NULL);
        n += target != NULL && strstr(target, "userfaultfd") != NULL;
    }
    return n;
}

#define DEATHS 6u

static void test_death(gconstpointer data)
{
    static const char *const points[] = { "uffd-injecting", "uffd-injected", "uffd-fetched" };
    SubjectKind kind = (SubjectKind)GPOINTER_TO_INT(data);
    g_autoptr(SubjectProcess) p = subject_new(kind);
    g_autoptr(GError) error = NULL;
    g_autofree char *before = subject_status(p->pid, "SigBlk:");
    for (guint i = 0; i < DEATHS; i++) {
        guint64 n_eintr = subject_get(&p->shared->n_eintr);
        die_at(points[i % G_N_ELEMENTS(points)], p->pid);
        if (kind != SUBJECT_COMPUTE)
            subject_await_state(p->pid, 'S');
        g_assert_cmpuint(count_uffds(p->pid), <=, i % G_N_ELEMENTS(points) + 1);
        subject_check_goes_on(p, kind);
        g_assert_cmpuint(subject_get(&p->shared->n_eintr), <=, n_eintr + 1);
        if (kind != SUBJECT_COMPUTE)
            subject_await_state(p->pid, 'S');
        if (i % 3 == 2) {
            stasis_tracker_sweep(p->pid, &error);
            g_assert_no_error(error);
            g_assert_cmpuint(count_uffds(p->pid), ==, 0);
        }
    }
    g_autofree char *tracer = subject_status(p->pid, "TracerPid:");
    g_assert_cmpstr(tracer, ==, "TracerPid:\t0");
    subject_check_goes_on(p, kind);
}

/* Its signals are not left blocked. */
static void test_death_mask(gconstpointer data)
{
    g_autoptr(SubjectProcess) p = subject_new(SUBJECT_POLL);
    g_autofree char *before = subject_status(p->pid, "SigBlk:");
    die_at(data, p->pid);
    subject_check_goes_on(p, SUBJECT_POLL);
    subject_await_state(p->pid, 'S');
    g_autofree char *after = subject_status(p->pid, "SigBlk:");
    g_assert_cmpstr(after, ==, before);
    kill(p->pid, SIGUSR1);
    subject_await(&p->shared->n_signals, 1);
}

/* ---- refused ---- */

static void test_refused(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(SubjectProcess) p = subject_new(SUBJECT_COMPUTE);
    pid_t dead = fork();
    if (dead == 0)
        _exit(0);
    g_assert_cmpint(waitpid(dead, NULL, 0), ==, dead);
    g_assert_false(stasis_inject(dead, call_getpid, &(Call){ p, 1 }, &error));
    g_assert_nonnull(error);
    g_clear_error(&error);
    /* Someone else traces it: refused by name, and it goes on. */
    int ends[2];
    char byte;
    g_assert_cmpint(pipe2(ends, O_CLOEXEC), ==, 0);
    pid_t tracer = fork();
    if (tracer == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        long r = syscall(SYS_ptrace, 0x4206 /* PTRACE_SEIZE */, p->pid, 0, 0);
        byte = r == 0 ? 'y' : 'n';
        while (write(ends[1], &byte, 1) == 1)
            pause();
        _exit(0);
    }
    g_assert_cmpint(read(ends[0], &byte, 1), ==, 1);
    g_assert_cmpint(byte, ==, 'y');
    g_assert_false(stasis_inject(p->pid, call_getpid, &(Call){ p, 1 }, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED);
    g_assert_nonnull(strstr(error->message, "debugger"));
    subject_check_goes_on(p, SUBJECT_COMPUTE);
    kill(tracer, SIGKILL);
    g_assert_cmpint(waitpid(tracer, NULL, 0), ==, tracer);
    close(ends[0]);
    close(ends[1]);
    inject(p, 1);
    subject_check_goes_on(p, SUBJECT_COMPUTE);
}

static void add(const char *what, SubjectKind kind, GTestDataFunc func)
{
    g_autofree char *path = g_strdup_printf("/track/inject/%s/%s", what, subject_names[kind]);
    g_test_add_data_func(path, GINT_TO_POINTER(kind), func);
}

int main(int argc, char **argv)
{
    subject_be(argc, argv);
    be_injector(argc, argv);
    test_program = g_canonicalize_filename(argv[0], NULL);
    g_test_init(&argc, &argv, NULL);
    for (guint kind = 0; kind < SUBJECT_N; kind++)
        add("results", (SubjectKind)kind, test_results);
    add("bounded-wait", SUBJECT_POLL, test_bounded_wait);
    add("bounded-wait", SUBJECT_NANOSLEEP, test_bounded_wait);
    add("endless-wait", SUBJECT_READ, test_endless_wait);
    add("endless-wait", SUBJECT_PPOLL, test_endless_wait);
    add("endless-wait", SUBJECT_FUTEX, test_endless_wait);
    g_test_add_func("/track/inject/registers", test_registers);
    g_test_add_func("/track/inject/stopped", test_stopped);
    g_test_add_func("/track/inject/refused", test_refused);
    g_test_add_func("/track/inject/timer", test_signals_timer);
    for (guint kind = 0; kind < SUBJECT_N; kind++)
        add("death", (SubjectKind)kind, test_death);
    add("queued-signals", SUBJECT_COMPUTE, test_signals_queued);
    add("queued-signals", SUBJECT_PPOLL, test_signals_queued);
    g_test_add_data_func("/track/inject/death-mask/injecting", "uffd-injecting", test_death_mask);
    g_test_add_data_func("/track/inject/death-mask/injected", "uffd-injected", test_death_mask);
    g_test_add_data_func("/track/inject/death-mask/fetched", "uffd-fetched", test_death_mask);
    return g_test_run();
}

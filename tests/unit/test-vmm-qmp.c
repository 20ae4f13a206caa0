/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a monitor is driven with low latency, and whatever its peer does (hold it, hang, die,
 * talk nonsense) is an error in bounded time, never a crash or a wrong answer. */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/json.h"
#include "vmm/qmp-line.h"
#include "vmm/qmp.h"

/* ---- against real QEMU ---- */

/* Until what takes no time counts as hanging: a busy machine has other things to do. */
#define HANG_US 120000000u

typedef struct {
    char *dir, *sock;
    GPid pid; /* as started; with -daemonize that process has ended */
} Vm;

/* QEMU ends with us even when an assertion fails. */
static void end_with_parent(gpointer data)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static void vm_up(Vm *vm, gconstpointer machine)
{
    g_autoptr(GError) error = NULL;
    vm->dir = g_dir_make_tmp("stasis-qmp-XXXXXX", &error);
    g_assert_no_error(error);
    vm->sock = g_build_filename(vm->dir, "q", NULL);
    g_autofree char *qmp = g_strdup_printf("unix:%s,server=on,wait=off", vm->sock);
    const char *argv[] = { "qemu-system-x86_64",
                           "-M",
                           machine,
                           "-accel",
                           "tcg",
                           "-display",
                           "none",
                           "-m",
                           "32",
                           "-S",
                           "-qmp",
                           qmp,
                           NULL };
    g_spawn_async(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD,
                  end_with_parent, NULL, &vm->pid, &error);
    g_assert_no_error(error);
}

static void vm_down(Vm *vm, gconstpointer machine)
{
    if (vm->pid > 0) {
        kill(vm->pid, SIGKILL);
        waitpid(vm->pid, NULL, 0);
    }
    g_unlink(vm->sock);
    g_rmdir(vm->dir);
    g_free(vm->sock);
    g_free(vm->dir);
}

/* QEMU binds the socket a moment before it listens. */
static StasisQmp *connect_when_up(const char *sock)
{
    g_autoptr(GError) error = NULL;
    StasisQmp *qmp = NULL;
    for (int i = 0; i < 4000 && qmp == NULL; i++) {
        g_clear_error(&error);
        qmp = stasis_qmp_connect(sock, 60000, &error);
        if (!g_error_matches(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND))
            break;
        g_usleep(5000);
    }
    g_assert_no_error(error);
    return qmp;
}

static StasisQmp *vm_connect(Vm *vm)
{
    return connect_when_up(vm->sock);
}

static void test_connect(Vm *vm, gconstpointer machine)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisQmp) qmp = vm_connect(vm);
    g_assert_cmpint(stasis_qmp_get_peer_pid(qmp), ==, vm->pid);
    g_assert_cmpuint(stasis_qmp_get_version_number(qmp), >=, 50000);
    g_assert_nonnull(strchr(stasis_qmp_get_version(qmp), '.'));
    g_autofree char *state = stasis_qmp_run_state(qmp, &error);
    g_assert_cmpstr(state, ==, "prelaunch");
    g_autofree char *text = stasis_qmp_human(qmp, "info status", &error);
    g_assert_nonnull(strstr(text, "paused"));
    /* a large answer: the schema is several hundred KiB */
    g_autoptr(JsonNode) schema = stasis_qmp_execute(qmp, "query-qmp-schema", NULL, -1, 0, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(json_array_get_length(json_node_get_array(schema)), >, 100);
}

static void test_error_reply(Vm *vm, gconstpointer machine)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisQmp) qmp = vm_connect(vm);
    g_assert_null(stasis_qmp_execute(qmp, "no-such-command", NULL, -1, 0, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_FAILED);
    g_assert_true(g_str_has_prefix(error->message, "no-such-command: The command"));
    g_clear_error(&error);
    g_assert_false(stasis_qmp_execute_line(qmp, "{\"execute\":\"device_del\"}\n", 0, &error));
    g_assert_nonnull(strstr(error->message, "device_del"));
    g_clear_error(&error);
    /* not JSON for QEMU: its error has no id and must still be taken as the answer */
    g_assert_false(stasis_qmp_execute_line(qmp, "{\"execute\":}\n", 60000, &error));
    g_clear_error(&error);
    g_assert_false(stasis_qmp_execute_line(qmp, "stop\n", 0, &error));
    g_clear_error(&error);
    g_autofree char *state = stasis_qmp_run_state(qmp, &error);
    g_assert_no_error(error);
}

static void test_second_client(Vm *vm, gconstpointer machine)
{
    g_autoptr(GError) error = NULL;
    StasisQmp *first = vm_connect(vm);
    guint64 start = stasis_now_us();
    g_assert_null(stasis_qmp_connect(vm->sock, 300, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_BUSY);
    g_assert_nonnull(strstr(error->message, "another client"));
    g_assert_cmpuint(stasis_now_us() - start, <, HANG_US);
    g_clear_error(&error);
    /* more of them than the socket's queue takes: still an answer in time */
    int waiting[8];
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    strcpy(address.sun_path, vm->sock);
    for (int i = 0; i < 8; i++) {
        waiting[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        connect(waiting[i], (struct sockaddr *)&address, sizeof address);
    }
    g_assert_null(stasis_qmp_connect(vm->sock, 300, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_BUSY);
    for (int i = 0; i < 8; i++)
        close(waiting[i]);
    stasis_qmp_free(first);
    stasis_qmp_free(vm_connect(vm));
}

static void test_events(Vm *vm, gconstpointer machine)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisQmp) qmp = vm_connect(vm);
    g_assert_cmpuint(stasis_qmp_wait_event(qmp, "RESUME", 0, 0), ==, 0);
    guint64 before = (guint64)g_get_real_time(), last_stop = 0;
    for (int i = 0; i < 5; i++) {
        g_assert_true(stasis_qmp_execute_line(qmp, "{\"execute\":\"cont\"}\n", 0, &error));
        guint64 resume = stasis_qmp_wait_event(qmp, "RESUME", last_stop, 60000);
        g_assert_cmpuint(resume, >, MAX(last_stop, before));
        g_assert_true(stasis_qmp_execute_line(qmp, "{\"execute\":\"stop\"}\n", 0, &error));
        last_stop = stasis_qmp_wait_event(qmp, "STOP", resume, 60000);
        g_assert_cmpuint(last_stop, >, resume);
    }
    g_assert_cmpuint(last_stop, <=, (guint64)g_get_real_time());
    /* none newer: the last one, after the time that was given for it */
    guint64 start = stasis_now_us();
    g_assert_cmpuint(stasis_qmp_wait_event(qmp, "STOP", last_stop, 100), ==, last_stop);
    g_assert_cmpuint(stasis_now_us() - start, >=, 99000);
    g_autofree char *state = stasis_qmp_run_state(qmp, &error);
    g_assert_cmpstr(state, ==, "paused");
}

static void test_pass_fd(Vm *vm, gconstpointer machine)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisQmp) qmp = vm_connect(vm);
    stasis_autofd int fd = memfd_create("passed", MFD_CLOEXEC);
    g_autoptr(JsonObject) arguments = json_object_new();
    json_object_set_int_member(arguments, "fdset-id", 7);
    g_autoptr(JsonNode) answer = stasis_qmp_execute(qmp, "add-fd", arguments, fd, 0, &error);
    g_assert_no_error(error);
    gint64 theirs = json_object_get_int_member(json_node_get_object(answer), "fd");
    g_autofree char *path = g_strdup_printf("/proc/%d/fd/%d", (int)vm->pid, (int)theirs);
    struct stat a, b;
    g_assert_cmpint(fstat(fd, &a), ==, 0);
    g_assert_cmpint(stat(path, &b), ==, 0);
    g_assert_cmpuint(a.st_ino, ==, b.st_ino);
}

/* QEMU stopped by a signal can't answer: an error in time, and the connection is done with. */
static void test_timeout(Vm *vm, gconstpointer machine)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisQmp) qmp = vm_connect(vm);
    kill(vm->pid, SIGSTOP);
    guint64 start = stasis_now_us();
    g_assert_false(stasis_qmp_execute_line(qmp, "{\"execute\":\"stop\"}\n", 200, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_FAILED);
    g_assert_cmpuint(stasis_now_us() - start, <, HANG_US);
    kill(vm->pid, SIGCONT);
    g_clear_error(&error);
    g_usleep(50000);
    g_assert_false(stasis_qmp_execute_line(qmp, "{\"execute\":\"cont\"}\n", 200, &error));
    g_assert_nonnull(strstr(error->message, "connect again"));
}

static void test_killed(Vm *vm, gconstpointer machine)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisQmp) qmp = vm_connect(vm);
    kill(vm->pid, SIGKILL);
    waitpid(vm->pid, NULL, 0);
    vm->pid = 0;
    g_assert_false(stasis_qmp_execute_line(qmp, "{\"execute\":\"stop\"}\n", 0, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_FAILED);
    g_clear_error(&error);
    g_assert_null(stasis_qmp_connect(vm->sock, 1000, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND);
}

static pid_t read_pidfile(const char *path)
{
    g_autofree char *text = NULL;
    g_file_get_contents(path, &text, NULL, NULL);
    return text != NULL ? (pid_t)g_ascii_strtoll(text, NULL, 10) : 0;
}

/* A daemonized QEMU, and one that was given its listening socket by somebody else (as libvirt
 * does): the PID is QEMU's all the same. */
static void test_peer_pid(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = g_dir_make_tmp("stasis-qmp-XXXXXX", &error);
    g_autofree char *sock = g_build_filename(dir, "q", NULL);
    g_autofree char *pidfile = g_build_filename(dir, "pid", NULL);
    g_autofree char *line =
        g_strdup_printf("qemu-system-x86_64 -M none -S -display none -daemonize -pidfile %s -qmp "
                        "unix:%s,server=on,wait=off",
                        pidfile, sock);
    g_assert_true(g_spawn_command_line_sync(line, NULL, NULL, NULL, &error));
    pid_t pid = read_pidfile(pidfile);
    StasisQmp *qmp = connect_when_up(sock);
    g_assert_cmpint(stasis_qmp_get_peer_pid(qmp), ==, pid);
    stasis_qmp_free(qmp);
    kill(pid, SIGKILL);
    g_unlink(sock);

    /* Another path: that QEMU takes its time to end, and has sockets of the first one until then.
     */
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    g_free(sock);
    sock = g_build_filename(dir, "given", NULL);
    strcpy(address.sun_path, sock);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0); /* inherited */
    g_assert_cmpint(bind(listener, (struct sockaddr *)&address, sizeof address), ==, 0);
    g_assert_cmpint(listen(listener, 1), ==, 0);
    g_autofree char *chardev = g_strdup_printf("socket,id=m,fd=%d,server=on,wait=off", listener);
    pid = fork();
    if (pid == 0) {
        execlp("qemu-system-x86_64", "qemu", "-M", "none", "-S", "-display", "none", "-chardev",
               chardev, "-mon", "chardev=m,mode=control", NULL);
        _exit(127);
    }
    close(listener);
    qmp = stasis_qmp_connect(sock, 60000, &error);
    g_assert_no_error(error);
    g_assert_cmpint(stasis_qmp_get_peer_pid(qmp), ==, pid);
    stasis_qmp_free(qmp);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    g_unlink(sock);
    g_unlink(pidfile);
    g_rmdir(dir);
}

/* A path longer than a socket address holds. */
static void test_long_path(Vm *vm, gconstpointer machine)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *name = g_strnfill(120, 'l');
    g_autofree char *deep = g_build_filename(vm->dir, name, NULL);
    g_autofree char *sock = g_build_filename(deep, "q", NULL);
    stasis_qmp_free(vm_connect(vm)); /* it is up */
    g_assert_cmpint(g_mkdir(deep, 0700), ==, 0);
    g_assert_cmpint(g_rename(vm->sock, sock), ==, 0);
    StasisQmp *qmp = connect_when_up(sock);
    stasis_qmp_free(qmp);
    g_unlink(sock);
    g_rmdir(deep);
}

/* ---- against an attacker ---- */

#define GREETING                                                                                   \
    "{\"QMP\":{\"version\":{\"qemu\":{\"micro\":1,\"minor\":2,\"major\":7}},\"capabilities\":[]}}" \
    "\n"
#define READY GREETING "{\"return\":{},\"id\":1}\n"

typedef struct {
    int fd;
    const char *says;    /* first, once */
    const char *repeats; /* then for ever, until we hang up; or NULL */
    gboolean hangs_up;
} Peer;

static gpointer peer_main(gpointer data)
{
    Peer *peer = data;
    gsize len = peer->repeats != NULL ? strlen(peer->repeats) : 0;
    while (len > 0 && send(peer->fd, peer->repeats, len, MSG_NOSIGNAL) > 0)
        ;
    char byte;
    while (!peer->hangs_up && recv(peer->fd, &byte, 1, 0) > 0)
        ;
    return NULL;
}

/* Open the conversation with a @peer and, when that works, run a command. */
static void talk_to(Peer *peer, guint timeout_ms, GError **error)
{
    int ends[2];
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
    peer->fd = ends[1];
    /* Before anybody waits: the peer's thread may be late. */
    gssize len = (gssize)strlen(peer->says);
    g_assert_cmpint(send(peer->fd, peer->says, (gsize)len, MSG_NOSIGNAL), ==, len);
    GThread *thread = g_thread_new("peer", peer_main, peer);
    StasisQmp *qmp = stasis_qmp_open_fd(ends[0], "peer", timeout_ms, NULL, error);
    if (peer->hangs_up)
        shutdown(ends[1], SHUT_RDWR);
    if (qmp != NULL)
        stasis_qmp_execute_line(qmp, "{\"execute\":\"stop\"}\n", timeout_ms, error);
    stasis_qmp_free(qmp);
    g_thread_join(thread);
    close(ends[1]);
}

static void test_hostile_peers(void)
{
    static const struct {
        const char *says, *repeats;
        int code;
    } rows[] = {
        { "hello\n", NULL, STASIS_ERROR_CORRUPT },
        { "(qemu) \n", NULL, STASIS_ERROR_CORRUPT },
        { "[]\n", NULL, STASIS_ERROR_CORRUPT },
        { "{}\n", NULL, STASIS_ERROR_CORRUPT },
        { "{\"QMP\":1}\n", NULL, STASIS_ERROR_CORRUPT },
        { "{\"QMP\":{\"version\":{\"qemu\":{\"major\":-1}}}}\n", NULL, STASIS_ERROR_CORRUPT },
        { "{\"QMP\"", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", STASIS_ERROR_CORRUPT },
        { "{\"QMP\":{\"version\":", "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", STASIS_ERROR_CORRUPT },
        { "", "{\"event\":\"X\",\"timestamp\":{\"seconds\":1,\"microseconds\":2}}\n",
          STASIS_ERROR_CORRUPT },
        /* never an answer, but never silent */
        { READY, "{\"event\":\"X\",\"timestamp\":{\"seconds\":1,\"microseconds\":2}}\n",
          STASIS_ERROR_FAILED },
        { READY, "{\"return\":{},\"id\":99}\n", STASIS_ERROR_FAILED },
        { READY, "{\"return\":{}}\n", STASIS_ERROR_FAILED },
        { READY "\"}\n", NULL, STASIS_ERROR_CORRUPT },
        { READY "{\"id\":2,\"return\":\n", NULL, STASIS_ERROR_CORRUPT },
        { READY "{\"id\":2,\"error\":[]}\n", NULL, STASIS_ERROR_FAILED },
        { READY "{\"id\":2,\"error\":{\"desc\":5}}\n", NULL, STASIS_ERROR_FAILED },
        { READY "{\"id\":2,\"error\":{\"desc\":\"a\\nb\\222\"}}\n", NULL, STASIS_ERROR_FAILED },
        { READY, NULL, STASIS_ERROR_FAILED },
        { "", NULL, STASIS_ERROR_BUSY },
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;
        Peer peer = { .says = rows[i].says, .repeats = rows[i].repeats };
        guint64 start = stasis_now_us();
        g_test_message("%s", rows[i].says);
        talk_to(&peer, rows[i].code == STASIS_ERROR_CORRUPT ? HANG_US / 2000 : 300, &error);
        g_assert_error(error, STASIS_ERROR, rows[i].code);
        g_assert_null(strchr(error->message, '\n'));
        g_assert_true(g_utf8_validate(error->message, -1, NULL));
        g_assert_cmpuint(stasis_now_us() - start, <, HANG_US);
    }
    g_autoptr(GError) error = NULL;
    Peer gone = { .says = READY, .hangs_up = TRUE };
    talk_to(&gone, 60000, &error);
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_FAILED); /* and no SIGPIPE */
}

/* QEMU may have something to tell before it greets. */
static void test_event_before_greeting(void)
{
    g_autoptr(GError) error = NULL;
    Peer peer = { .says =
                      "{\"event\":\"A\",\"timestamp\":{\"seconds\":1,\"microseconds\":0}}\n" READY
                      "{\"return\":{},\"id\":2}\n" };
    talk_to(&peer, 60000, &error);
    g_assert_no_error(error);
}

static void test_stale_answer(void)
{
    g_autoptr(GError) error = NULL;
    Peer peer = { .says =
                      READY "{\"return\":{},\"id\":1}\n{\"error\":{\"desc\":\"old\"},\"id\":0}\n"
                            "{\"return\":{},\"id\":2}\n" };
    talk_to(&peer, 60000, &error);
    g_assert_no_error(error);
}

/* What has come already counts, also behind other lines and with no time to wait. */
static void test_event_at_once(void)
{
    static const char said[] =
        READY "{\"event\":\"A\",\"timestamp\":{\"seconds\":1,\"microseconds\":0}}\n"
              "{\"event\":\"B\",\"timestamp\":{\"seconds\":2,\"microseconds\":0}}\n"
              "{\"event\":\"C\",\"timestamp\":{\"seconds\":3,\"microseconds\":0}}\n";
    int ends[2];
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
    g_assert_cmpint(write(ends[1], said, strlen(said)), ==, (gssize)strlen(said));
    g_autoptr(StasisQmp) qmp = stasis_qmp_open_fd(ends[0], "peer", 60000, NULL, NULL);
    g_assert_nonnull(qmp);
    g_assert_cmpuint(stasis_qmp_wait_event(qmp, "C", 0, 0), ==, 3000000);
    g_assert_cmpuint(stasis_qmp_wait_event(qmp, "A", 0, 0), ==, 1000000);
    close(ends[1]);
}

/* A disk that lies in 64 files is told of one in the other. */
static void test_deep_answer(void)
{
    int ends[2];
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
    g_autoptr(GString) says = g_string_new(READY "{\"return\":");
    for (guint i = 0; i < 70; i++)
        g_string_append(says, "{\"backing-image\":");
    g_string_append(says, "1");
    for (guint i = 0; i < 70; i++)
        g_string_append_c(says, '}');
    g_string_append(says, ",\"id\":2}\n");
    g_assert_cmpint(write(ends[1], says->str, says->len), ==, says->len);
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisQmp) qmp = stasis_qmp_open_fd(ends[0], "peer", 60000, NULL, &error);
    g_assert_no_error(error);
    g_autoptr(JsonNode) answer = stasis_qmp_execute(qmp, "query-block", NULL, -1, 60000, &error);
    g_assert_no_error(error);
    g_assert_true(JSON_NODE_HOLDS_OBJECT(answer));
    close(ends[1]);
}

#define EVENT(name, seconds) \
    "{\"event\":\"" name "\",\"timestamp\":{\"seconds\":" #seconds ",\"microseconds\":0}}\n"

static void tell(int fd, const char *said)
{
    g_assert_cmpint(write(fd, said, strlen(said)), ==, (gssize)strlen(said));
}

/* What QEMU says at its end is heard also by who only learns of that as he speaks. */
static void test_last_words(void)
{
    int ends[2];
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
    tell(ends[1], READY);
    g_autoptr(StasisQmp) qmp = stasis_qmp_open_fd(ends[0], "peer", 60000, NULL, NULL);
    g_assert_nonnull(qmp);
    tell(ends[1], EVENT("STOP", 100) EVENT("SHUTDOWN", 101));
    close(ends[1]);
    g_assert_false(stasis_qmp_execute_line(qmp, "{\"execute\":\"stop\"}\n", 60000, NULL));
    g_assert_cmpuint(stasis_qmp_wait_event(qmp, "SHUTDOWN", 0, 0), ==, 101000000);
}

/* Whoever else lets a stopped VM go on is noticed; a clock that was set back is nobody. */
static void test_resumed_by_others(void)
{
    int ends[2];
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
    tell(ends[1], READY EVENT("STOP", 100) EVENT("RESUME", 101));
    g_autoptr(StasisQmp) qmp = stasis_qmp_open_fd(ends[0], "peer", 60000, NULL, NULL);
    g_assert_nonnull(qmp);
    guint64 noted_us = stasis_qmp_wait_event(qmp, "RESUME", 0, 0);
    g_assert_cmpuint(noted_us, ==, 101000000);
    /* The clock was set back by a minute. */
    tell(ends[1], EVENT("STOP", 50) EVENT("A", 1));
    g_assert_cmpuint(stasis_qmp_wait_event(qmp, "A", 0, 60000), >, 0);
    g_assert_false(stasis_qmp_was_resumed(qmp, noted_us, 50000000));
    tell(ends[1], EVENT("RESUME", 51) EVENT("B", 1));
    g_assert_cmpuint(stasis_qmp_wait_event(qmp, "B", 0, 60000), >, 0);
    g_assert_true(stasis_qmp_was_resumed(qmp, noted_us, 50000000));
    /* One of ours that is told of only now. */
    tell(ends[1], EVENT("STOP", 60) EVENT("C", 1));
    g_assert_cmpuint(stasis_qmp_wait_event(qmp, "C", 0, 60000), >, 0);
    g_assert_false(stasis_qmp_was_resumed(qmp, 40000000, 60000000));
    close(ends[1]);
}

static gpointer cancel_soon(gpointer cancellable)
{
    g_usleep(100000);
    g_cancellable_cancel(cancellable);
    return NULL;
}

static void test_cancel(Vm *vm, gconstpointer machine)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_autoptr(StasisQmp) first = vm_connect(vm);
    GThread *thread = g_thread_new("cancel", cancel_soon, cancellable);
    guint64 start = stasis_now_us();
    g_assert_null(
        stasis_qmp_connect_cancellable(vm->sock, 2 * HANG_US / 1000, cancellable, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CANCELLED);
    g_assert_cmpuint(stasis_now_us() - start, <, HANG_US);
    g_thread_join(thread);
}

static void test_lines(void)
{
    static const struct {
        const char *text;
        gboolean ok;
        StasisQmpKind kind;
        gint64 id; /* -1: none */
        guint64 time_us;
    } rows[] = {
        { "{\"return\": {}, \"id\": 5}", TRUE, STASIS_QMP_RETURN, 5, 0 },
        { "{\"id\":5,\"return\":[{\"error\":1}]}\r", TRUE, STASIS_QMP_RETURN, 5, 0 },
        { "{\"return\": \"}\\\"{\", \"id\": \"5\"}", TRUE, STASIS_QMP_RETURN, -1, 0 },
        { "{\"error\":{\"class\":\"x\"}}", TRUE, STASIS_QMP_ERROR, -1, 0 },
        { "{\"timestamp\":{\"seconds\":7,\"microseconds\":12},\"event\":\"STOP\"}", TRUE,
          STASIS_QMP_EVENT, -1, 7000012 },
        { "{\"timestamp\":{\"seconds\":-1,\"microseconds\":-1},\"event\":\"STOP\"}", TRUE,
          STASIS_QMP_EVENT, -1, 0 },
        { "{\"QMP\": {}}", TRUE, STASIS_QMP_GREETING, -1, 0 },
        { "{}", TRUE, STASIS_QMP_OTHER, -1, 0 },
        { "{\"id\":99999999999999999999}", TRUE, STASIS_QMP_OTHER, -1, 0 },
        { "", FALSE, 0, 0, 0 },
        { "{", FALSE, 0, 0, 0 },
        { "{}x", FALSE, 0, 0, 0 },
        { "{\"a\"}", FALSE, 0, 0, 0 },
        { "{\"a\":}", FALSE, 0, 0, 0 },
        { "{\"a\":1 \"b\":2}", FALSE, 0, 0, 0 },
        { "{\"a\":[1}", FALSE, 0, 0, 0 },
        { "{\"a\":\"\\", FALSE, 0, 0, 0 },
        { "{,}", FALSE, 0, 0, 0 },
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        StasisQmpLine line;
        g_test_message("%s", rows[i].text);
        g_assert_cmpint(stasis_qmp_line_parse(rows[i].text, strlen(rows[i].text), &line), ==,
                        rows[i].ok);
        if (!rows[i].ok)
            continue;
        g_assert_cmpint(line.kind, ==, rows[i].kind);
        g_assert_cmpint(line.has_id ? (gint64)line.id : -1, ==, rows[i].id);
        g_assert_cmpuint(line.time_us, ==, rows[i].time_us);
    }
}

#define ADD_VM_TEST(name, machine, test) g_test_add(name, Vm, machine, vm_up, test, vm_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vmm/qmp/lines", test_lines);
    ADD_VM_TEST("/vmm/qmp/connect", "none", test_connect);
    ADD_VM_TEST("/vmm/qmp/error-reply", "none", test_error_reply);
    ADD_VM_TEST("/vmm/qmp/second-client", "none", test_second_client);
    ADD_VM_TEST("/vmm/qmp/events", "pc", test_events);
    ADD_VM_TEST("/vmm/qmp/pass-fd", "none", test_pass_fd);
    ADD_VM_TEST("/vmm/qmp/timeout", "none", test_timeout);
    ADD_VM_TEST("/vmm/qmp/killed", "none", test_killed);
    ADD_VM_TEST("/vmm/qmp/long-path", "none", test_long_path);
    ADD_VM_TEST("/vmm/qmp/cancel", "none", test_cancel);
    g_test_add_func("/vmm/qmp/peer-pid", test_peer_pid);
    g_test_add_func("/vmm/qmp/hostile-peers", test_hostile_peers);
    g_test_add_func("/vmm/qmp/event-at-once", test_event_at_once);
    g_test_add_func("/vmm/qmp/last-words", test_last_words);
    g_test_add_func("/vmm/qmp/resumed-by-others", test_resumed_by_others);
    g_test_add_func("/vmm/qmp/event-before-greeting", test_event_before_greeting);
    g_test_add_func("/vmm/qmp/stale-answer", test_stale_answer);
    g_test_add_func("/vmm/qmp/deep-answer", test_deep_answer);
    return g_test_run();
}

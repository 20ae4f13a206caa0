/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/ci/recorded.h"

#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <string.h>
#include <unistd.h>

#include "agent/field.h"
#include "agent/frame.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/io.h"
#include "engine/ci/bound.h"
#include "engine/ci/gdbstub.h"
#include "engine/ci/outcome.h"
#include "engine/ci/recorded-images.h"
#include "engine/guards/watch.h"
#include "engine/vm/session.h"
#include "vmm/cmdline.h"

#define MAX_APPEND 2000u /* x86's COMMAND_LINE_SIZE is 2048, with the zero byte */
#define EXEC_ID 2u
#define LOOK_US 20000
#define STATE_LOOK_US 200000
#define DEFAULT_QEMU "qemu-system-x86_64"

/* ---- what the agent is told ---- */

static void add_frame(GByteArray *words, guint8 type, guint16 code, guint64 id,
                      const StasisFieldWriter *fields)
{
    g_autofree guint8 *wire = g_malloc(STASIS_AGENT_MAX_WIRE);
    StasisAgentFrame frame = {
        .type = type, .code = code, .id = id, .payload = fields->payload, .length = fields->length
    };
    g_byte_array_append(words, wire, (guint)stasis_agent_frame_write(&frame, wire));
}

static void put_exec(StasisFieldWriter *fields, const StasisCiTest *test)
{
    for (guint i = 0; test->argv[i] != NULL; i++)
        stasis_field_put_text(fields, STASIS_AGENT_TAG_ARG, test->argv[i]);
    for (guint i = 0; test->env != NULL && test->env[i] != NULL; i++)
        stasis_field_put_text(fields, STASIS_AGENT_TAG_ENVIRONMENT, test->env[i]);
    stasis_field_put_text(fields, STASIS_AGENT_TAG_PATH, test->dir);
    if (test->max_output_bytes != 0)
        stasis_field_put_number(fields, STASIS_AGENT_TAG_LIMIT, test->max_output_bytes);
    stasis_field_put_number(fields, STASIS_AGENT_TAG_TIMEOUT, test->timeout_us / 1000);
}

char *stasis_recorded_append(const char *append, const StasisCiTest *test, GError **error)
{
    g_autofree guint8 *room = g_malloc(STASIS_AGENT_MAX_PAYLOAD);
    g_autoptr(GByteArray) words = g_byte_array_new();
    StasisFieldWriter hello = { .payload = room, .room = STASIS_AGENT_MAX_PAYLOAD };
    stasis_field_put_number(&hello, STASIS_AGENT_TAG_VERSION_MIN, STASIS_AGENT_VERSION_MIN);
    stasis_field_put_number(&hello, STASIS_AGENT_TAG_VERSION_MAX, STASIS_AGENT_VERSION_MAX);
    add_frame(words, STASIS_AGENT_HELLO, 0, EXEC_ID - 1, &hello);
    StasisFieldWriter exec = { .payload = room, .room = STASIS_AGENT_MAX_PAYLOAD };
    put_exec(&exec, test);
    add_frame(words, STASIS_AGENT_REQUEST, STASIS_AGENT_OP_EXEC, EXEC_ID, &exec);
    GString *line = g_string_new(append);
    g_string_append(line, " stasis.port=/dev/ttyS1 stasis.says=");
    for (guint i = 0; i < words->len; i++)
        g_string_append_printf(line, "%02x", words->data[i]);
    if (!exec.overflow && line->len <= MAX_APPEND)
        return g_string_free(line, FALSE);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                "the kernel's command line would have %" G_GSIZE_FORMAT
                " bytes with the test in it, of %u; put the test into a script in the guest",
                line->len, MAX_APPEND);
    g_string_free(line, TRUE);
    return NULL;
}

/* ---- what it answers ---- */

typedef struct {
    const StasisRecorded *recorded;
    StasisVm *vm;
    StasisSession *session;
    StasisWatch *watch;
    int answer_fd;
    StasisRecordedImages *images; /* or NULL: none are kept */
    StasisAgentDecoder decoder;
    guint64 start_us, end_us, state_looked_us;
    StasisOutcome *outcome;
} Run;

static void run_clear(Run *run)
{
    g_clear_pointer(&run->images, stasis_recorded_images_free);
    g_clear_pointer(&run->watch, stasis_watch_free);
    g_clear_pointer(&run->session, stasis_session_free);
    if (run->vm != NULL)
        stasis_vm_end_bound(run->vm, run->recorded->nursery); /* SIGTERM: QEMU completes its log */
    g_clear_pointer(&run->vm, stasis_vm_unref);
    stasis_close_fdp(&run->answer_fd);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Run, run_clear)

static gboolean conclude(Run *run, StasisOutcomeKind kind, int number, const char *detail)
{
    *run->outcome = (StasisOutcome){ kind, number, .took_us = stasis_now_us() - run->start_us };
    stasis_outcome_name(run->outcome);
    g_strlcpy(run->outcome->detail, detail != NULL ? detail : "", sizeof run->outcome->detail);
    return TRUE;
}

static gboolean take_end(Run *run, const StasisAgentFrame *frame)
{
    StasisField field;
    guint64 signal = stasis_field_number(frame->payload, frame->length, STASIS_AGENT_TAG_SIGNAL, 0);
    if (stasis_field_number(frame->payload, frame->length, STASIS_AGENT_TAG_TIMED_OUT, 0) != 0)
        return conclude(run, STASIS_OUTCOME_TIMEOUT, 0, NULL);
    if (signal != 0)
        return conclude(run, STASIS_OUTCOME_SIGNAL, (int)(signal & 0x7f), NULL);
    if (stasis_field_find(frame->payload, frame->length, STASIS_AGENT_TAG_EXIT_STATUS, &field))
        return conclude(run, STASIS_OUTCOME_EXIT, (int)(stasis_field_to_number(&field) & 0xff),
                        NULL);
    g_autofree char *message =
        stasis_field_find(frame->payload, frame->length, STASIS_AGENT_TAG_MESSAGE, &field)
            ? g_utf8_make_valid((const char *)field.value, (gssize)MIN(field.length, 200))
            : NULL;
    return conclude(run, STASIS_OUTCOME_LOST, 0, message);
}

static gboolean take_frame(Run *run, const StasisAgentFrame *frame)
{
    const StasisRecorded *recorded = run->recorded;
    StasisField field;
    if (frame->type != STASIS_AGENT_ANSWER || frame->id != EXEC_ID)
        return FALSE;
    if ((frame->flags & STASIS_AGENT_END) != 0)
        return take_end(run, frame);
    for (guint32 at = 0; stasis_field_next(frame->payload, frame->length, &at, &field);)
        if (recorded->output != NULL &&
            (field.tag == STASIS_AGENT_TAG_OUTPUT || field.tag == STASIS_AGENT_TAG_ERROR_OUTPUT))
            recorded->output(field.tag == STASIS_AGENT_TAG_ERROR_OUTPUT, field.value, field.length,
                             recorded->output_data);
    return FALSE;
}

static gboolean look_at_answer(Run *run)
{
    guint8 bytes[16384];
    ssize_t n;
    while ((n = read(run->answer_fd, bytes, sizeof bytes)) > 0) {
        for (gsize at = 0; at < (gsize)n;) {
            StasisAgentFrame frame;
            bool whole = false;
            at += stasis_agent_decode(&run->decoder, bytes + at, (gsize)n - at, &frame, &whole);
            if (whole && take_frame(run, &frame))
                return TRUE;
        }
    }
    return FALSE;
}

static gboolean look_at_console(Run *run)
{
    g_autoptr(StasisFailure) failure = stasis_watch_look(run->watch);
    return failure != NULL && conclude(run, stasis_outcome_kind(failure->kind), 0, failure->detail);
}

/* Under a debugger the monitor may be silent for minutes, while QEMU goes back by replaying from
 * the beginning: only its end is one. */
static gboolean look_at_debugged(Run *run)
{
    return !stasis_record_is_alive(run->session->record) &&
           (look_at_answer(run) || look_at_console(run) ||
            conclude(run, STASIS_OUTCOME_VM_END, 0, "QEMU has ended"));
}

/* A replay ends where its record did. */
static gboolean look_at_machine(Run *run)
{
    if (run->recorded->gdb != NULL)
        return look_at_debugged(run);
    guint64 now = stasis_now_us();
    if (now - run->state_looked_us < STATE_LOOK_US)
        return FALSE;
    run->state_looked_us = now;
    g_autofree char *state = stasis_qmp_run_state(run->session->qmp, NULL);
    if (state != NULL && strcmp(state, "shutdown") != 0 && strcmp(state, "internal-error") != 0)
        return FALSE;
    /* What it wrote last may have come since we looked. */
    return look_at_answer(run) || look_at_console(run) ||
           conclude(run, STASIS_OUTCOME_VM_END, 0, state);
}

static gboolean look(Run *run)
{
    if (look_at_answer(run) || look_at_console(run) || look_at_machine(run))
        return TRUE;
    return run->end_us != 0 && stasis_now_us() >= run->end_us &&
           conclude(run, STASIS_OUTCOME_TIMEOUT, 0, NULL);
}

/* ---- the machine ---- */

static void add(GPtrArray *argv, const char *option, char *value)
{
    g_ptr_array_add(argv, g_strdup(option));
    g_ptr_array_add(argv, value);
}

static GPtrArray *machine_argv(const StasisRecorded *r)
{
    GPtrArray *argv = g_ptr_array_new_with_free_func(g_free);
    g_autofree char *dir = stasis_optlist_escape(r->dir); /* who gave --scratch named it */
    g_ptr_array_add(argv, g_strdup(r->qemu != NULL ? r->qemu : DEFAULT_QEMU));
    g_ptr_array_add(argv, g_strdup("-nodefaults"));
    add(argv, "-m", g_strdup(r->test->memory));
    add(argv, "-accel", g_strdup("tcg"));
    add(argv, "-display", g_strdup("none"));
    add(argv, "-vga", g_strdup("none"));
    add(argv, "-nic", g_strdup("none"));
    add(argv, "-action", g_strdup("reboot=shutdown"));
    add(argv, "-kernel", g_canonicalize_filename(r->kernel, NULL));
    add(argv, "-append", g_strdup(r->test->append));
    if (r->initrd != NULL)
        add(argv, "-initrd", g_canonicalize_filename(r->initrd, NULL));
    add(argv, "-drive",
        g_strdup_printf("file=%s/" STASIS_RECORDED_DISK ",format=qcow2,if=none,id=rr", dir));
    add(argv, "-icount",
        g_strdup_printf("shift=5,rr=%s,rrfile=%s/" STASIS_RECORDED_LOG ",rrsnapshot=%s",
                        r->record ? "record" : "replay", dir,
                        r->from != NULL ? r->from : STASIS_RECORDED_BEGINNING));
    /* Its vmstate waits for the vCPU, which waits for who loads it: a QEMU that goes back to an
     * image in which this is active hangs (7.2; kvmvapic.c). Only Windows XP wants it. */
    add(argv, "-global", g_strdup("apic.vapic=off"));
    /* All behind "file:" is the path. */
    add(argv, "-serial", g_strdup_printf("file:%s/" STASIS_RECORDED_CONSOLE, r->dir));
    add(argv, "-serial", g_strdup_printf("file:%s/" STASIS_RECORDED_ANSWER, r->dir));
    g_ptr_array_add(argv, NULL);
    return argv;
}

/* Its log and its end are the monitor's to tell, see look_at_machine(). */
static StasisWatch *watch_console(const Run *run, GError **error)
{
    g_autoptr(GPtrArray) on = g_ptr_array_new();
    char **words = run->recorded->test->on;
    for (guint i = 0; words != NULL && words[i] != NULL; i++)
        g_ptr_array_add(on, words[i]);
    g_ptr_array_add(on, (gpointer) "panic");
    g_ptr_array_add(on, NULL);
    return stasis_watch_new(run->session->record, NULL, (const char *const *)on->pdata,
                            /* whole_console= */ TRUE, error);
}

static gboolean start(Run *run, GCancellable *cancellable, GError **error)
{
    const StasisRecorded *r = run->recorded;
    g_autofree char *name = g_strdup_printf("recorded-%08x", g_random_int());
    StasisRunOptions options = STASIS_RUN_OPTIONS_INIT;
    options.accel = "tcg";
    options.no_shim = TRUE;
    options.paused = r->gdb != NULL;
    g_autoptr(GPtrArray) argv = machine_argv(r);
    run->vm = stasis_vm_run_bound(name, &options, (const char *const *)argv->pdata, r->nursery,
                                  cancellable, error);
    run->session = run->vm != NULL ? stasis_session_open(name, STASIS_LOCK_WAIT_MS, error) : NULL;
    if (run->session == NULL)
        return FALSE;
    if (r->ret_qemu_version != NULL)
        *r->ret_qemu_version = g_strdup(stasis_qmp_get_version(run->session->qmp));
    g_autofree char *answer = g_build_filename(r->dir, STASIS_RECORDED_ANSWER, NULL);
    run->answer_fd = open(answer, O_RDONLY | O_CLOEXEC);
    if (run->answer_fd < 0)
        return stasis_set_errno(error, errno, "%s", answer);
    run->watch = watch_console(run, error);
    if (r->images != NULL)
        run->images = stasis_recorded_images_new(run->session->qmp, r->images);
    return run->watch != NULL;
}

static gboolean open_stub(Run *run, GError **error)
{
    const StasisRecorded *r = run->recorded;
    if (r->gdb == NULL)
        return TRUE;
    if (!stasis_gdbstub_open(run->session->qmp, r->gdb, error))
        return FALSE;
    if (r->ready != NULL)
        r->ready(run->vm, r->ready_data);
    return TRUE;
}

/* A disk for nothing but the snapshot of the machine's beginning. */
static gboolean make_disk(const StasisRecorded *r, GError **error)
{
    g_autofree char *path = g_build_filename(r->dir, STASIS_RECORDED_DISK, NULL);
    const char *const argv[] = { "qemu-img", "create", "-q", "-f", "qcow2", path, "64K", NULL };
    int status;
    if (!r->record)
        return TRUE;
    if (g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL,
                     &status, error) &&
        g_spawn_check_wait_status(status, error))
        return TRUE;
    g_prefix_error(error, "qemu-img (package qemu-utils): ");
    return FALSE;
}

gboolean stasis_recorded_run(const StasisRecorded *recorded, StasisOutcome *ret_outcome,
                             GCancellable *cancellable, GError **error)
{
    g_auto(Run) run = { .recorded = recorded, .answer_fd = -1, .outcome = ret_outcome };
    if (!make_disk(recorded, error) || !start(&run, cancellable, error) || !open_stub(&run, error))
        return FALSE;
    run.start_us = stasis_now_us();
    /* A replay comes to its end by itself; it may be slower than what was recorded. */
    run.end_us = recorded->record ? run.start_us + recorded->test->timeout_us : 0;
    while (!look(&run)) {
        if (g_cancellable_is_cancelled(cancellable))
            return stasis_set_cancelled(error);
        if (run.images != NULL)
            stasis_recorded_images_look(run.images);
        g_usleep(LOOK_US);
    }
    return TRUE;
}

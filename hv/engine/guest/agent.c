/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What can be asked of the agent in a guest: include/stasis/agent.h. */
#include <errno.h>
#include <fcntl.h>
#include <stasis/agent.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/io.h"
#include "base/options.h"
#include "engine/fork/fork-sweep.h"
#include "engine/guest/agent-vm.h"
#include "engine/guest/awaken.h"
#include "engine/restore/pager.h"
#include "engine/vm/session.h"
#include "vmm/agent-channel.h"
#include "vmm/qmp-peer.h"

#define DEFAULT_TIMEOUT_MS 5000
#define DEFAULT_EXEC_MS 10000
#define DEFAULT_EXEC_BYTES (1u << 20)
#define MAX_EXEC_BYTES (16u << 20)
#define MAX_EXEC_MS 600000
#define SILENCE_US (30 * G_GUINT64_CONSTANT(1000000))

StasisAgentWait stasis_agent_wait_until(guint timeout_ms, GCancellable *cancellable)
{
    return (StasisAgentWait){ stasis_now_us() +
                                  (timeout_ms != 0 ? timeout_ms : DEFAULT_TIMEOUT_MS) *
                                      G_GUINT64_CONSTANT(1000),
                              cancellable };
}

/* Its time of change says when the agent was last heard. */
static char *mark_path(const char *name)
{
    g_autofree char *dir = stasis_vm_dir(name, NULL);
    return dir != NULL ? g_build_filename(dir, "agent-heard", NULL) : NULL;
}

gint64 stasis_agent_heard_at_us(const char *name)
{
    g_autofree char *path = mark_path(name);
    struct stat st;
    if (path == NULL || lstat(path, &st) < 0)
        return 0;
    return (gint64)st.st_mtim.tv_sec * G_USEC_PER_SEC + st.st_mtim.tv_nsec / 1000;
}

/* -1: who can't, as for a fork that has no such directory, does without. A new file's time would
 * say that the agent was heard. */
static int open_mark(const char *name)
{
    g_autofree char *path = mark_path(name);
    static const struct timespec never[2] = { { 0 }, { 0 } };
    if (path == NULL)
        return -1;
    int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0)
        return fd;
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd >= 0)
        futimens(fd, never);
    return fd;
}

StasisAgent *stasis_agent_connect(const char *name, const char *path, const StasisAgentWait *wait,
                                  GError **error)
{
    g_autofree char *who = g_strdup_printf("VM %s", name);
    int r = 0;
    int fd = stasis_qmp_socket_connect(path, wait->deadline_us, wait->cancellable, &r);
    if (fd >= 0) {
        StasisAgent *agent = stasis_agent_new(fd, who);
        stasis_agent_set_mark(agent, open_mark(name));
        return agent;
    }
    if (r == -ECANCELED)
        stasis_set_cancelled(error);
    else if (r == -EAGAIN)
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                    "%s: agent: other clients wait for its channel %s, which serves one at a time",
                    who, path);
    else
        stasis_set_errno(error, -r, "%s: agent: connect to %s", who, path);
    return NULL;
}

/* The path of its channel. Where the command line tells it, whoever holds the VM or its monitor is
 * not waited for: a guard does, all the time. */
static char *find_channel(const char *name, GError **error)
{
    stasis_forks_sweep(NULL); /* as every command does */
    g_autoptr(StasisRecord) record = stasis_record_load(name, NULL);
    gboolean at_hand = record != NULL && record->uri == NULL && stasis_record_is_alive(record) &&
                       !stasis_pager_is_loading(name);
    g_autofree char *path = at_hand ? stasis_agent_channel_guess(record->pid) : NULL;
    if (path != NULL)
        return g_steal_pointer(&path);
    g_autoptr(StasisSession) session = stasis_session_open(name, STASIS_LOCK_WAIT_MS, error);
    if (session == NULL)
        return NULL;
    g_autoptr(StasisAgentChannel) channel =
        stasis_agent_channel_find(session->qmp, session->record->pid, error);
    if (channel != NULL)
        return g_strdup(channel->path);
    g_prefix_error(error, "VM %s: ", name);
    return NULL;
}

StasisAgent *stasis_agent_open_vm(const char *name, const StasisAgentWait *wait, GError **error)
{
    g_autofree char *path = find_channel(name, error);
    g_autoptr(StasisAgent) agent =
        path != NULL ? stasis_agent_connect(name, path, wait, error) : NULL;
    if (agent == NULL || !stasis_agent_greet(agent, wait, error))
        return NULL;
    /* If that fails, so will what is asked next, or it is about something else. */
    stasis_awaken_now(agent, name, wait, NULL);
    return g_steal_pointer(&agent);
}

/* ---- info, ping ---- */

void stasis_agent_info_free(StasisAgentInfo *info)
{
    if (info == NULL)
        return;
    g_free(info->version);
    g_strfreev(info->operations);
    g_free(info->kernel);
    g_free(info->system);
    g_free(info->hostname);
    g_free(info->machine_id);
    g_free(info->boot_id);
    g_free(info->last_instant);
    g_free(info);
}

StasisAgentInfo *stasis_vm_agent_info(StasisVm *vm, guint timeout_ms, GCancellable *cancellable,
                                      GError **error)
{
    StasisAgentWait wait = stasis_agent_wait_until(timeout_ms, cancellable);
    g_autoptr(StasisAgent) agent = stasis_agent_open_vm(stasis_vm_get_name(vm), &wait, error);
    gint64 before_us = g_get_real_time();
    g_autoptr(GBytes) answer =
        agent != NULL ? stasis_agent_call(agent, STASIS_AGENT_OP_INFO, NULL, &wait, error) : NULL;
    if (answer == NULL)
        return NULL;
    gint64 middle_us = before_us + (g_get_real_time() - before_us) / 2;
    StasisAgentInfo *info = g_new0(StasisAgentInfo, 1);
    info->version = g_strdup(stasis_agent_get_version(agent));
    info->protocol = stasis_agent_get_protocol(agent);
    info->operations = g_strdupv((char **)stasis_agent_get_operations(agent));
    info->kernel = stasis_agent_text(answer, STASIS_AGENT_TAG_KERNEL, 256);
    info->system = stasis_agent_text(answer, STASIS_AGENT_TAG_SYSTEM, 256);
    info->hostname = stasis_agent_text(answer, STASIS_AGENT_TAG_HOSTNAME, 64);
    info->machine_id = stasis_agent_text(answer, STASIS_AGENT_TAG_MACHINE_ID, 64);
    info->boot_id = stasis_agent_text(answer, STASIS_AGENT_TAG_BOOT_ID, 64);
    info->uptime_us = stasis_agent_number(answer, STASIS_AGENT_TAG_UPTIME, 0) / 1000;
    info->clock_ahead_us =
        (gint64)(stasis_agent_number(answer, STASIS_AGENT_TAG_REALTIME, 0) / 1000) - middle_us;
    info->n_instants = stasis_agent_number(answer, STASIS_AGENT_TAG_INSTANTS, 0);
    if (info->n_instants > 0)
        info->last_instant = stasis_agent_text(answer, STASIS_AGENT_TAG_KIND, 32);
    return info;
}

gboolean stasis_vm_agent_ping(StasisVm *vm, guint timeout_ms, guint64 *ret_us,
                              GCancellable *cancellable, GError **error)
{
    StasisAgentWait wait = stasis_agent_wait_until(timeout_ms, cancellable);
    guint8 room[64], nonce[16];
    StasisFieldWriter fields = { .payload = room, .room = sizeof room };
    StasisField field;
    if (getrandom(nonce, sizeof nonce, 0) != sizeof nonce)
        return stasis_set_errno(error, errno, "getrandom");
    stasis_field_put(&fields, STASIS_AGENT_TAG_NONCE, nonce, sizeof nonce);
    g_autoptr(StasisAgent) agent = stasis_agent_open_vm(stasis_vm_get_name(vm), &wait, error);
    guint64 start_us = stasis_now_us();
    g_autoptr(GBytes) answer =
        agent != NULL ? stasis_agent_call(agent, STASIS_AGENT_OP_PING, &fields, &wait, error)
                      : NULL;
    if (answer == NULL)
        return FALSE;
    gsize length;
    const guint8 *bytes = g_bytes_get_data(answer, &length);
    if (!stasis_field_find(bytes, (guint32)length, STASIS_AGENT_TAG_NONCE, &field) ||
        field.length != sizeof nonce || memcmp(field.value, nonce, sizeof nonce) != 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                    "VM %s: agent: it answers what was not asked; is it stasis-agent that has the "
                    "port?",
                    stasis_vm_get_name(vm));
        return FALSE;
    }
    *ret_us = stasis_now_us() - start_us;
    return TRUE;
}

gboolean stasis_agent_may_come_back(const char *name, guint64 heard_us, const GError *failure)
{
    g_autoptr(StasisRecord) record = stasis_record_load(name, NULL);
    /* Who has the agent's channel may have it for long. */
    gboolean silent = stasis_now_us() - heard_us >= SILENCE_US &&
                      !g_error_matches(failure, STASIS_ERROR, STASIS_ERROR_BUSY);
    return record != NULL && stasis_record_is_alive(record) && !silent &&
           !g_error_matches(failure, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED);
}

/* ---- exec ---- */

void stasis_agent_exec_free(StasisAgentExec *exec)
{
    if (exec == NULL)
        return;
    g_clear_pointer(&exec->output, g_bytes_unref);
    g_clear_pointer(&exec->error_output, g_bytes_unref);
    g_free(exec);
}

typedef struct {
    GByteArray *output, *error_output;
    guint64 max_bytes;
} Collected;

static void collected_clear(Collected *collected)
{
    g_clear_pointer(&collected->output, g_byte_array_unref);
    g_clear_pointer(&collected->error_output, g_byte_array_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Collected, collected_clear)

static gboolean collect(const guint8 *fields, guint32 length, gpointer user_data, GError **error)
{
    Collected *all = user_data;
    StasisField field;
    for (guint32 at = 0; stasis_field_next(fields, length, &at, &field);) {
        GByteArray *array = field.tag == STASIS_AGENT_TAG_OUTPUT         ? all->output
                            : field.tag == STASIS_AGENT_TAG_ERROR_OUTPUT ? all->error_output
                                                                         : NULL;
        guint64 room = all->max_bytes - all->output->len - all->error_output->len;
        if (array != NULL && field.length > room) {
            g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                                "agent: more output than was asked for");
            return FALSE;
        }
        if (array != NULL)
            g_byte_array_append(array, field.value, field.length);
    }
    return TRUE;
}

static gboolean write_exec(StasisFieldWriter *fields, const char *const *argv,
                           const StasisAgentExecOptions *options, guint64 max_bytes,
                           guint timeout_ms, GError **error)
{
    for (guint i = 0; argv[i] != NULL; i++)
        stasis_field_put_text(fields, STASIS_AGENT_TAG_ARG, argv[i]);
    if (options->input != NULL)
        stasis_field_put(fields, STASIS_AGENT_TAG_INPUT, g_bytes_get_data(options->input, NULL),
                         (guint32)MIN(g_bytes_get_size(options->input), G_MAXUINT32));
    stasis_field_put_number(fields, STASIS_AGENT_TAG_LIMIT, max_bytes);
    stasis_field_put_number(fields, STASIS_AGENT_TAG_TIMEOUT, timeout_ms);
    if (!fields->overflow)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                "a command and its input of more than %u bytes; put it into a file in the guest",
                STASIS_AGENT_MAX_PAYLOAD);
    return FALSE;
}

static StasisAgentExec *take_exec(Collected *collected, GBytes *answer)
{
    StasisAgentExec *exec = g_new0(StasisAgentExec, 1);
    exec->signal = (int)(stasis_agent_number(answer, STASIS_AGENT_TAG_SIGNAL, 0) & 0x7f);
    exec->exit_status =
        exec->signal != 0
            ? -1
            : (int)(stasis_agent_number(answer, STASIS_AGENT_TAG_EXIT_STATUS, 255) & 0xff);
    exec->timed_out = stasis_agent_number(answer, STASIS_AGENT_TAG_TIMED_OUT, 0) != 0;
    exec->truncated = stasis_agent_number(answer, STASIS_AGENT_TAG_TRUNCATED, 0) != 0;
    exec->output = g_byte_array_free_to_bytes(g_steal_pointer(&collected->output));
    exec->error_output = g_byte_array_free_to_bytes(g_steal_pointer(&collected->error_output));
    return exec;
}

StasisAgentExec *stasis_vm_agent_exec(StasisVm *vm, const char *const *argv,
                                      const StasisAgentExecOptions *given,
                                      GCancellable *cancellable, GError **error)
{
    StasisAgentExecOptions own = STASIS_AGENT_EXEC_OPTIONS_INIT;
    const StasisAgentExecOptions *options = stasis_own_options(&own, given, sizeof own);
    guint timeout_ms = options->timeout_ms != 0 ? options->timeout_ms : DEFAULT_EXEC_MS;
    guint64 max_bytes = options->max_bytes != 0 ? options->max_bytes : DEFAULT_EXEC_BYTES, id = 0;
    if (timeout_ms > MAX_EXEC_MS || max_bytes > MAX_EXEC_BYTES) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "a command in a guest may take %u s and write %u MiB at most",
                    MAX_EXEC_MS / 1000, MAX_EXEC_BYTES >> 20);
        return NULL;
    }
    g_autofree guint8 *room = g_malloc(STASIS_AGENT_MAX_PAYLOAD);
    StasisFieldWriter fields = { .payload = room, .room = STASIS_AGENT_MAX_PAYLOAD };
    if (!write_exec(&fields, argv, options, max_bytes, timeout_ms, error))
        return NULL;
    g_auto(Collected) collected = { g_byte_array_new(), g_byte_array_new(), max_bytes };
    StasisAgentWait wait = stasis_agent_wait_until(0, cancellable);
    g_autoptr(StasisAgent) agent = stasis_agent_open_vm(stasis_vm_get_name(vm), &wait, error);
    if (agent == NULL)
        return NULL;
    stasis_agent_keep_asking(agent);
    wait = stasis_agent_wait_until(timeout_ms + DEFAULT_TIMEOUT_MS, cancellable);
    g_autoptr(GBytes) answer = NULL;
    if (stasis_agent_begin(agent, STASIS_AGENT_OP_EXEC, &fields, &id, &wait, error))
        answer = stasis_agent_finish(agent, id, collect, &collected,
                                     stasis_agent_output_bytes(max_bytes), &wait, error);
    return answer != NULL ? take_exec(&collected, answer) : NULL;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/guest/awaken.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/io.h"
#include "engine/guest/agent-vm.h"
#include "vmm/agent-channel.h"

#define ANSWER_WAIT_US 1000000
#define OPEN_WAIT_US 50000
#define OPEN_POLL_US 2000
#define ENTROPY_BYTES 64

struct _StasisAwakening {
    char *name;
    StasisAgent *agent;
    guint64 id;
};

/* What the mark holds: "KIND NEW_IDENTITY TOKEN". */
typedef struct {
    char kind[32];
    guint new_identity;
    char token[40];
} Mark;

static int open_dir(const char *name)
{
    g_autofree char *path = stasis_vm_dir(name, NULL);
    return path != NULL ? open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
}

void stasis_awaken_mark(const char *name, const char *kind, gboolean new_identity)
{
    stasis_autofd int dir_fd = open_dir(name);
    g_autofree char *token = g_uuid_string_random();
    g_autofree char *text = g_strdup_printf("%s %d %s\n", kind, new_identity ? 1 : 0, token);
    if (dir_fd >= 0)
        stasis_write_file_at(dir_fd, STASIS_AWAKEN_FILE, text, strlen(text), FALSE, NULL);
}

void stasis_awaken_unmark(const char *name)
{
    stasis_autofd int dir_fd = open_dir(name);
    if (dir_fd >= 0)
        unlinkat(dir_fd, STASIS_AWAKEN_FILE, 0);
}

static gboolean read_mark(const char *name, Mark *ret)
{
    stasis_autofd int dir_fd = open_dir(name);
    gsize len;
    g_autofree char *text =
        dir_fd >= 0 ? stasis_read_file_at(dir_fd, STASIS_AWAKEN_FILE, 256, &len, NULL) : NULL;
    return text != NULL &&
           sscanf(text, "%31s %u %39s", ret->kind, &ret->new_identity, ret->token) == 3;
}

static gboolean begin(StasisAgent *agent, const Mark *mark, guint64 *ret_id,
                      const StasisAgentWait *wait, GError **error)
{
    guint8 room[512], entropy[ENTROPY_BYTES];
    StasisFieldWriter fields = { .payload = room, .room = sizeof room };
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_KIND, mark->kind);
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_TOKEN, mark->token);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_NEW_IDENTITY, mark->new_identity);
    if (getrandom(entropy, sizeof entropy, 0) == sizeof entropy)
        stasis_field_put(&fields, STASIS_AGENT_TAG_ENTROPY, entropy, sizeof entropy);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_REALTIME, (guint64)g_get_real_time() * 1000);
    return stasis_agent_begin(agent, STASIS_AGENT_OP_INSTANT, &fields, ret_id, wait, error);
}

/* The message may have lain in a queue for a while: once the agent is awake, the time again. */
static gboolean finish(StasisAgent *agent, const char *name, guint64 id,
                       const StasisAgentWait *wait, GError **error)
{
    guint8 room[32];
    StasisFieldWriter fields = { .payload = room, .room = sizeof room };
    g_autoptr(GBytes) answer =
        stasis_agent_finish(agent, id, NULL, NULL, 2 * STASIS_AGENT_MAX_PAYLOAD, wait, error);
    if (answer == NULL)
        return FALSE;
    stasis_awaken_unmark(name);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_REALTIME, (guint64)g_get_real_time() * 1000);
    g_autoptr(GBytes) synced =
        stasis_agent_call(agent, STASIS_AGENT_OP_SYNC_TIME, &fields, wait, NULL);
    return TRUE;
}

gboolean stasis_awaken_send(StasisAgent *agent, const char *name, guint64 *ret_id,
                            const StasisAgentWait *wait, GError **error)
{
    Mark mark;
    *ret_id = 0;
    return !read_mark(name, &mark) || begin(agent, &mark, ret_id, wait, error);
}

gboolean stasis_awaken_settle(StasisAgent *agent, const char *name, guint64 id,
                              const StasisAgentWait *wait, GError **error)
{
    return id == 0 || finish(agent, name, id, wait, error);
}

gboolean stasis_awaken_now(StasisAgent *agent, const char *name, const StasisAgentWait *wait,
                           GError **error)
{
    guint64 id;
    return stasis_awaken_send(agent, name, &id, wait, error) &&
           stasis_awaken_settle(agent, name, id, wait, error);
}

void stasis_awakening_free(StasisAwakening *awakening)
{
    if (awakening == NULL)
        return;
    stasis_agent_free(awakening->agent);
    g_free(awakening->name);
    g_free(awakening);
}

StasisAwakening *stasis_awaken_begin(const StasisRecord *record, StasisQmp *qmp)
{
    StasisAgentWait none = { .deadline_us = stasis_now_us() };
    Mark mark;
    if (!read_mark(record->name, &mark))
        return NULL;
    g_autoptr(StasisAgentChannel) channel = stasis_agent_channel_find(qmp, record->pid, NULL);
    if (channel == NULL)
        stasis_awaken_unmark(record->name); /* there is nobody to be told */
    if (channel == NULL)
        return NULL;
    g_autoptr(StasisAwakening) awakening = g_new0(StasisAwakening, 1);
    awakening->name = g_strdup(record->name);
    awakening->agent = stasis_agent_connect(record->name, channel->path, &none, NULL);
    if (awakening->agent == NULL || !begin(awakening->agent, &mark, &awakening->id, &none, NULL))
        return NULL;
    return g_steal_pointer(&awakening);
}

/* QEMU tells that the guest has the port open once its virtual clock runs again. */
static gboolean is_opened(StasisQmp *qmp, pid_t pid)
{
    guint64 deadline_us = stasis_now_us() + OPEN_WAIT_US;
    for (;;) {
        g_autoptr(StasisAgentChannel) channel = stasis_agent_channel_find(qmp, pid, NULL);
        if (channel == NULL || channel->is_opened || stasis_now_us() >= deadline_us)
            return channel != NULL && channel->is_opened;
        g_usleep(OPEN_POLL_US);
    }
}

void stasis_awaken_finish(StasisAwakening *awakening, const StasisRecord *record, StasisQmp *qmp,
                          GCancellable *cancellable)
{
    StasisAgentWait wait = { .deadline_us = stasis_now_us() + ANSWER_WAIT_US,
                             .cancellable = cancellable };
    if (awakening != NULL && is_opened(qmp, record->pid))
        finish(awakening->agent, awakening->name, awakening->id, &wait, NULL);
    stasis_awakening_free(awakening);
}

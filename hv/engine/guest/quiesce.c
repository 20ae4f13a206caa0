/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/guest/quiesce.h"

#include <stasis/agent-protocol.h>
#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "base/hold.h"
#include "engine/guest/agent-vm.h"
#include "engine/guest/awaken.h"
#include "engine/guest/guest-ready.h"
#include "vmm/agent-channel.h"
#include "vmm/pci.h"

#define ANSWER_US 5000000u
/* Writing back what is dirty, freezing, the approach, and the stop, of which the guest sees
 * nothing. */
#define FROZEN_MS 30000u
/* A driver that is unbound or bound under emulation may take its time. */
#define SUSPEND_WAIT_US 60000000u
#define MAX_DEVICE_BYTES 160u

struct _StasisQuiesce {
    char *name, *path;
    StasisAgent *agent;
    guint64 frozen_since_us; /* 0: not frozen */
    guint64 n_frozen;        /* file systems */
    guint64 frozen_us;       /* the last time */
    gboolean suspended;      /* devices are */
    gboolean holds_files;    /* Ctrl-Z waits for the thaw */
    gboolean holds_devices;  /* and for these */
    char **devices;          /* that are or were, or NULL */
};

/* What the agent must be able to do, by the bits of StasisQuiesceWhat. */
typedef struct {
    const char *operation, *what;
} Kind;

static const Kind kinds[] = {
    { "fs-freeze", "freeze its file systems (--quiesce)" },
    { "device-suspend", "suspend its devices (--guest-suspend)" },
};

static const Kind *first_kind(StasisQuiesceWhat what)
{
    return &kinds[(what & STASIS_QUIESCE_FILES) != 0 ? 0 : 1];
}

/* Who is asked to freeze must run. */
static gboolean check_running(StasisSession *session, const Kind *kind, GError **error)
{
    g_autofree char *state = stasis_qmp_run_state(session->qmp, error);
    if (state == NULL)
        return FALSE;
    if (strcmp(state, "running") == 0)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "VM %s is %s, and a guest that does not run can't %s; see stasis resume",
                session->record->name, state, kind->what);
    return FALSE;
}

/* Begin a conversation; one that was under way ends by that. */
static gboolean converse(StasisQuiesce *quiesce, GCancellable *cancellable, GError **error)
{
    StasisAgentWait wait = { stasis_now_us() + ANSWER_US, cancellable };
    g_clear_pointer(&quiesce->agent, stasis_agent_free);
    quiesce->agent = stasis_agent_connect(quiesce->name, quiesce->path, &wait, error);
    return quiesce->agent != NULL && stasis_agent_greet(quiesce->agent, &wait, error);
}

/* It is none where one was lost and no other could be begun. */
static gboolean has_conversation(const StasisQuiesce *quiesce, GError **error)
{
    if (quiesce->agent == NULL)
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "VM %s: agent: the conversation was lost, and no other could be begun",
                    quiesce->name);
    return quiesce->agent != NULL;
}

static GBytes *call(StasisQuiesce *quiesce, guint32 operation, StasisFieldWriter *fields,
                    const StasisAgentWait *wait, GError **error)
{
    return has_conversation(quiesce, error)
               ? stasis_agent_call(quiesce->agent, operation, fields, wait, error)
               : NULL;
}

static gboolean can(const StasisQuiesce *quiesce, StasisQuiesceWhat what, GError **error)
{
    for (guint i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if ((what & 1u << i) == 0 ||
            g_strv_contains(stasis_agent_get_operations(quiesce->agent), kinds[i].operation))
            continue;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "VM %s: agent: version %s in the guest can't %s; install the agent of this "
                    "version",
                    quiesce->name, stasis_agent_get_version(quiesce->agent), kinds[i].what);
        return FALSE;
    }
    return TRUE;
}

static StasisQuiesce *open_agent(StasisSession *session, StasisQuiesceWhat what,
                                 GCancellable *cancellable, GError **error)
{
    const char *name = session->record->name;
    g_autoptr(StasisAgentChannel) channel =
        stasis_agent_channel_find(session->qmp, session->record->pid, error);
    if (channel == NULL) {
        g_prefix_error(error, "VM %s: ", name);
        return NULL;
    }
    g_autoptr(StasisQuiesce) quiesce = g_new0(StasisQuiesce, 1);
    quiesce->name = g_strdup(name);
    quiesce->path = g_strdup(channel->path);
    if (!converse(quiesce, cancellable, error) || !can(quiesce, what, error))
        return NULL;
    StasisAgentWait wait = { stasis_now_us() + ANSWER_US, cancellable };
    stasis_awaken_now(quiesce->agent, name, &wait, NULL);
    return g_steal_pointer(&quiesce);
}

StasisQuiesce *stasis_quiesce_open(StasisSession *session, StasisQuiesceWhat what,
                                   GCancellable *cancellable, GError **error)
{
    const Kind *kind = first_kind(what);
    if (!check_running(session, kind, error))
        return NULL;
    StasisQuiesce *quiesce = open_agent(session, what, cancellable, error);
    if (quiesce == NULL)
        g_prefix_error(error, "nobody in the guest to %s: ", kind->what);
    return quiesce;
}

/* A guest whose file systems are frozen, or that misses devices, waits for us. */
static void hold(gboolean *holds)
{
    if (!*holds)
        stasis_hold_begin();
    *holds = TRUE;
}

static void let_go(gboolean *holds)
{
    if (*holds)
        stasis_hold_end();
    *holds = FALSE;
}

/* ---- file systems ---- */

static gboolean freeze(StasisQuiesce *quiesce, GCancellable *cancellable, GError **error)
{
    guint8 room[32];
    StasisFieldWriter fields = { .payload = room, .room = sizeof room };
    StasisAgentWait ready = { stasis_now_us() + STASIS_READY_MS * 1000u, cancellable };
    if (!has_conversation(quiesce, error))
        return FALSE;
    if (!stasis_guest_ready_begin(quiesce->agent, NULL, 0, &ready, error)) {
        converse(quiesce, NULL, NULL);
        return FALSE;
    }
    StasisAgentWait wait = { stasis_now_us() + FROZEN_MS * 1000u + ANSWER_US, cancellable };
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_TIMEOUT, FROZEN_MS);
    g_autoptr(GBytes) answer = call(quiesce, STASIS_AGENT_OP_FS_FREEZE, &fields, &wait, error);
    if (answer == NULL) {
        converse(quiesce, NULL, NULL); /* it may be at it still */
        return FALSE;
    }
    quiesce->n_frozen = stasis_agent_number(answer, STASIS_AGENT_TAG_N_FROZEN, 0);
    if (quiesce->n_frozen == 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "VM %s: agent: no file system that can be frozen is mounted for writing in "
                    "the guest; leave out --quiesce",
                    quiesce->name);
        return FALSE;
    }
    guint64 us = stasis_agent_number(answer, STASIS_AGENT_TAG_FROZEN_FOR, 0) / 1000;
    quiesce->frozen_since_us = stasis_now_us() - MIN(us, FROZEN_MS * 1000u);
    return TRUE;
}

gboolean stasis_quiesce_freeze(StasisQuiesce *quiesce, GCancellable *cancellable, GError **error)
{
    hold(&quiesce->holds_files);
    gboolean ok = freeze(quiesce, cancellable, error);
    if (!ok)
        let_go(&quiesce->holds_files);
    return ok;
}

/* Who is root in the guest can thaw one, too. */
static gboolean check_thawed(const StasisQuiesce *quiesce, GBytes *answer, GError **error)
{
    guint64 n = stasis_agent_number(answer, STASIS_AGENT_TAG_N_FROZEN, 0);
    if (n == quiesce->n_frozen)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "VM %s: of %" G_GUINT64_FORMAT " frozen file systems %" G_GUINT64_FORMAT
                " were so to the end: somebody in the guest has thawed the others (fsfreeze -u)",
                quiesce->name, quiesce->n_frozen, n);
    return FALSE;
}

static gboolean thaw(StasisQuiesce *quiesce, GError **error)
{
    StasisAgentWait wait = { .deadline_us = stasis_now_us() + ANSWER_US };
    g_autoptr(GBytes) answer = call(quiesce, STASIS_AGENT_OP_FS_THAW, NULL, &wait, error);
    quiesce->frozen_us = stasis_now_us() - quiesce->frozen_since_us;
    quiesce->frozen_since_us = 0;
    if (answer == NULL) {
        converse(quiesce, NULL, NULL);
        return FALSE;
    }
    gboolean all = check_thawed(quiesce, answer, error);
    stasis_guest_ready_end(quiesce->agent, all);
    return all;
}

/* Not to be called off. */
gboolean stasis_quiesce_thaw(StasisQuiesce *quiesce, GError **error)
{
    gboolean ok = quiesce->frozen_since_us == 0 || thaw(quiesce, error);
    let_go(&quiesce->holds_files);
    return ok;
}

guint64 stasis_quiesce_get_frozen_us(const StasisQuiesce *quiesce)
{
    return quiesce->frozen_us;
}

/* ---- devices ---- */

/* What the agent says of @device, if it is three words. */
static char *describe(const StasisPciDevice *device, const StasisField *field)
{
    g_autofree char *text = stasis_field_is_text(field, MAX_DEVICE_BYTES)
                                ? g_strndup((const char *)field->value, field->length)
                                : g_strdup("");
    g_auto(GStrv) words = g_strsplit(text, " ", -1);
    for (const char *p = text; *p != '\0'; p++)
        if (!g_ascii_isprint(*p))
            return NULL;
    return g_strv_length(words) == 3 ? g_strconcat(device->name, " ", text, NULL) : NULL;
}

static char **read_suspended(const GPtrArray *devices, GBytes *answer)
{
    gsize length;
    const guint8 *bytes = g_bytes_get_data(answer, &length);
    g_autoptr(GStrvBuilder) builder = g_strv_builder_new();
    StasisField field;
    guint n = 0;
    for (guint32 at = 0; stasis_field_next(bytes, (guint32)length, &at, &field);) {
        if (field.tag != STASIS_AGENT_TAG_DEVICE)
            continue;
        g_autofree char *text = n < devices->len ? describe(devices->pdata[n++], &field) : NULL;
        if (text == NULL)
            return NULL;
        g_strv_builder_add(builder, text);
    }
    return n == devices->len ? g_strv_builder_end(builder) : NULL;
}

gboolean stasis_quiesce_suspend(StasisQuiesce *quiesce, const GPtrArray *devices,
                                const char *driver, guint hold_ms, GCancellable *cancellable,
                                GError **error)
{
    guint8 room[2048];
    StasisFieldWriter fields = { .payload = room, .room = sizeof room };
    StasisAgentWait wait = { stasis_now_us() + SUSPEND_WAIT_US, cancellable };
    if (quiesce->suspended)
        return TRUE;
    for (guint i = 0; i < devices->len; i++)
        stasis_field_put_text(&fields, STASIS_AGENT_TAG_PATH,
                              ((const StasisPciDevice *)devices->pdata[i])->way);
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_DRIVER, driver);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_TIMEOUT, hold_ms);
    hold(&quiesce->holds_devices);
    g_autoptr(GBytes) answer = call(quiesce, STASIS_AGENT_OP_DEVICE_SUSPEND, &fields, &wait, error);
    if (answer == NULL) {
        converse(quiesce, NULL, NULL); /* it may be at it still */
        let_go(&quiesce->holds_devices);
        return FALSE;
    }
    g_strfreev(quiesce->devices);
    quiesce->devices = read_suspended(devices, answer);
    quiesce->suspended = TRUE;
    if (quiesce->devices != NULL)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "VM %s: agent: device-suspend: the answer does not tell of each device once",
                quiesce->name);
    return FALSE;
}

/* Not to be called off. */
gboolean stasis_quiesce_wake(StasisQuiesce *quiesce, GError **error)
{
    if (!quiesce->suspended)
        return TRUE;
    StasisAgentWait wait = { .deadline_us = stasis_now_us() + SUSPEND_WAIT_US };
    g_autoptr(GBytes) answer = call(quiesce, STASIS_AGENT_OP_DEVICE_RESUME, NULL, &wait, error);
    quiesce->suspended = FALSE;
    if (answer == NULL)
        converse(quiesce, NULL, NULL);
    let_go(&quiesce->holds_devices);
    return answer != NULL;
}

char **stasis_quiesce_get_suspended(const StasisQuiesce *quiesce)
{
    return quiesce->devices;
}

void stasis_quiesce_close(StasisQuiesce *quiesce)
{
    if (quiesce == NULL)
        return;
    stasis_quiesce_wake(quiesce, NULL);
    stasis_quiesce_thaw(quiesce, NULL);
    g_clear_pointer(&quiesce->agent, stasis_agent_free);
    g_free(quiesce->name);
    g_free(quiesce->path);
    g_strfreev(quiesce->devices);
    g_free(quiesce);
}

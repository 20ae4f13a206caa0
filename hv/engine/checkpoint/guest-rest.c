/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/checkpoint/guest-rest.h"

#include <string.h>

#include "base/fault.h"
#include "device/vmstate.h"
#include "vmm/pci.h"

/* How long devices stay suspended at most: around the stop; or over all of the copying. */
#define SUSPEND_MS 30000u
#define SUSPEND_LONG_MS 600000u

static StasisQuiesceWhat get_what(const StasisGuestRest *rest)
{
    return (rest->series->options.quiesce ? STASIS_QUIESCE_FILES : 0) |
           (rest->series->suspended->len > 0 ? STASIS_QUIESCE_DEVICES : 0);
}

static gboolean speak(StasisGuestRest *rest, GCancellable *cancellable, GError **error)
{
    if (rest->quiesce == NULL)
        rest->quiesce =
            stasis_quiesce_open(rest->series->session, get_what(rest), cancellable, error);
    return rest->quiesce != NULL;
}

static gboolean suspend(StasisGuestRest *rest, GCancellable *cancellable, GError **error)
{
    const StasisSeries *series = rest->series;
    return series->suspended->len == 0 ||
           (stasis_quiesce_suspend(rest->quiesce, series->suspended, NULL,
                                   series->untracked ? SUSPEND_LONG_MS : SUSPEND_MS, cancellable,
                                   error) &&
            stasis_fault(STASIS_FAULT_SUSPENDED, error));
}

gboolean stasis_guest_rest_prepare(StasisGuestRest *rest, GCancellable *cancellable, GError **error)
{
    if (get_what(rest) == 0)
        return TRUE;
    if (!speak(rest, cancellable, error))
        return FALSE;
    if (rest->series->untracked)
        return suspend(rest, cancellable, error);
    g_clear_pointer(&rest->quiesce, stasis_quiesce_close);
    return TRUE;
}

gboolean stasis_guest_rest_begin(StasisGuestRest *rest, GCancellable *cancellable, GError **error)
{
    if (get_what(rest) == 0)
        return TRUE;
    if (!speak(rest, cancellable, error))
        return FALSE;
    if (rest->series->options.quiesce &&
        (!stasis_quiesce_freeze(rest->quiesce, cancellable, error) ||
         !stasis_fault(STASIS_FAULT_QUIESCED, error)))
        return FALSE;
    return suspend(rest, cancellable, error);
}

gboolean stasis_guest_rest_end(StasisGuestRest *rest, GError **error)
{
    if (rest->quiesce == NULL)
        return TRUE;
    gboolean awake = rest->series->untracked || stasis_quiesce_wake(rest->quiesce, error);
    return stasis_quiesce_thaw(rest->quiesce, awake ? error : NULL) && awake;
}

gboolean stasis_guest_rest_finish(StasisGuestRest *rest, GError **error)
{
    return rest->quiesce == NULL || stasis_quiesce_wake(rest->quiesce, error);
}

void stasis_guest_rest_clear(StasisGuestRest *rest)
{
    g_clear_pointer(&rest->quiesce, stasis_quiesce_close);
}

static gboolean is_suspended(const StasisGuestRest *rest, const char *section)
{
    const GPtrArray *devices = rest->series->suspended;
    for (guint i = 0; i < devices->len; i++)
        if (g_str_has_prefix(section, ((StasisPciDevice *)devices->pdata[i])->section_prefix))
            return TRUE;
    return FALSE;
}

GBytes *stasis_guest_rest_strip(const StasisGuestRest *rest, GBytes *stream, GError **error)
{
    if (rest->series->suspended->len == 0)
        return g_bytes_ref(stream);
    g_autoptr(StasisVmstate) vmstate = stasis_vmstate_parse(stream, error);
    if (vmstate == NULL)
        return NULL;
    guint n = stasis_vmstate_get_n_sections(vmstate), n_wanted = 0;
    g_autofree gboolean *wanted = g_new(gboolean, n + 1);
    for (guint i = 0; i < n; i++) {
        wanted[i] = !is_suspended(rest, stasis_vmstate_get_section(vmstate, i)->name);
        n_wanted += wanted[i] ? 1 : 0;
    }
    return n_wanted == n ? g_bytes_ref(stream) : stasis_vmstate_pick(vmstate, wanted, error);
}

guint64 stasis_guest_rest_get_frozen_us(const StasisGuestRest *rest)
{
    return rest->quiesce != NULL ? stasis_quiesce_get_frozen_us(rest->quiesce) : 0;
}

char **stasis_guest_rest_get_suspended(const StasisGuestRest *rest)
{
    return rest->quiesce != NULL ? stasis_quiesce_get_suspended(rest->quiesce) : NULL;
}

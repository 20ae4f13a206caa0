/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The section "globalstate" (QEMU's migration/global_state.c): the run state that a loading QEMU
 * goes on in, as be32 length (not relied on) and a name in 100 bytes.
 */
#include <string.h>

#include "device/vmstate-format.h"
#include "device/vmstate.h"

#define NAME_BYTES 100u
#define STATE_BYTES (4u + NAME_BYTES)

static const StasisVmstateSection *find_state(StasisVmstate *vmstate)
{
    const StasisVmstateSection *section = stasis_vmstate_find(vmstate, "globalstate", 0);
    return section != NULL && section->payload_size == STATE_BYTES ? section : NULL;
}

gboolean stasis_vmstate_is_running(StasisVmstate *vmstate)
{
    const StasisVmstateSection *section = find_state(vmstate);
    if (section == NULL)
        return TRUE;
    const char *data = g_bytes_get_data(stasis_vmstate_get_stream(vmstate), NULL);
    return strncmp(data + section->payload_offset + 4, "running", NAME_BYTES) == 0;
}

GBytes *stasis_vmstate_with_running(StasisVmstate *vmstate, gboolean running, GError **error)
{
    const StasisVmstateSection *section = find_state(vmstate);
    if (section == NULL || running == stasis_vmstate_is_running(vmstate))
        return g_bytes_ref(stasis_vmstate_get_stream(vmstate));
    const char *name = running ? "running" : "paused";
    guint8 state[STATE_BYTES] = { 0 };
    guint32 len = GUINT32_TO_BE((guint32)strlen(name) + 1);
    memcpy(state, &len, sizeof len);
    memcpy(state + 4, name, strlen(name));
    g_autoptr(GBytes) payload = g_bytes_new(state, sizeof state);
    return stasis_vmstate_replace(vmstate, section, payload, error);
}

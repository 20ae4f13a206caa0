/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "device/pci-state.h"

#include "device/vmstate-format.h"

#define STATE_VERSION 2u
#define CONFIG_OFFSET 4u /* behind the version */
#define CONFIG_BYTES 256u
#define EXPRESS_CONFIG_BYTES 4096u
#define N_LINES 4u
/* In the configuration space (PCI Local Bus Specification 3.0, 6.2): the status register's bit "has
 * capabilities", where their list begins, and PCI Express's capability. */
#define STATUS 6u
#define STATUS_CAPABILITIES 0x10u
#define STATUS_INTERRUPT 0x08u
#define CAPABILITIES 0x34u
#define CAPABILITY_EXPRESS 0x10u
#define MAX_CAPABILITIES 48u

static gboolean is_express(const guint8 *config)
{
    if (!(config[STATUS] & STATUS_CAPABILITIES))
        return FALSE;
    guint at = config[CAPABILITIES] & ~3u;
    for (guint i = 0; i < MAX_CAPABILITIES && at >= 0x40; i++) {
        if (config[at] == CAPABILITY_EXPRESS)
            return TRUE;
        at = config[at + 1] & ~3u;
    }
    return FALSE;
}

/* Where the levels are; 0 when this is no PCI device's state. */
static gsize find_lines(const guint8 *data, gsize len)
{
    if (len < CONFIG_OFFSET + CONFIG_BYTES || vmstate_be32(data) != STATE_VERSION)
        return 0;
    gsize at =
        CONFIG_OFFSET + (is_express(data + CONFIG_OFFSET) ? EXPRESS_CONFIG_BYTES : CONFIG_BYTES);
    if (len < at + 4 * N_LINES)
        return 0;
    for (guint i = 0; i < N_LINES; i++)
        if (vmstate_be32(data + at + 4 * i) > 1)
            return 0;
    return at;
}

GBytes *stasis_pci_state_keep_lines(GBytes *payload, GBytes *now)
{
    gsize len, now_len;
    const guint8 *data = g_bytes_get_data(payload, &len), *other = g_bytes_get_data(now, &now_len);
    gsize at = find_lines(data, len);
    if (at == 0 || find_lines(other, now_len) != at ||
        memcmp(data + at, other + at, 4 * N_LINES) == 0)
        return g_bytes_ref(payload);
    guint8 *copy = g_memdup2(data, len);
    guint status = CONFIG_OFFSET + STATUS;
    memcpy(copy + at, other + at, 4 * N_LINES);
    copy[status] =
        (guint8)((copy[status] & ~STATUS_INTERRUPT) | (other[status] & STATUS_INTERRUPT));
    return g_bytes_new_take(copy, len);
}

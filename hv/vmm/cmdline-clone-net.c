/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A clone's network: each back end becomes one of the kind that the saved state needs, connected to
 * nothing. The NIC's model stays, so its state loads.
 *
 *  - "user" stays "user": its own state is in the stream. Restricted, it answers DHCP and ARP, and
 *    lets nothing out or in; all forwarding is dropped.
 *  - "tap" and "bridge" become a new tap, down and in no bridge: the guest's NIC has agreed on
 *    offloads that only a peer with a virtio-net header has, and would not load with another.
 *  - everything else becomes a port of a hub that has no other port.
 *  - hub ports stay: what connects NICs of one machine with each other is in that machine only.
 */
#include <stdio.h>
#include <string.h>

#include "vmm/cmdline-prepare.h"

/* Far from what people number their hubs with. */
#define FIRST_HUB 900000000u
/* "%d": the kernel gives the first number that is free. */
#define TAP_NAME "stasis%d"

static gboolean is_word(const char *text, const char *const *words)
{
    return text != NULL && g_strv_contains(words, text);
}

/* Another back end in place of @old, with what concerns the NIC (behind -nic) or the queues. */
static char *replace(const char *old, const char *type, const char *const *keep,
                     const char *const *set)
{
    g_autoptr(GPtrArray) words = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; keep[i] != NULL; i++) {
        char *value = stasis_optlist_get(old, keep[i], "type");
        if (value == NULL)
            continue;
        g_ptr_array_add(words, g_strdup(keep[i]));
        g_ptr_array_add(words, value);
    }
    for (guint i = 0; set[i] != NULL; i++)
        g_ptr_array_add(words, g_strdup(set[i]));
    g_ptr_array_add(words, NULL);
    return stasis_optlist_edit(type, "type", NULL, (const char *const *)words->pdata);
}

static char *to_tap(const char *old)
{
    static const char *const keep[] = { "id", "name", "mac", "model", "vnet_hdr", "queues", NULL };
    static const char *const set[] = {
        "ifname", TAP_NAME, "script", "no", "downscript", "no", NULL
    };
    return replace(old, "tap", keep, set);
}

static char *to_hub(const char *old, guint hub)
{
    static const char *const keep[] = { "id", "mac", "model", NULL };
    char number[16];
    snprintf(number, sizeof(number), "%u", hub);
    const char *const set[] = { "hubid", number, NULL };
    return replace(old, "hubport", keep, set);
}

static char *restrict_user(const char *old)
{
    static const char *const drop[] = { "hostfwd", "guestfwd", "smb", "smbserver",
                                        "tftp",    "bootfile", NULL };
    static const char *const set[] = { "restrict", "on", NULL };
    return stasis_optlist_edit(old, "type", drop, set);
}

static void isolate(StasisOption *option, guint hub)
{
    static const char *const stay[] = { "none", "nic", "hubport", NULL };
    static const char *const taps[] = { "tap", "bridge", NULL };
    g_autofree char *type = stasis_optlist_get(option->value, "type", "type");
    g_autofree char *value = NULL;
    if (type == NULL || is_word(type, stay))
        return;
    if (strcmp(type, "user") == 0)
        value = restrict_user(option->value);
    else if (is_word(type, taps))
        value = to_tap(option->value);
    else if (stasis_option_is(option, "net")) /* its hub 0 keeps the NICs */
        value = g_strdup("none");
    else
        value = to_hub(option->value, hub);
    stasis_option_set(option, option->name, value);
}

/* Objects that send packets elsewhere, or write them to a file. */
static gboolean is_filter(const StasisOption *option)
{
    g_autofree char *type = stasis_option_is(option, "object") && option->value != NULL
                                ? stasis_optlist_get(option->value, "qom-type", "qom-type")
                                : NULL;
    return type != NULL && g_str_has_prefix(type, "filter-");
}

/* Without any network option QEMU makes the machine's own NIC, on an open user network. */
static gboolean has_default_network(const StasisPrepare *p)
{
    static const char *const deciding[] = { "net", "nic", "netdev", "nodefaults", NULL };
    for (guint i = 0; i < p->options->len; i++)
        if (stasis_option_is_any(stasis_prepare_nth(p, i), deciding))
            return FALSE;
    return TRUE;
}

void stasis_prepare_clone_net(StasisPrepare *p)
{
    static const char *const backends[] = { "netdev", "nic", "net", NULL };
    if (p->wanted->clone == NULL)
        return;
    /* Also for its new address, where the network stays. */
    if (has_default_network(p)) {
        stasis_prepare_add(p, "net", "nic");
        stasis_prepare_add(p, "net", "user");
    }
    for (guint i = p->wanted->clone->keep_network ? 0 : p->options->len; i-- > 0;) {
        StasisOption *option = g_ptr_array_index(p->options, i);
        if (is_filter(option))
            g_ptr_array_remove_index(p->options, i);
        else if (stasis_option_is_any(option, backends) && option->value != NULL)
            isolate(option, FIRST_HUB + i);
    }
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a PCI device that goes back keeps the level of its interrupt lines, as the bus counts
 * them, in real streams; and of what is no PCI device's state nothing is touched. */
#include <device/pci-state.h>
#include <device/vmstate.h>

#include "test-device-data.h"

#define LEVELS (4u + 256u)
#define EXPRESS_LEVELS (4u + 4096u)
#define STATUS (4u + 6u)

/* @payload with INTA raised, if its levels are at @at. */
static GBytes *raise_line(GBytes *payload, gsize at)
{
    gsize len;
    const guint8 *data = g_bytes_get_data(payload, &len);
    if (len < at + 16)
        return NULL;
    guint8 *copy = g_memdup2(data, len);
    copy[at + 3] = 1;
    copy[STATUS] |= 0x08;
    return g_bytes_new_take(copy, len);
}

/* Are the levels of @payload at @at, and is just that kept? */
static gboolean keeps_at(GBytes *payload, gsize at)
{
    g_autoptr(GBytes) raised = raise_line(payload, at);
    g_autoptr(GBytes) kept =
        raised != NULL ? stasis_pci_state_keep_lines(payload, raised) : g_bytes_ref(payload);
    if (raised == NULL || g_bytes_equal(kept, payload))
        return FALSE;
    g_assert_true(g_bytes_equal(kept, raised));
    g_autoptr(GBytes) back = stasis_pci_state_keep_lines(raised, payload);
    g_assert_true(g_bytes_equal(back, payload));
    return TRUE;
}

static void count_kept(const char *file, guint *ret_plain, guint *ret_express)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) stream = test_data(file);
    g_autoptr(StasisVmstate) vmstate = stasis_vmstate_parse(stream, &error);
    g_assert_no_error(error);
    *ret_plain = *ret_express = 0;
    for (guint i = 0; i < stasis_vmstate_get_n_sections(vmstate); i++) {
        const StasisVmstateSection *section = stasis_vmstate_get_section(vmstate, i);
        if (strncmp(section->name, "0000:", 5) != 0)
            continue;
        g_autoptr(GBytes) payload = stasis_vmstate_get_payload(vmstate, section);
        gboolean plain = keeps_at(payload, LEVELS), express = keeps_at(payload, EXPRESS_LEVELS);
        g_test_message("%s: %s: plain %d, express %d", file, section->name, plain, express);
        g_assert_true(plain != express);
        *ret_plain += plain;
        *ret_express += express;
    }
}

static void test_real(void)
{
    guint plain, express;
    count_kept("pc.stream", &plain, &express);
    g_assert_cmpuint(plain, >=, 3);
    g_assert_cmpuint(express, ==, 0);
    count_kept("q35.stream", &plain, &express);
    g_assert_cmpuint(plain, >=, 2);
}

static GBytes *make(gsize len, gboolean express)
{
    guint8 *data = g_malloc0(len);
    data[3] = 2;
    if (express && len > 4 + 0x50) {
        data[4 + 6] = 0x10;
        data[4 + 0x34] = 0x40;
        data[4 + 0x40] = 0x05;
        data[4 + 0x41] = 0x50;
        data[4 + 0x50] = 0x10;
    }
    return g_bytes_new_take(data, len);
}

static void test_made(void)
{
    g_autoptr(GBytes) plain = make(400, FALSE), express = make(5000, TRUE), small = make(40, FALSE);
    g_assert_true(keeps_at(plain, LEVELS));
    g_assert_false(keeps_at(express, LEVELS));
    g_assert_true(keeps_at(express, EXPRESS_LEVELS));
    g_autoptr(GBytes) a = stasis_pci_state_keep_lines(plain, express);
    g_autoptr(GBytes) b = stasis_pci_state_keep_lines(small, plain);
    g_assert_true(a == plain && b == small);
    /* A list of capabilities that leads back into itself comes to an end. */
    g_autofree guint8 *loop = g_malloc0(400);
    loop[3] = 2;
    loop[4 + 6] = 0x10;
    loop[4 + 0x34] = loop[4 + 0x41] = 0x40;
    g_autoptr(GBytes) looped = g_bytes_new(loop, 400);
    g_assert_true(keeps_at(looped, LEVELS));
    /* Another version, or levels that are none. */
    loop[3] = 1;
    g_autoptr(GBytes) old = g_bytes_new(loop, 400);
    g_assert_false(keeps_at(old, LEVELS));
    loop[3] = 2;
    loop[LEVELS] = 1;
    g_autoptr(GBytes) odd = g_bytes_new(loop, 400);
    g_assert_false(keeps_at(odd, LEVELS));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/device/pci/real", test_real);
    g_test_add_func("/device/pci/made", test_made);
    return g_test_run();
}

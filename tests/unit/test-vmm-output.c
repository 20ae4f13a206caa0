/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: of what QEMU tells about its network, what interfaces are connected to is found, and
 * nothing else. (That filters hold and let go is tests/integration/test_hold_output.py's.) */
#include "vmm/output-hold.h"

static void assert_chosen(const char *text, const char *only, const char *expected)
{
    g_auto(GStrv) words = only != NULL ? g_strsplit(only, " ", -1) : NULL;
    g_auto(GStrv) names = stasis_output_parse_backends(text, (const char *const *)words);
    g_autofree char *found = g_strjoinv(" ", names);
    g_assert_cmpstr(found, ==, expected);
}

static void assert_backends(const char *text, const char *expected)
{
    assert_chosen(text, NULL, expected);
}

/* As QEMU 7.2 prints it. */
static void test_pairs(void)
{
    assert_backends("nic0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56\n"
                    " \\ n0: index=0,type=user,net=10.0.2.0,restrict=off\n"
                    "filters:\n"
                    "  - stasis-hold-1-0: type=filter-buffer,interval=600000000,netdev=n0\n"
                    "rtl8139.0: index=0,type=nic,model=rtl8139,macaddr=52:54:00:12:34:57\n"
                    " \\ #net146: index=0,type=socket,socket: udp=127.0.0.1:23232\n",
                    "n0 #net146");
}

static void test_hubs(void)
{
    assert_backends(
        "hub 0\n"
        " \\ hub0port1: #net146: index=0,type=user,net=10.0.2.0,restrict=off\n"
        " \\ hub0port0: e1000.0: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:56\n",
        "hub0port0");
}

static void test_chosen(void)
{
    static const char two[] =
        "nic0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56\n"
        " \\ n0: index=0,type=user,net=10.0.2.0,restrict=off\n"
        "rtl8139.0: index=0,type=nic,model=rtl8139,macaddr=52:54:00:12:34:57\n"
        " \\ n1: index=0,type=user,net=10.0.2.0,restrict=off\n";
    static const char hub[] =
        "hub 0\n"
        " \\ hub0port1: e1000.1: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:57\n"
        " \\ hub0port0: e1000.0: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:56\n";
    assert_chosen(two, "n1", "n1");
    assert_chosen(two, "nic0", "n0");
    assert_chosen(two, "rtl8139.0 nic0", "n0 n1");
    assert_chosen(two, "nic", "");
    assert_chosen(hub, "e1000.0", "hub0port0");
    assert_chosen(hub, "hub0port1", "hub0port1");
    assert_chosen(hub, "hub", "");
}

static void test_alone(void)
{
    assert_backends("", "");
    assert_backends("nic0: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:56", "");
    assert_backends("nic0: index=0,type=nic,model=e1000\nnic1: index=0,type=nic,model=e1000\n", "");
    assert_backends("n0: index=0,type=user,net=10.0.2.0,restrict=off\n", "");
}

static void test_many(void)
{
    g_autoptr(GString) text = g_string_new(NULL);
    for (guint i = 0; i < 1000; i++)
        g_string_append_printf(text, "c%u: index=0,type=nic,\n \\ n%u: index=0,type=user,\n", i, i);
    g_auto(GStrv) names = stasis_output_parse_backends(text->str, NULL);
    g_assert_cmpuint(g_strv_length(names), ==, STASIS_OUTPUT_MAX_BACKENDS + 1);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/output/pairs", test_pairs);
    g_test_add_func("/output/hubs", test_hubs);
    g_test_add_func("/output/chosen", test_chosen);
    g_test_add_func("/output/alone", test_alone);
    g_test_add_func("/output/many", test_many);
    return g_test_run();
}

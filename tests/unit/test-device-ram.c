/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: RAM added to a stream stands before the devices as QEMU writes it, and changes none of
 * them. */
#include <device/vmstate.h>
#include <stasis/error.h>
#include <string.h>

#include "test-device-data.h"

static void test_bytes(void)
{
    static const guint8 device[] = "QEVM\0\0\0\3\7\0\0\0\2pc"
                                   "\4\0\0\0\5\1d\0\0\0\0\0\0\0\1x\x7e\0\0\0\5";
    static const guint8 expected[] = "QEVM\0\0\0\3\7\0\0\0\2pc"
                                     "\1\x7f\xff\xff\xfe\3ram\0\0\0\0\0\0\0\4"
                                     "\0\0\0\0\0\0\x30\4"
                                     "\1a\0\0\0\0\0\0\x20\0"
                                     "\2bc\0\0\0\0\0\0\x10\0"
                                     "\0\0\0\0\0\0\0\x10"
                                     "\x7e\x7f\xff\xff\xfe"
                                     "\3\x7f\xff\xff\xfe"
                                     "\0\0\0\0\0\0\0\2\1a\0"
                                     "\0\0\0\0\0\0\x10\x28";
    static const guint8 behind[] = "\0\0\0\0\0\0\0\2\2bc\0"
                                   "\0\0\0\0\0\0\0\x10"
                                   "\x7e\x7f\xff\xff\xfe"
                                   "\4\0\0\0\5\1d\0\0\0\0\0\0\0\1x\x7e\0\0\0\5";
    guint8 page[4096];
    memset(page, 'p', sizeof(page));
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisVmstateRam) ram = stasis_vmstate_ram_new();
    stasis_vmstate_ram_add_block(ram, "a", 8192);
    stasis_vmstate_ram_add_block(ram, "bc", 4096);
    stasis_vmstate_ram_add_page(ram, 0, "a", 0, NULL);
    stasis_vmstate_ram_add_page(ram, 0, "a", 4096, page);
    stasis_vmstate_ram_add_page(ram, 1, "bc", 0, NULL);
    /* The end mark is the zero behind the literal. */
    g_autoptr(GBytes) stream = g_bytes_new_static(device, sizeof(device));
    g_autoptr(GBytes) with = stasis_vmstate_with_ram(stream, ram, &error);
    g_assert_no_error(error);
    gsize len, at = sizeof(expected) - 1;
    const guint8 *data = g_bytes_get_data(with, &len);
    g_assert_cmpuint(len, ==, at + sizeof(page) + sizeof(behind));
    g_assert_cmpmem(data, at, expected, at);
    g_assert_cmpmem(data + at, sizeof(page), page, sizeof(page));
    g_assert_cmpmem(data + at + sizeof(page), sizeof(behind), behind, sizeof(behind));
}

static void test_devices_stay(void)
{
    static const char *const files[] = { "pc.stream", "q35.stream" };
    for (guint f = 0; f < G_N_ELEMENTS(files); f++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(GBytes) saved = test_data(files[f]);
        g_autoptr(GBytes) stream = stasis_vmstate_with_machine(saved, "pc-i440fx-7.2", &error);
        g_autoptr(StasisVmstateRam) ram = stasis_vmstate_ram_new();
        stasis_vmstate_ram_add_block(ram, "pc.ram", 4096);
        stasis_vmstate_ram_add_page(ram, 0, "pc.ram", 0, NULL);
        g_autoptr(GBytes) with = stasis_vmstate_with_ram(stream, ram, &error);
        g_assert_no_error(error);
        g_autoptr(StasisVmstate) before = stasis_vmstate_parse(stream, &error);
        g_autoptr(StasisVmstate) after = stasis_vmstate_parse(with, &error);
        g_assert_no_error(error);
        guint n = stasis_vmstate_get_n_sections(before);
        g_assert_cmpuint(stasis_vmstate_get_n_sections(after), ==, n + 2);
        g_assert_cmpstr(stasis_vmstate_get_machine(after), ==, "pc-i440fx-7.2");
        g_assert_cmpstr(stasis_vmstate_get_section(after, 0)->name, ==, "ram");
        for (guint i = 0; i < n; i++) {
            g_autoptr(GBytes) a =
                stasis_vmstate_get_payload(before, stasis_vmstate_get_section(before, i));
            g_autoptr(GBytes) b =
                stasis_vmstate_get_payload(after, stasis_vmstate_get_section(after, i + 2));
            g_assert_true(g_bytes_equal(a, b));
        }
        /* There is RAM in it now: it gets none twice. */
        g_autoptr(GBytes) twice = stasis_vmstate_with_ram(with, ram, &error);
        g_assert_null(twice);
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    }
}

/* In pieces it is the same stream. */
static void test_pieces(void)
{
    guint8 page[4096];
    memset(page, 'p', sizeof(page));
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) saved = test_data("pc.stream");
    g_autoptr(StasisVmstateRam) ram = stasis_vmstate_ram_new();
    g_autoptr(StasisVmstateRam) pieces = stasis_vmstate_ram_new();
    g_autoptr(GByteArray) joined = g_byte_array_new();
    g_autoptr(GBytes) head = NULL, tail = NULL;
    stasis_vmstate_ram_add_block(ram, "a", 40960);
    stasis_vmstate_ram_add_block(pieces, "a", 40960);
    g_assert_true(stasis_vmstate_ram_frame(pieces, saved, &head, &tail, &error));
    g_byte_array_append(joined, g_bytes_get_data(head, NULL), (guint)g_bytes_get_size(head));
    for (guint i = 0; i < 10; i++) {
        const guint8 *bytes = i % 3 == 0 ? NULL : page;
        stasis_vmstate_ram_add_page(ram, 0, "a", i * 4096, bytes);
        stasis_vmstate_ram_add_page(pieces, 0, "a", i * 4096, bytes);
        if (stasis_vmstate_ram_get_pending(pieces) > 8192) {
            g_autoptr(GBytes) some = stasis_vmstate_ram_take_pages(pieces);
            g_byte_array_append(joined, g_bytes_get_data(some, NULL),
                                (guint)g_bytes_get_size(some));
            g_assert_cmpuint(stasis_vmstate_ram_get_pending(pieces), ==, 0);
        }
    }
    g_autoptr(GBytes) rest = stasis_vmstate_ram_take_pages(pieces);
    g_byte_array_append(joined, g_bytes_get_data(rest, NULL), (guint)g_bytes_get_size(rest));
    g_byte_array_append(joined, g_bytes_get_data(tail, NULL), (guint)g_bytes_get_size(tail));
    g_autoptr(GBytes) whole = stasis_vmstate_with_ram(saved, ram, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(joined->data, joined->len, g_bytes_get_data(whole, NULL),
                    g_bytes_get_size(whole));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/device/ram/bytes", test_bytes);
    g_test_add_func("/device/ram/devices-stay", test_devices_stay);
    g_test_add_func("/device/ram/pieces", test_pieces);
    return g_test_run();
}

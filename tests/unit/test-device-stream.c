/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a migration stream is read as QEMU would load it, or refused by name. */
#include <device/stream-read.h>
#include <device/vmstate.h>
#include <stasis/error.h>
#include <string.h>

#include "test-device-data.h"

#define PAGE 4096u
#define N_PAGES 8u

typedef struct {
    const guint8 *data;
    gsize left, step;
    GString *blocks;
    guint8 memory[2][N_PAGES * PAGE];
} Reader;

static gssize give(void *buf, gsize len, gpointer user_data, GError **error)
{
    Reader *reader = user_data;
    gsize n = MIN(MIN(len, reader->step), reader->left);
    memcpy(buf, reader->data, n);
    reader->data += n;
    reader->left -= n;
    return (gssize)n;
}

static gboolean take_block(guint block, const char *name, guint64 size_bytes, gpointer user_data,
                           GError **error)
{
    Reader *reader = user_data;
    g_string_append_printf(reader->blocks, "%u:%s:%" G_GUINT64_FORMAT " ", block, name, size_bytes);
    return TRUE;
}

static gboolean take_page(guint block, guint64 offset, const guint8 *page, gpointer user_data,
                          GError **error)
{
    Reader *reader = user_data;
    g_assert_cmpuint(block, <, 2);
    if (page != NULL)
        memcpy(reader->memory[block] + offset, page, PAGE);
    else
        memset(reader->memory[block] + offset, 0, PAGE);
    return TRUE;
}

static GBytes *read_stream(Reader *reader, const void *data, gsize len, gsize step, GError **error)
{
    *reader = (Reader){ .data = data, .left = len, .step = step, .blocks = g_string_new(NULL) };
    StasisStreamOps ops = { give, take_block, take_page, reader };
    GBytes *devices = stasis_stream_read(&ops, error);
    return devices;
}

/* Two blocks; a page that comes twice. */
static GBytes *make_stream(GBytes **ret_devices)
{
    g_autoptr(GError) error = NULL;
    guint8 page[PAGE];
    g_autoptr(GBytes) saved = test_data("pc.stream");
    *ret_devices = stasis_vmstate_with_machine(saved, "pc-i440fx-7.2", &error);
    g_autoptr(StasisVmstateRam) ram = stasis_vmstate_ram_new();
    stasis_vmstate_ram_add_block(ram, "pc.ram", N_PAGES * PAGE);
    stasis_vmstate_ram_add_block(ram, "pc.bios", N_PAGES * PAGE);
    for (guint block = 0; block < 2; block++)
        for (guint i = 0; i < N_PAGES; i++) {
            memset(page, (int)(block * 100 + i), sizeof page);
            stasis_vmstate_ram_add_page(ram, block, block == 0 ? "pc.ram" : "pc.bios", i * PAGE,
                                        page);
        }
    memset(page, 77, sizeof page);
    stasis_vmstate_ram_add_page(ram, 0, "pc.ram", 3 * PAGE, page);
    stasis_vmstate_ram_add_page(ram, 0, "pc.ram", 4 * PAGE, NULL);
    GBytes *stream = stasis_vmstate_with_ram(*ret_devices, ram, &error);
    g_assert_no_error(error);
    return stream;
}

/* The last of a page counts, and the devices come out as they went in, in whatever pieces. */
static void test_round_trip(void)
{
    static const gsize steps[] = { 1, 7, 4096, 1u << 20 };
    g_autoptr(GBytes) devices = NULL;
    g_autoptr(GBytes) stream = make_stream(&devices);
    for (guint s = 0; s < G_N_ELEMENTS(steps); s++) {
        g_autoptr(GError) error = NULL;
        Reader reader;
        g_autoptr(GBytes) got = read_stream(&reader, g_bytes_get_data(stream, NULL),
                                            g_bytes_get_size(stream), steps[s], &error);
        g_assert_no_error(error);
        g_assert_true(g_bytes_equal(got, devices));
        g_assert_cmpstr(reader.blocks->str, ==, "0:pc.ram:32768 1:pc.bios:32768 ");
        g_string_free(reader.blocks, TRUE);
        for (guint i = 0; i < N_PAGES * PAGE; i++) {
            guint page = i / PAGE;
            guint want = page == 3 ? 77 : page == 4 ? 0 : page;
            g_assert_cmpuint(reader.memory[0][i], ==, want);
            g_assert_cmpuint(reader.memory[1][i], ==, 100 + page);
        }
    }
}

/* Cut short anywhere before the devices: said with the offset. */
static void test_truncated(void)
{
    g_autoptr(GBytes) devices = NULL;
    g_autoptr(GBytes) stream = make_stream(&devices);
    gsize ram = g_bytes_get_size(stream) - g_bytes_get_size(devices);
    for (gsize len = 0; len < ram; len += len < 200 ? 1 : 997) {
        g_autoptr(GError) error = NULL;
        Reader reader;
        g_autoptr(GBytes) got =
            read_stream(&reader, g_bytes_get_data(stream, NULL), len, 4096, &error);
        g_string_free(reader.blocks, TRUE);
        g_assert_null(got);
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
        g_assert_nonnull(strstr(error->message, "offset"));
    }
}

#define HEAD "QEVM\0\0\0\3\7\0\0\0\2pc"
#define START "\1\0\0\0\2\3ram\0\0\0\0\0\0\0\4"
#define BLOCKS "\0\0\0\0\0\0\x10\4\1a\0\0\0\0\0\0\x10\0"
#define EOS "\0\0\0\0\0\0\0\x10"
#define FOOTER "\x7e\0\0\0\2"

static const struct {
    const char *bytes;
    gsize len;
    int code;
    const char *says;
} bad[] = {
#define BAD(text, code, says)                             \
    {                                                     \
        text, sizeof(text) - 1, STASIS_ERROR_##code, says \
    }
    BAD("QEVM\0\0\0\2", CORRUPT, "header"),
    BAD(HEAD "\5\x1a"
             "configuration/capabilities\0\0\0\1\0\0\0\1\x0fx-ignore-shared",
        UNSUPPORTED, "x-ignore-shared"),
    BAD(HEAD "\x08\0\3\0\0", UNSUPPORTED, "postcopy"),
    BAD(HEAD "\x08\0\7\0\0", UNSUPPORTED, "postcopy"),
    BAD(HEAD "\1\0\0\0\2\5"
             "block\0\0\0\0\0\0\0\4",
        UNSUPPORTED, "\"block\""),
    BAD(HEAD "\4\0\0\0\2\5timer\0\0\0\0\0\0\0\4", UNSUPPORTED, "before its memory"),
    BAD(HEAD START BLOCKS "\0\0\0\0\0\0\0\x40", UNSUPPORTED, "xbzrle"),
    BAD(HEAD START BLOCKS "\0\0\0\0\0\0\1\0", UNSUPPORTED, "compress"),
    BAD(HEAD START BLOCKS "\0\0\0\0\0\0\2\0", UNSUPPORTED, "multifd"),
    BAD(HEAD START BLOCKS EOS FOOTER "\3\0\0\0\2" EOS FOOTER "\4", UNSUPPORTED, "multifd"),
    BAD(HEAD START "\0\0\0\0\0\0\x20\4\1a\0\0\0\0\0\0\x10\0\1a\0\0\0\0\0\0\x10\0", CORRUPT,
        "list of RAM"),
    BAD(HEAD START "\0\0\0\0\0\0\x10\4\1a\0\0\0\0\0\0\x20\0", CORRUPT, "list of RAM"),
    BAD(HEAD START "\xff\0\0\0\0\0\x10\4", CORRUPT, "16 TiB"),
    BAD(HEAD START "\0\0\x10\0\0\0\x10\4\1a\0\0\x10\0\0\0\x10\0", CORRUPT, "16 TiB"),
    BAD(HEAD START BLOCKS BLOCKS, CORRUPT, "list of RAM"),
    BAD(HEAD START BLOCKS "\0\0\0\0\0\0\0\2\1b\0", CORRUPT, "no RAM block"),
    BAD(HEAD START BLOCKS "\0\0\0\0\0\0\x10\2\1a\0", CORRUPT, "behind"),
    BAD(HEAD START BLOCKS "\0\0\0\0\0\0\0\x22\0", CORRUPT, "no RAM block"),
    BAD(HEAD START BLOCKS EOS "\3\0\0\0\2", CORRUPT, "footer"),
    BAD(HEAD START BLOCKS EOS FOOTER "\3\0\0\0\3", CORRUPT, "not begun"),
};

/* What a single plain stream does not hold is refused by name, what is malformed with its offset.
 */
static void test_refused(void)
{
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        Reader reader;
        g_autoptr(GBytes) got = read_stream(&reader, bad[i].bytes, bad[i].len, 4096, &error);
        g_string_free(reader.blocks, TRUE);
        g_assert_null(got);
        g_assert_error(error, STASIS_ERROR, bad[i].code);
        g_test_message("%s", error->message);
        g_assert_nonnull(strstr(error->message, bad[i].says));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/device/stream/round-trip", test_round_trip);
    g_test_add_func("/device/stream/truncated", test_truncated);
    g_test_add_func("/device/stream/refused", test_refused);
    return g_test_run();
}

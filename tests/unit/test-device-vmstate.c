/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A device state stream is cut into the sections that QEMU wrote, or refused with a clear error. */
#include <device/vmstate.h>
#include <glib/gstdio.h>
#include <stasis/error.h>
#include <string.h>
#include <time.h>

#include "test-device-data.h"

static void put_be32(GByteArray *out, guint32 value)
{
    guint32 be = GUINT32_TO_BE(value);
    g_byte_array_append(out, (const guint8 *)&be, 4);
}

static void put_bytes(GByteArray *out, const void *data, gsize len)
{
    g_byte_array_append(out, data, (guint)len);
}

static void put_footer(GByteArray *out, guint32 id)
{
    put_bytes(out, "\x7e", 1);
    put_be32(out, id);
}

/* A section's header and payload, without its footer. */
static void put_open(GByteArray *out, guint8 type, guint32 id, const char *name,
                     const void *payload, gsize len)
{
    guint8 name_len = (guint8)strlen(name);
    put_bytes(out, &type, 1);
    put_be32(out, id);
    if (name_len > 0) {
        put_bytes(out, &name_len, 1);
        put_bytes(out, name, name_len);
        put_be32(out, 0);
        put_be32(out, 1);
    }
    put_bytes(out, payload, len);
}

static void put_section(GByteArray *out, guint32 id, const char *name, const void *payload,
                        gsize len)
{
    put_open(out, 4, id, name, payload, len);
    put_footer(out, id);
}

static GByteArray *begin(void)
{
    GByteArray *out = g_byte_array_new();
    put_bytes(out, "QEVM\0\0\0\3", 8);
    return out;
}

/* Ends and parses what begin() began. */
static StasisVmstate *finish(GByteArray *out, GError **error)
{
    put_bytes(out, "\0", 1);
    g_autoptr(GBytes) stream = g_byte_array_free_to_bytes(out);
    return stasis_vmstate_parse(stream, error);
}

static void assert_section(StasisVmstate *vmstate, guint i, const char *name, gsize size)
{
    const StasisVmstateSection *section = stasis_vmstate_get_section(vmstate, i);
    g_assert_nonnull(section);
    g_assert_cmpstr(section->name, ==, name);
    g_assert_cmpuint(section->payload_size, ==, size);
}

static void assert_size(StasisVmstate *vmstate, const char *name, guint32 instance, gsize size)
{
    const StasisVmstateSection *section = stasis_vmstate_find(vmstate, name, instance);
    g_assert_nonnull(section);
    g_assert_cmpuint(section->payload_size, ==, size);
}

/* Sizes are those of QEMU's own description of these machines. */
static void test_real_streams(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) pc_stream = test_data("pc.stream");
    g_autoptr(StasisVmstate) pc = stasis_vmstate_parse(pc_stream, &error);
    g_assert_no_error(error);
    g_assert_null(stasis_vmstate_get_machine(pc));
    g_assert_cmpuint(stasis_vmstate_get_n_sections(pc), ==, 33);
    assert_section(pc, 0, "timer", 24);
    assert_size(pc, "cpu_common", 1, 8);
    assert_size(pc, "kvm-tpr-opt", 0, 144);
    assert_size(pc, "apic", 1, 181);
    assert_size(pc, "i8259", 1, 16);
    assert_section(pc, 32, "globalstate", 104);
    g_assert_cmpuint(stasis_vmstate_find(pc, "cpu", 1)->version, ==, 12);
    g_assert_null(stasis_vmstate_find(pc, "cpu", 2));
    g_assert_null(stasis_vmstate_get_section(pc, 33));

    g_autoptr(GBytes) q35_stream = test_data("q35.stream");
    g_autoptr(StasisVmstate) q35 = stasis_vmstate_parse(q35_stream, &error);
    g_assert_no_error(error);
    assert_size(q35, "0000:00:1f.2/ich9_ahci", 0, 4168);
    assert_size(q35, "vmmouse", 0, 4105);
    assert_size(q35, "serial", 0, 11);
}

/* Configuration with a capability, description at the end. */
static void test_full_stream(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) stream = test_data("microvm-full.stream");
    g_autoptr(StasisVmstate) vmstate = stasis_vmstate_parse(stream, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(stasis_vmstate_get_machine(vmstate), ==, "microvm");
    g_assert_cmpuint(stasis_vmstate_get_n_sections(vmstate), ==, 14);
    assert_section(vmstate, 0, "timer", 24);
    assert_size(vmstate, "ioapic", 1, 206);
}

/* Payloads that look like footers, or like footers and sections, don't mislead the reader. */
static void test_lookalikes(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GByteArray) inner = g_byte_array_new();
    put_footer(inner, 1);
    put_section(inner, 9, "fake", "abc", 3);
    put_footer(inner, 1);
    GByteArray *out = begin();
    put_section(out, 1, "a", inner->data, inner->len);
    put_section(out, 2, "b", "\x7e\0\0\0\2\0", 6);
    g_autoptr(StasisVmstate) vmstate = finish(out, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(stasis_vmstate_get_n_sections(vmstate), ==, 2);
    assert_section(vmstate, 0, "a", inner->len);
    assert_section(vmstate, 1, "b", 6);
}

/* pc.stream with @n bytes of xmm0 of its CPU (section 5) as a guest may set them. */
static GBytes *with_guest_bytes(const void *bytes, gsize n)
{
    g_autoptr(GBytes) stream = test_data("pc.stream");
    gsize len;
    gconstpointer data = g_bytes_get_data(stream, &len);
    guint8 *copy = g_memdup2(data, len);
    memcpy(copy + 670, bytes, n);
    return g_bytes_new_take(copy, len);
}

/* A guest can't end its CPU's state by what looks like a part of a section: QEMU writes none. */
static void test_guest_makes_parts(void)
{
    static const guint8 types[] = { 1, 2, 3 };
    for (gsize i = 0; i < G_N_ELEMENTS(types); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(GByteArray) evil = g_byte_array_new();
        put_footer(evil, 5);
        put_open(evil, types[i], 5, types[i] == 1 ? "zz" : "", "", 0);
        g_autoptr(GBytes) stream = with_guest_bytes(evil->data, evil->len);
        g_autoptr(GBytes) honest_stream = test_data("pc.stream");
        g_autoptr(StasisVmstate) vmstate = stasis_vmstate_parse(stream, &error);
        g_assert_no_error(error);
        g_autoptr(StasisVmstate) honest = stasis_vmstate_parse(honest_stream, &error);
        g_assert_cmpuint(stasis_vmstate_get_n_sections(vmstate), ==, 33);
        assert_size(vmstate, "cpu", 0, stasis_vmstate_find(honest, "cpu", 0)->payload_size);
    }
}

/* What looks like another device is one by itself, but not beside a stream of the same machine. */
static void test_guest_makes_device(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GByteArray) evil = g_byte_array_new();
    put_footer(evil, 5);
    put_open(evil, 4, 6, "zz", "", 0);
    g_autoptr(GBytes) stream = with_guest_bytes(evil->data, evil->len);
    g_autoptr(GBytes) honest_stream = test_data("pc.stream");
    g_autoptr(StasisVmstate) alone = stasis_vmstate_parse(stream, &error);
    g_assert_no_error(error);
    g_assert_nonnull(stasis_vmstate_find(alone, "zz", 0));
    g_autoptr(StasisVmstate) honest = stasis_vmstate_parse(honest_stream, &error);
    g_assert_no_error(error);
    g_autoptr(StasisVmstate) like = stasis_vmstate_parse_like(stream, honest);
    g_assert_nonnull(like);
    g_assert_cmpuint(stasis_vmstate_get_n_sections(like), ==, 33);
    for (guint i = 0; i < 33; i++) {
        const StasisVmstateSection *section = stasis_vmstate_get_section(honest, i);
        assert_section(like, i, section->name, section->payload_size);
    }
    /* A machine that is another one stays so. */
    g_autoptr(StasisVmstate) other = stasis_vmstate_parse_like(honest_stream, alone);
    g_assert_null(other);
    gboolean wanted[33];
    for (guint i = 0; i < 33; i++)
        wanted[i] = i != 20;
    g_autoptr(GBytes) less = stasis_vmstate_pick(honest, wanted, &error);
    g_autoptr(StasisVmstate) picked = stasis_vmstate_parse(less, &error);
    g_assert_no_error(error);
    g_autoptr(StasisVmstate) more = stasis_vmstate_parse_like(less, honest);
    g_assert_null(more);
    g_autoptr(StasisVmstate) fewer = stasis_vmstate_parse_like(honest_stream, picked);
    g_assert_null(fewer);
}

/* A cut in which a section id occurs twice is not taken while there is another. */
static void test_section_ids_are_unique(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GByteArray) inner = g_byte_array_new();
    put_footer(inner, 1);
    put_open(inner, 4, 1, "again", "xyz", 3);
    GByteArray *out = begin();
    put_section(out, 1, "a", inner->data, inner->len);
    put_section(out, 2, "b", "", 0);
    g_autoptr(StasisVmstate) vmstate = finish(out, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(stasis_vmstate_get_n_sections(vmstate), ==, 2);
    assert_section(vmstate, 0, "a", inner->len);
}

static GByteArray *begin_ambiguous(void)
{
    g_autoptr(GByteArray) inner = g_byte_array_new();
    put_footer(inner, 1);
    put_open(inner, 4, 2, "other", "", 0);
    GByteArray *out = begin();
    put_section(out, 1, "a", inner->data, inner->len);
    put_section(out, 2, "b", "", 0);
    return out;
}

/* Where two cuts are possible the same one is taken every time, and a description decides. */
static void test_ambiguity(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisVmstate) nearest = finish(begin_ambiguous(), &error);
    g_assert_no_error(error);
    assert_section(nearest, 0, "a", 0);
    assert_section(nearest, 1, "other", 20);

    const char text[] = "{\"devices\":[{\"name\":\"a\",\"instance_id\":0,\"fields\":["
                        "{\"size\":2,\"array_len\":5}],\"subsections\":[{\"vmsd_name\":\"q\","
                        "\"fields\":[{\"size\":1}]}, {\"vmsd_name\":\"\",\"fields\":[]}]}]}";
    GByteArray *out = begin_ambiguous();
    put_bytes(out, "\0\6", 2);
    put_be32(out, sizeof text - 1);
    put_bytes(out, text, sizeof text - 1);
    g_autoptr(GBytes) stream = g_byte_array_free_to_bytes(out);
    g_autoptr(StasisVmstate) described = stasis_vmstate_parse(stream, &error);
    g_assert_no_error(error);
    assert_section(described, 0, "a", 2 * 5 + 7 + 1 + 6);
    assert_section(described, 1, "b", 0);
}

/* RAM's START, PART and END come as sections of one name; PART needs its START. */
static void test_parts(void)
{
    g_autoptr(GError) error = NULL;
    GByteArray *out = begin();
    put_open(out, 1, 2, "ram", "abc", 3);
    put_footer(out, 2);
    put_open(out, 2, 2, "", "defg", 4);
    put_footer(out, 2);
    put_open(out, 3, 2, "", "", 0);
    put_footer(out, 2);
    put_section(out, 3, "timer", "x", 1);
    g_autoptr(StasisVmstate) vmstate = finish(out, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(stasis_vmstate_get_n_sections(vmstate), ==, 4);
    assert_section(vmstate, 1, "ram", 4);
    assert_section(vmstate, 2, "ram", 0);

    out = begin();
    put_open(out, 2, 2, "", "defg", 4);
    put_footer(out, 2);
    g_autoptr(StasisVmstate) orphan = finish(out, &error);
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    g_assert_null(orphan);
}

/* Every cut-off real stream is refused, and so are streams that never were one. */
static void test_truncated(void)
{
    g_autoptr(GBytes) stream = test_data("pc.stream");
    gsize len = g_bytes_get_size(stream);
    for (gsize n = 0; n < len; n += n < 600 || n > len - 600 ? 1 : 61) {
        g_autoptr(GError) error = NULL;
        g_autoptr(GBytes) part = g_bytes_new_from_bytes(stream, 0, n);
        g_autoptr(StasisVmstate) vmstate = stasis_vmstate_parse(part, &error);
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
        g_assert_null(vmstate);
    }
    static const char *const junk[] = { "QEVX\0\0\0\3\0", "QEVM\0\0\0\2\0", "QEVM\0\0\0\3x\0",
                                        "QEVM\0\0\0\3\7\0" };
    for (gsize i = 0; i < G_N_ELEMENTS(junk); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(GBytes) bytes = g_bytes_new_static(junk[i], i < 2 ? 9 : 10);
        g_autoptr(StasisVmstate) vmstate = stasis_vmstate_parse(bytes, &error);
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
        g_assert_null(vmstate);
    }
}

/* The error names the first section that is not whole, and where it is. */
static void test_error_names_section(void)
{
    g_autoptr(GError) error = NULL;
    GByteArray *out = begin();
    put_section(out, 1, "timer", "abc", 3);
    put_open(out, 4, 2, "broken", "abcdefgh", 8);
    g_autoptr(StasisVmstate) vmstate = finish(out, &error);
    g_assert_null(vmstate);
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    g_assert_nonnull(strstr(error->message, "section 2 \"broken\" at offset 35"));
}

/* Parts of the configuration that only a later QEMU knows don't matter. */
static void test_unknown_configuration(void)
{
    g_autoptr(GError) error = NULL;
    GByteArray *out = begin();
    put_bytes(out, "\7\0\0\0\2pc", 7);
    put_bytes(out,
              "\5\x12"
              "configuration/uuid"
              "\0\0\0\1"
              "0123456789abcdef",
              40);
    put_bytes(out,
              "\5\x12"
              "configuration/what"
              "\0\0\0\1"
              "zzz",
              27);
    put_section(out, 1, "timer", "abc", 3);
    g_autoptr(StasisVmstate) vmstate = finish(out, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(stasis_vmstate_get_machine(vmstate), ==, "pc");
    g_assert_cmpuint(stasis_vmstate_get_n_sections(vmstate), ==, 1);
    assert_section(vmstate, 0, "timer", 3);
}

/* The machine type is put in once; a stream of another machine is refused. */
static void test_with_machine(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) stream = test_data("pc.stream");
    g_autoptr(GBytes) with = stasis_vmstate_with_machine(stream, "pc-i440fx-7.2", &error);
    g_assert_no_error(error);
    gsize len;
    const guint8 *data = g_bytes_get_data(with, &len);
    const guint8 *old = g_bytes_get_data(stream, NULL);
    g_assert_cmpmem(data, 26, "QEVM\0\0\0\3\7\0\0\0\rpc-i440fx-7.2", 26);
    g_assert_cmpmem(data + 26, len - 26, old + 8, g_bytes_get_size(stream) - 8);
    g_autoptr(GBytes) twice = stasis_vmstate_with_machine(with, "pc-i440fx-7.2", &error);
    g_assert_true(twice == with);
    g_autoptr(GBytes) other = stasis_vmstate_with_machine(with, "pc-i440fx-7", &error);
    g_assert_null(other);
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    g_clear_error(&error);
    g_autoptr(GBytes) empty = stasis_vmstate_with_machine(stream, "", &error);
    g_assert_null(empty);
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
}

/* One device's state is replaced and nothing else; what would hide a boundary is refused. */
static void test_replace(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) stream = test_data("q35.stream");
    g_autoptr(StasisVmstate) vmstate = stasis_vmstate_parse(stream, &error);
    g_assert_no_error(error);
    const StasisVmstateSection *serial = stasis_vmstate_find(vmstate, "serial", 0);
    g_autoptr(GBytes) payload = g_bytes_new_static("0123456789abcdef", 16);
    g_autoptr(GBytes) changed = stasis_vmstate_replace(vmstate, serial, payload, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(g_bytes_get_size(changed), ==, g_bytes_get_size(stream) + 5);
    const guint8 *a = g_bytes_get_data(stream, NULL), *b = g_bytes_get_data(changed, NULL);
    gsize at = serial->payload_offset, behind = g_bytes_get_size(stream) - at - 11;
    g_assert_cmpmem(a, at, b, at);
    g_assert_cmpmem(b + at, 16, "0123456789abcdef", 16);
    g_assert_cmpmem(a + at + 11, behind, b + at + 16, behind);

    g_autoptr(StasisVmstate) parsed = stasis_vmstate_parse(changed, &error);
    g_assert_no_error(error);
    g_autoptr(GBytes) old = stasis_vmstate_get_payload(vmstate, serial);
    g_autoptr(GBytes) back =
        stasis_vmstate_replace(parsed, stasis_vmstate_find(parsed, "serial", 0), old, &error);
    g_assert_true(g_bytes_equal(back, stream));

    g_autoptr(GByteArray) evil = g_byte_array_new();
    put_footer(evil, serial->section_id);
    put_open(evil, 4, stasis_vmstate_find(vmstate, "ps2kbd", 0)->section_id, "fake", "", 0);
    g_autoptr(GBytes) evil_bytes = g_bytes_new(evil->data, evil->len);
    g_autoptr(GBytes) refused = stasis_vmstate_replace(vmstate, serial, evil_bytes, &error);
    g_assert_null(refused);
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
}

/* A stream of one device, "dev", with @payload and the description @fields of it. */
static StasisVmstate *described_device(const void *payload, gsize len, const char *fields)
{
    g_autoptr(GError) error = NULL;
    GByteArray *out = begin();
    put_section(out, 1, "dev", payload, len);
    put_bytes(out, "\0\6", 2);
    g_autofree char *text =
        g_strdup_printf("{\"devices\":[{\"name\":\"dev\",\"instance_id\":0,%s}]}", fields);
    put_be32(out, (guint32)strlen(text));
    put_bytes(out, text, strlen(text));
    g_autoptr(GBytes) stream = g_byte_array_free_to_bytes(out);
    StasisVmstate *vmstate = stasis_vmstate_parse(stream, &error);
    g_assert_no_error(error);
    return vmstate;
}

/* Arrays, structures, subsections, and bytes in a row: as QEMU describes them. */
static void test_fields(void)
{
    static const char payload[] = "\0\0\0\1"
                                  "\0\2\3"
                                  "\0\4\5"
                                  "abc"
                                  "\7"
                                  "\5\7dev/sub\0\0\0\1"
                                  "\6";
    static const char description[] =
        "\"fields\":[{\"name\":\"a\",\"type\":\"uint32\",\"size\":4},"
        "{\"name\":\"s\",\"array_len\":2,\"type\":\"struct\",\"size\":3,\"struct\":{\"fields\":["
        "{\"name\":\"x\",\"type\":\"uint16\",\"size\":2},{\"name\":\"y\",\"type\":\"uint8\","
        "\"size\":1}]}},{\"name\":\"b\",\"array_len\":3,\"type\":\"uint8\",\"size\":1},"
        "{\"name\":\"i\",\"index\":4,\"type\":\"bool\",\"size\":1}],"
        "\"subsections\":[{\"vmsd_name\":\"dev/sub\",\"fields\":[{\"name\":\"z\","
        "\"type\":\"uint8\",\"size\":1}]}]";
    static const struct {
        const char *path, *type;
        gsize offset, size;
    } expected[] = {
        { "a", "uint32", 0, 4 },      { "s[0].x", "uint16", 4, 2 },    { "s[0].y", "uint8", 6, 1 },
        { "s[1].x", "uint16", 7, 2 }, { "s[1].y", "uint8", 9, 1 },     { "b", "buffer", 10, 3 },
        { "i[4]", "bool", 13, 1 },    { "dev/sub:z", "uint8", 27, 1 },
    };
    g_autoptr(StasisVmstate) vmstate = described_device(payload, sizeof payload - 1, description);
    g_autoptr(GPtrArray) fields =
        stasis_vmstate_get_fields(vmstate, stasis_vmstate_get_section(vmstate, 0));
    g_assert_nonnull(fields);
    g_assert_cmpuint(fields->len, ==, G_N_ELEMENTS(expected));
    for (guint i = 0; i < fields->len; i++) {
        const StasisVmstateField *field = fields->pdata[i];
        g_assert_cmpstr(field->path, ==, expected[i].path);
        g_assert_cmpstr(field->type, ==, expected[i].type);
        g_assert_cmpuint(field->offset, ==, expected[i].offset);
        g_assert_cmpuint(field->size_bytes, ==, expected[i].size);
    }
}

/* A description of something else is not believed, whatever it claims. */
static void test_fields_do_not_fit(void)
{
    static const char *const wrong[] = {
        "\"fields\":[{\"name\":\"a\",\"size\":3}]",
        "\"fields\":[{\"name\":\"a\",\"size\":5}]",
        "\"fields\":[{\"name\":\"a\",\"size\":2,\"array_len\":4611686018427387905}]",
        "\"fields\":[{\"name\":\"a\",\"size\":0,\"array_len\":4000000000}]",
        "\"fields\":[{\"name\":\"a\",\"size\":4,\"struct\":{\"fields\":[]}}]",
        "\"fields\":[{\"name\":\"a\",\"size\":2,\"struct\":{\"fields\":[{\"size\":4}]}}]",
        "\"fields\":[7]",
        "\"fields\":[],\"subsections\":[{\"vmsd_name\":\"x\"}]",
        "\"size\":4",
    };
    for (gsize i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autoptr(StasisVmstate) vmstate = described_device("abcd", 4, wrong[i]);
        g_assert_null(stasis_vmstate_get_fields(vmstate, stasis_vmstate_get_section(vmstate, 0)));
    }
}

/* A name is told of each element of an array: it can't be of any length. */
static void test_fields_long(void)
{
    static const char *const shapes[][2] = {
        { "\"fields\":[{\"name\":\"", "\",\"type\":\"t\",\"size\":2,\"array_len\":32768}]" },
        { "\"fields\":[{\"type\":\"", "\",\"name\":\"n\",\"size\":2,\"array_len\":32768}]" },
    };
    g_autofree char *payload = g_malloc0(65536);
    for (gsize i = 0; i < G_N_ELEMENTS(shapes); i++)
        for (guint n = 255; n <= 256; n++) {
            g_autofree char *text = g_strnfill(n, 'x');
            g_autofree char *shape = g_strconcat(shapes[i][0], text, shapes[i][1], NULL);
            g_autoptr(StasisVmstate) vmstate = described_device(payload, 65536, shape);
            g_autoptr(GPtrArray) fields =
                stasis_vmstate_get_fields(vmstate, stasis_vmstate_get_section(vmstate, 0));
            g_assert_cmpuint(fields != NULL ? fields->len : 0, ==, n == 255 ? 32768 : 0);
        }
}

/* A description of ours names every device with its size; one that is there stays. */
static void test_description(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) saved = test_data("pc.stream");
    g_autoptr(GBytes) described = stasis_vmstate_with_description(saved, &error);
    g_assert_no_error(error);
    gsize len, old_len;
    const guint8 *data = g_bytes_get_data(described, &len);
    const guint8 *old = g_bytes_get_data(saved, &old_len);
    g_assert_cmpmem(data, old_len, old, old_len);
    g_assert_cmpuint(data[old_len], ==, 6);
    g_autofree char *text = g_strndup((const char *)data + old_len + 5, len - old_len - 5);
    g_autoptr(StasisVmstate) before = stasis_vmstate_parse(saved, &error);
    g_autoptr(StasisVmstate) after = stasis_vmstate_parse(described, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(stasis_vmstate_get_n_sections(after), ==,
                     stasis_vmstate_get_n_sections(before));
    for (guint i = 0; i < stasis_vmstate_get_n_sections(after); i++) {
        const StasisVmstateSection *section = stasis_vmstate_get_section(after, i);
        g_autofree char *size = g_strdup_printf(
            "\"name\":\"%s\",\"instance_id\":%u,\"version\":%u,\"size\":%" G_GSIZE_FORMAT ",",
            section->name, section->instance, section->version, section->payload_size);
        g_assert_nonnull(strstr(text, size));
    }
    g_autoptr(GBytes) again = stasis_vmstate_with_description(described, &error);
    g_assert_true(g_bytes_equal(described, again));
}

/* The run state that a stream makes QEMU go on in can be told and changed. */
static void test_run_state(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) saved = test_data("pc.stream");
    g_autoptr(StasisVmstate) vmstate = stasis_vmstate_parse(saved, &error);
    g_assert_true(stasis_vmstate_is_running(vmstate));
    g_autoptr(GBytes) same = stasis_vmstate_with_running(vmstate, TRUE, &error);
    g_assert_true(g_bytes_equal(same, saved));
    g_autoptr(GBytes) paused = stasis_vmstate_with_running(vmstate, FALSE, &error);
    g_assert_no_error(error);
    g_autoptr(StasisVmstate) other = stasis_vmstate_parse(paused, &error);
    g_assert_false(stasis_vmstate_is_running(other));
    g_autoptr(GBytes) back = stasis_vmstate_with_running(other, TRUE, &error);
    g_assert_cmpuint(g_bytes_get_size(back), ==, g_bytes_get_size(saved));
    g_autoptr(StasisVmstate) third = stasis_vmstate_parse(back, &error);
    g_assert_true(stasis_vmstate_is_running(third));
}

/* A payload made to have 2^60 ways to be cut up costs no time and is one payload. */
static void test_search_is_bounded(void)
{
    g_autoptr(GByteArray) inner = g_byte_array_new();
    put_footer(inner, 99);
    for (guint i = 0; i < 60; i++) {
        put_open(inner, 4, i, "a", "", 0);
        put_footer(inner, i > 0 ? i - 1 : 99);
        put_open(inner, 4, i, "b", "", 0);
        put_footer(inner, i);
    }
    put_open(inner, 4, 99, "again", "", 0);
    GByteArray *out = begin();
    put_section(out, 99, "first", inner->data, inner->len);
    put_section(out, 100, "second", "x", 1);
    g_autoptr(GError) error = NULL;
    clock_t began = clock(); /* our own time: the machine may be busy */
    g_autoptr(StasisVmstate) vmstate = finish(out, &error);
    g_assert_cmpint(clock() - began, <, 5 * CLOCKS_PER_SEC);
    g_assert_no_error(error);
    g_assert_cmpuint(stasis_vmstate_get_n_sections(vmstate), ==, 2);
    assert_section(vmstate, 0, "first", inner->len);
}

/* Sections that are picked are as they were, in their order, and no others are there. */
static void test_pick(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) stream = test_data("q35.stream");
    g_autoptr(StasisVmstate) vmstate = stasis_vmstate_parse(stream, &error);
    guint n = stasis_vmstate_get_n_sections(vmstate), n_wanted = 0;
    g_autofree gboolean *wanted = g_new0(gboolean, n);
    for (guint i = 0; i < n; i += 3)
        wanted[i] = ++n_wanted > 0;
    g_autoptr(GBytes) picked = stasis_vmstate_pick(vmstate, wanted, &error);
    g_assert_no_error(error);
    g_autoptr(StasisVmstate) other = stasis_vmstate_parse(picked, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(stasis_vmstate_get_n_sections(other), ==, n_wanted);
    for (guint i = 0; i < n_wanted; i++) {
        const StasisVmstateSection *a = stasis_vmstate_get_section(vmstate, 3 * i);
        const StasisVmstateSection *b = stasis_vmstate_get_section(other, i);
        g_autoptr(GBytes) x = stasis_vmstate_get_payload(vmstate, a);
        g_autoptr(GBytes) y = stasis_vmstate_get_payload(other, b);
        g_assert_cmpstr(a->name, ==, b->name);
        g_assert_cmpuint(a->instance, ==, b->instance);
        g_assert_cmpuint(a->version, ==, b->version);
        g_assert_true(g_bytes_equal(x, y));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/device/vmstate/real-streams", test_real_streams);
    g_test_add_func("/device/vmstate/full-stream", test_full_stream);
    g_test_add_func("/device/vmstate/lookalikes", test_lookalikes);
    g_test_add_func("/device/vmstate/guest-makes-parts", test_guest_makes_parts);
    g_test_add_func("/device/vmstate/guest-makes-device", test_guest_makes_device);
    g_test_add_func("/device/vmstate/section-ids-are-unique", test_section_ids_are_unique);
    g_test_add_func("/device/vmstate/ambiguity", test_ambiguity);
    g_test_add_func("/device/vmstate/parts", test_parts);
    g_test_add_func("/device/vmstate/truncated", test_truncated);
    g_test_add_func("/device/vmstate/error-names-section", test_error_names_section);
    g_test_add_func("/device/vmstate/unknown-configuration", test_unknown_configuration);
    g_test_add_func("/device/vmstate/with-machine", test_with_machine);
    g_test_add_func("/device/vmstate/replace", test_replace);
    g_test_add_func("/device/vmstate/pick", test_pick);
    g_test_add_func("/device/vmstate/description", test_description);
    g_test_add_func("/device/vmstate/fields", test_fields);
    g_test_add_func("/device/vmstate/fields-do-not-fit", test_fields_do_not_fit);
    g_test_add_func("/device/vmstate/fields-long", test_fields_long);
    g_test_add_func("/device/vmstate/run-state", test_run_state);
    g_test_add_func("/device/vmstate/search-is-bounded", test_search_is_bounded);
    return g_test_run();
}

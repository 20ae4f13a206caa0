/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a frame comes out of the wire as it went in, however it is cut; what is no frame is
 * dropped, and nothing that follows it is. */
#include <glib.h>
#include <string.h>

#include "agent/field.h"
#include "agent/frame.h"

static StasisAgentDecoder decoder;
static guint8 wire[STASIS_AGENT_MAX_WIRE];

/* Feed @n bytes in pieces of @piece; the number of frames, the last of them in *ret. */
static guint feed(const guint8 *bytes, gsize n, gsize piece, StasisAgentFrame *ret)
{
    guint n_frames = 0;
    for (gsize at = 0; at < n;) {
        StasisAgentFrame frame;
        bool whole;
        gsize part = MIN(piece, n - at);
        gsize taken = stasis_agent_decode(&decoder, bytes + at, part, &frame, &whole);
        g_assert_cmpuint(taken, >, 0);
        g_assert_cmpuint(taken, <=, part);
        at += taken;
        n_frames += whole;
        if (whole)
            *ret = frame;
    }
    return n_frames;
}

/* A payload of one field of @n bytes. */
static guint32 fill(guint8 *payload, gsize n, guint pattern)
{
    g_autofree guint8 *value = g_malloc0(n + 1);
    StasisFieldWriter writer = { .payload = payload, .room = STASIS_AGENT_MAX_PAYLOAD };
    for (gsize i = 0; i < n; i++)
        value[i] = pattern == 0   ? 0
                   : pattern == 1 ? 1 + i % 255
                   : pattern == 2 ? (i % 255 == 0 ? 0 : 7)
                                  : (guint8)g_random_int();
    stasis_field_put(&writer, STASIS_AGENT_TAG_OUTPUT, value, (guint32)n);
    g_assert_false(writer.overflow);
    return writer.length;
}

static void test_round_trip(void)
{
    static const gsize sizes[] = { 0,
                                   1,
                                   200,
                                   226,
                                   227,
                                   228,
                                   229,
                                   253,
                                   254,
                                   255,
                                   256,
                                   480,
                                   481,
                                   482,
                                   507,
                                   508,
                                   509,
                                   5000,
                                   STASIS_AGENT_MAX_PAYLOAD - STASIS_AGENT_FIELD_HEADER_BYTES };
    static const gsize pieces[] = { 1, 7, 254, 4096, G_MAXSIZE };
    g_autofree guint8 *payload = g_malloc(STASIS_AGENT_MAX_PAYLOAD);
    for (guint i = 0; i < G_N_ELEMENTS(sizes) * 4; i++) {
        StasisAgentFrame got, sent = { .type = STASIS_AGENT_ANSWER,
                                       .flags = STASIS_AGENT_END,
                                       .code = 0x1234,
                                       .id = 0xfedcba9800000001,
                                       .payload = payload };
        sent.length = fill(payload, sizes[i / 4], i % 4);
        gsize n = stasis_agent_frame_write(&sent, wire);
        g_assert_cmpuint(n, <=, sizeof wire);
        g_assert_true(wire[0] == 0 && wire[n - 1] == 0);
        g_assert_null(memchr(wire + 1, 0, n - 2));
        for (guint j = 0; j < G_N_ELEMENTS(pieces); j++) {
            g_assert_cmpuint(feed(wire, n, pieces[j], &got), ==, 1);
            g_assert_cmpuint(got.type, ==, sent.type);
            g_assert_cmpuint(got.flags, ==, sent.flags);
            g_assert_cmpuint(got.code, ==, sent.code);
            g_assert_cmpuint(got.id, ==, sent.id);
            g_assert_cmpmem(got.payload, got.length, payload, sent.length);
        }
    }
    g_assert_cmpuint(decoder.n_dropped, ==, 0);
    StasisAgentFrame large = { .payload = payload, .length = STASIS_AGENT_MAX_PAYLOAD + 1 };
    g_assert_cmpuint(stasis_agent_frame_write(&large, wire), ==, 0);
}

/* A frame behind each beginning and each end of another, behind garbage, and behind a frame longer
 * than any may be. */
static void test_resynchronisation(void)
{
    g_autofree guint8 *payload = g_malloc(STASIS_AGENT_MAX_PAYLOAD);
    StasisAgentFrame got, sent = { .type = STASIS_AGENT_REQUEST, .id = 5, .payload = payload };
    sent.length = fill(payload, 300, 2);
    gsize n = stasis_agent_frame_write(&sent, wire);
    for (gsize cut = 0; cut < n; cut++) {
        /* One that lacks a border only is whole: its neighbour has it. */
        g_assert_cmpuint(feed(wire, cut, 100, &got), ==, 0);
        g_assert_cmpuint(feed(wire, n, 100, &got), ==, cut == n - 1 ? 2 : 1);
        g_assert_cmpuint(feed(wire + cut, n - cut, 100, &got), ==, cut <= 1);
        g_assert_cmpuint(feed(wire, n, 100, &got), ==, 1);
        g_assert_cmpmem(got.payload, got.length, payload, sent.length);
    }
    g_autofree guint8 *garbage = g_malloc(1 << 20);
    memset(garbage, 0xff, 1 << 20);
    g_assert_cmpuint(feed(garbage, 1 << 20, 4096, &got), ==, 0);
    g_assert_cmpuint(feed(wire, n, 100, &got), ==, 1);
    for (guint i = 0; i < 1 << 20; i++)
        garbage[i] = (guint8)g_random_int();
    guint64 dropped = decoder.n_dropped;
    g_assert_cmpuint(feed(garbage, 1 << 20, 4096, &got), ==, 0);
    g_assert_cmpuint(decoder.n_dropped, >, dropped + 1000);
    g_assert_cmpuint(feed(wire, n, 100, &got), ==, 1);
}

/* Each bit of a frame changed: it is dropped, or a frame that is well-formed. */
static void test_flips(void)
{
    g_autofree guint8 *payload = g_malloc(STASIS_AGENT_MAX_PAYLOAD);
    StasisAgentFrame got, sent = { .type = STASIS_AGENT_REQUEST, .id = 5, .payload = payload };
    sent.length = fill(payload, 40, 3);
    gsize n = stasis_agent_frame_write(&sent, wire);
    guint n_frames = 0;
    for (gsize bit = 0; bit < n * 8; bit++) {
        wire[bit / 8] ^= (guint8)(1 << bit % 8);
        if (feed(wire, n, 11, &got) > 0) {
            n_frames++;
            g_assert_true(stasis_fields_are_valid(got.payload, got.length));
        }
        wire[bit / 8] ^= (guint8)(1 << bit % 8);
        g_assert_cmpuint(feed(wire, n, 11, &got), ==, 1);
    }
    g_assert_cmpuint(n_frames, <, n * 8);
}

static void test_fields(void)
{
    guint8 room[64];
    StasisFieldWriter writer = { .payload = room, .room = sizeof room };
    StasisField field;
    stasis_field_put_number(&writer, STASIS_AGENT_TAG_LIMIT, 0x8000000000000001);
    stasis_field_put_text(&writer, STASIS_AGENT_TAG_PATH, "/a");
    stasis_field_put_text(&writer, STASIS_AGENT_TAG_MESSAGE, NULL);
    stasis_field_put(&writer, STASIS_AGENT_TAG_INPUT, "a\0b", 3);
    g_assert_cmpuint(stasis_field_number(room, writer.length, STASIS_AGENT_TAG_LIMIT, 3), ==,
                     0x8000000000000001);
    g_assert_cmpuint(stasis_field_number(room, writer.length, STASIS_AGENT_TAG_PATH, 3), ==, 3);
    g_assert_true(stasis_field_find(room, writer.length, STASIS_AGENT_TAG_PATH, &field));
    g_assert_true(stasis_field_is_text(&field, 2));
    g_assert_false(stasis_field_is_text(&field, 1));
    g_assert_true(stasis_field_find(room, writer.length, STASIS_AGENT_TAG_INPUT, &field));
    g_assert_false(stasis_field_is_text(&field, 10));
    g_assert_false(stasis_field_find(room, writer.length, STASIS_AGENT_TAG_MESSAGE, &field));
    for (guint32 length = 0; length < writer.length; length++)
        g_assert_true(stasis_fields_are_valid(room, length) ==
                      (length == 0 || length == 14 || length == 22));
    guint32 before = writer.length;
    stasis_field_put(&writer, STASIS_AGENT_TAG_INPUT, room, 60);
    g_assert_true(writer.overflow);
    g_assert_cmpuint(writer.length, ==, before);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/agent/frame/round-trip", test_round_trip);
    g_test_add_func("/agent/frame/resynchronisation", test_resynchronisation);
    g_test_add_func("/agent/frame/flips", test_flips);
    g_test_add_func("/agent/fields", test_fields);
    return g_test_run();
}

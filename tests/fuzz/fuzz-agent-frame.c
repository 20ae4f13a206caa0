/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: no bytes from either end of an agent's channel crash the other, keep it, or leak.
 *
 * The input is read three ways: as bytes for the decoder and the field parser (which both ends
 * have), cut in two where its first byte says; as all that a guest says to the client; and as
 * payloads of frames that answer just what the client has asked, since their ids are random. */
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/client.h"
#include "agent/frame.h"
#include "base/clock.h"
#include "base/fd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static StasisAgentDecoder decoder;
static uint8_t wire[STASIS_AGENT_MAX_WIRE];

static void read_all(const StasisAgentFrame *frame)
{
    StasisField field;
    unsigned sum = 0;
    if (!stasis_fields_are_valid(frame->payload, frame->length))
        __builtin_trap(); /* the decoder lets none through */
    for (uint32_t at = 0; stasis_field_next(frame->payload, frame->length, &at, &field);) {
        sum += stasis_field_is_text(&field, 64) + (unsigned)stasis_field_to_number(&field);
        for (uint32_t i = 0; i < field.length; i++)
            sum += field.value[i];
    }
    /* Written again it is the same frame. */
    StasisAgentFrame again;
    bool whole;
    size_t n = stasis_agent_frame_write(frame, wire);
    static StasisAgentDecoder other;
    stasis_agent_decoder_reset(&other);
    size_t taken = stasis_agent_decode(&other, wire, 1, &again, &whole);
    taken += stasis_agent_decode(&other, wire + 1, n - 1, &again, &whole);
    if (taken != n || !whole || again.id != frame->id || again.length != frame->length ||
        memcmp(again.payload, frame->payload, frame->length) != 0)
        __builtin_trap();
    (void)sum;
}

static void decode(const uint8_t *data, size_t size)
{
    while (size > 0) {
        StasisAgentFrame frame;
        bool whole;
        size_t n = stasis_agent_decode(&decoder, data, size, &frame, &whole);
        if (whole)
            read_all(&frame);
        data += n;
        size -= n;
    }
}

static gboolean take_part(const guint8 *fields, guint32 length, gpointer user_data, GError **error)
{
    return length < 1000;
}

/* Bytes of one frame with @payload: true as far as the header goes. */
static void answer(int fd, uint8_t type, uint16_t code, uint8_t flags, uint64_t id,
                   const uint8_t *payload, size_t length)
{
    StasisAgentFrame frame = { type, flags, code, id, payload, (uint32_t)MIN(length, 4096) };
    size_t n = stasis_agent_frame_write(&frame, wire);
    if (send(fd, wire, n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        return;
}

static void converse(const uint8_t *data, size_t size, bool raw)
{
    int ends[2];
    if (size < 4 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return;
    stasis_autofd int peer = ends[1];
    g_autoptr(StasisAgent) agent = stasis_agent_new(ends[0], "fuzz");
    StasisAgentWait wait = { .deadline_us = stasis_now_us() + 20000 };
    guint64 id = 0;
    if (!stasis_agent_begin(agent, STASIS_AGENT_OP_INFO, NULL, &id, &wait, NULL))
        return;
    if (raw) {
        if (send(peer, data, size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
            return;
    } else {
        size_t greeting = MIN(size - 4, data[0]), rest = size - 4 - greeting;
        answer(peer, STASIS_AGENT_HELLO, data[1], 1, id - 1, data + 4, greeting);
        answer(peer, STASIS_AGENT_ANSWER, 0, 0, id, data + 4 + greeting, rest / 2);
        answer(peer, STASIS_AGENT_ANSWER, data[2], data[3], id, data + 4 + greeting + rest / 2,
               rest - rest / 2);
    }
    shutdown(peer, SHUT_WR);
    g_autoptr(GBytes) got = stasis_agent_finish(agent, id, take_part, NULL, 1 << 17, &wait, NULL);
    if (got == NULL)
        return;
    g_autofree char *text = stasis_agent_text(got, STASIS_AGENT_TAG_KERNEL, 64);
    if (text != NULL && !g_utf8_validate(text, -1, NULL))
        __builtin_trap();
    stasis_agent_number(got, STASIS_AGENT_TAG_UPTIME, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || size > 100000)
        return 0;
    /* Of just the input's size, so that a read past its end is seen. */
    g_autofree uint8_t *exact = g_memdup2(data, size);
    size_t cut = size * exact[0] / 256;
    stasis_agent_decoder_reset(&decoder);
    decode(exact, cut);
    decode(exact + cut, size - cut);
    stasis_fields_are_valid(exact, (uint32_t)size);
    converse(exact, size, true);
    converse(exact, size, false);
    return 0;
}

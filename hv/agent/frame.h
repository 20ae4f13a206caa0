/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Frames of <stasis/agent-protocol.h>, to and from the bytes that travel. Plain C without GLib:
 * both ends are built with it. Whatever comes in, memory is what the structures have. */
#pragma once

#include <stasis/agent-protocol.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint8_t type;
    uint8_t flags;
    uint16_t code;
    uint64_t id;
    const uint8_t *payload;
    uint32_t length;
} StasisAgentFrame;

/* Write @frame as it travels; @wire has room for STASIS_AGENT_MAX_WIRE bytes. Returns their number,
 * or 0 when the payload is too long. */
size_t stasis_agent_frame_write(const StasisAgentFrame *frame, uint8_t *wire);

/* What came in of the frame under way. Zeroed, it stands at a border. */
typedef struct {
    uint64_t n_dropped; /* pieces between two borders that were no frame */
    uint32_t used;      /* bytes of data[] */
    uint8_t left;       /* bytes of the present run still to come */
    bool zero_due;      /* a zero byte stands between this run and the next */
    bool started;       /* something has come since the border */
    bool bad;           /* no frame any more, whatever comes */
    uint8_t data[STASIS_AGENT_HEADER_BYTES + STASIS_AGENT_MAX_PAYLOAD];
} StasisAgentDecoder;

/* Take bytes up to the end of the next frame, or all; returns how many were taken. *ret_whole says
 * whether *ret is a frame: its payload lies in the decoder and is valid until the next call. Its
 * fields are well-formed (hv/agent/field.h). */
size_t stasis_agent_decode(StasisAgentDecoder *decoder, const uint8_t *bytes, size_t n,
                           StasisAgentFrame *ret, bool *ret_whole);
/* Stand at a border again. */
void stasis_agent_decoder_reset(StasisAgentDecoder *decoder);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inside libstasis-guest. */
#pragma once

#include <stdbool.h>

#include "lib/wire.h"
#include "stasis-guest.h"

/* ---- talk.c ---- */

/* A connection to the agent, or -errno. */
int guest_connect(void);
/* 0 or -errno. Never raises SIGPIPE. */
int guest_send(int fd, StasisGuestWhat what, int64_t value);
/* The same with a text, which must fit. */
int guest_send_text(int fd, StasisGuestWhat what, int64_t value, const char *text);
/* 1, 0 at the end of the connection, or -errno. Waits; signals don't end that. */
int guest_receive(int fd, StasisGuestMessage *ret);

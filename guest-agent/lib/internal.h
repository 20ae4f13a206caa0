/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inside libstasis-guest. */
#pragma once

#include <pthread.h>
#include <stdbool.h>

#include "lib/wire.h"
#include "stasis-guest.h"

/* ---- talk.c ---- */

/* A connection to the agent, or -errno. */
int guest_connect(void);
/* The same, -EAGAIN where the agent takes none for @ms (0: wait). */
int guest_connect_within(unsigned ms);
/* 0 or -errno. Never raises SIGPIPE. */
int guest_send(int fd, StasisGuestWhat what, int64_t value);
/* The same without waiting: -EAGAIN, if the agent does not read; -ENOTCONN, if it has gone. */
int guest_send_now(int fd, StasisGuestWhat what, int64_t value);
/* guest_send() with a text, which must fit. */
int guest_send_text(int fd, StasisGuestWhat what, int64_t value, const char *text);
/* 1, 0 at the end of the connection, or -errno. Waits; signals don't end that. */
int guest_receive(int fd, StasisGuestMessage *ret);

/* ---- thread.c ---- */

/* One that nobody waits for, in which all signals are blocked. @attributes NULL: an ordinary one,
 * whatever the caller is. 0 or -errno. */
int guest_start_thread(void *(*run)(void *), const pthread_attr_t *attributes);

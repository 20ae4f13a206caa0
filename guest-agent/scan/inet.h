/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the scanners of TCP and UDP have in common. */
#pragma once

#include "scan/internal.h"

/* Sockets of @protocol as an array of pointers, by rising local port; NULL-terminated. */
const StasisSocket **stasis_inet_by_port(StasisScan *scan, int protocol);
/* The first with local port @port or a higher one; @by_port as above. */
const StasisSocket **stasis_inet_from_port(const StasisSocket **by_port, uint16_t port);

bool stasis_inet_is_any(const uint8_t address[16]);
/* Whether an address means its own network namespace only: 127.0.0.0/8, ::1. */
bool stasis_inet_is_loopback(const uint8_t address[16]);
/* "127.0.0.1:80-127.0.0.1:3456", the lower port first: one text for both ends. */
const char *stasis_inet_text(StasisScan *scan, const StasisSocket *s);

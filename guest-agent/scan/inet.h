/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the scanners of TCP and UDP have in common. */
#pragma once

#include "scan/internal.h"

/* Sockets of one protocol, by rising local and remote port. */
typedef struct {
    const StasisSocket **items;
    size_t n;
} StasisSocketList;
void stasis_inet_list(StasisScan *scan, int protocol, StasisSocketList *ret);
/* Index of the first one with these ports or higher ones: a busy server has one local port on very
 * many sockets, and their remote ports tell them apart. */
size_t stasis_inet_from(const StasisSocketList *list, uint16_t sport, uint16_t dport);

bool stasis_inet_is_any(const uint8_t address[16]);
/* Whether an address means its own network namespace only: 127.0.0.0/8, ::1. */
bool stasis_inet_is_loopback(const uint8_t address[16]);
/* "127.0.0.1:80-127.0.0.1:3456", the lower port first: one text for both ends. */
const char *stasis_inet_text(StasisScan *scan, const StasisSocket *s);

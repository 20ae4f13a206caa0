/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * TCP and UDP sockets from /proc/PID/net (proc(5)), for kernels that have no inet_diag, or not
 * loaded. Slower, and the same facts. For UNIX sockets there is no such way: /proc/net/unix does
 * not tell peers.
 *
 *     sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout
 * inode 0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0
 * 12345 …
 *
 * An address is printed as 32-bit words of memory, in the machine's own order.
 */
#include "scan/internal.h"

#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>

/* 8 hexadecimal digits (IPv4) or 32 (IPv6). */
static bool parse_address(const char *text, uint8_t ret[16])
{
    uint32_t words[4] = { 0 };
    size_t digits = strspn(text, "0123456789ABCDEF");
    if (digits != 8 && digits != 32)
        return false;
    for (size_t i = 0; i < digits / 8; i++)
        if (sscanf(text + 8 * i, "%8" SCNx32, &words[i]) != 1)
            return false;
    stasis_socket_map_address(ret, digits == 8 ? AF_INET : AF_INET6, words);
    return true;
}

void stasis_collect_procnet(StasisScan *scan, int32_t process, int family, int protocol)
{
    const StasisProcess *p = &scan->processes.items[process];
    char path[64], src[40], dst[40];
    snprintf(path, sizeof path, "/proc/%d/net/%s%s", p->live,
             protocol == IPPROTO_TCP ? "tcp" : "udp", family == AF_INET6 ? "6" : "");
    char *text = stasis_read_text(scan, -1, path, STASIS_TEXT_RECORDS);
    for (char *line; (line = stasis_text_line(&text)) != NULL;) {
        StasisSocket s = {
            .netns = p->ns[STASIS_NS_NET], .family = family, .protocol = protocol, .name = ""
        };
        unsigned sport, dport, state;
        if (sscanf(line, " %*d: %39[^:]:%x %39[^:]:%x %x %*x:%*x %*x:%*x %*x %*u %*u %" SCNu64, src,
                   &sport, dst, &dport, &state, &s.ino) != 6 ||
            !parse_address(src, s.src) || !parse_address(dst, s.dst))
            continue;
        s.sport = (uint16_t)sport;
        s.dport = (uint16_t)dport;
        s.state = (int)state;
        StasisSocket *item = STASIS_PUSH(scan, &scan->sockets);
        if (item == NULL)
            return;
        *item = s;
    }
}

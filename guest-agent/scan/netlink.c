/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sockets of a network namespace by NETLINK_SOCK_DIAG: sock_diag(7), linux/unix_diag.h,
 * linux/inet_diag.h. Answers come from the kernel, but are walked by the lengths they state, so
 * these are checked.
 */
#include "scan/internal.h"

#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_BYTES ((size_t)64 << 10)

typedef void (*Handler)(StasisScan *scan, uint64_t netns, int protocol, const void *data,
                        size_t size);

/* Sends a dump request, and calls @handler for each answer; false: the kernel lacks this part, or
 * has not loaded it. */
static bool dump(StasisScan *scan, int netlink, uint64_t netns, int protocol, const void *request,
                 size_t size, Handler handler)
{
    struct {
        struct nlmsghdr header;
        char request[128];
    } out = { { .nlmsg_len = (uint32_t)(sizeof out.header + size),
                .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP,
                .nlmsg_seq = 1 },
              { 0 } };
    memcpy(out.request, request, size);
    char *answer = stasis_scan_alloc(scan, ANSWER_BYTES);
    if (answer == NULL || send(netlink, &out, out.header.nlmsg_len, 0) < 0)
        return false;
    while (stasis_scan_goes_on(scan)) {
        ssize_t n = recv(netlink, answer, ANSWER_BYTES, 0);
        if (n <= 0)
            return false;
        size_t left = (size_t)n;
        for (struct nlmsghdr *h = (void *)answer; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
            if (h->nlmsg_type == NLMSG_ERROR)
                return false;
            if (h->nlmsg_type == NLMSG_DONE)
                return true;
            if (h->nlmsg_type == SOCK_DIAG_BY_FAMILY)
                handler(scan, netns, protocol, NLMSG_DATA(h), NLMSG_PAYLOAD(h, 0));
        }
    }
    return false;
}

static const char *unix_name(StasisScan *scan, const struct rtattr *a)
{
    const char *name = RTA_DATA(a);
    int len = (int)RTA_PAYLOAD(a);
    if (len > 0 && name[0] == '\0') /* abstract */
        return stasis_scan_text(scan, "@%.*s", len - 1, name + 1);
    return stasis_scan_text(scan, "%.*s", len, name);
}

static void got_unix(StasisScan *scan, uint64_t netns, int protocol, const void *data, size_t size)
{
    const struct unix_diag_msg *m = data;
    StasisSocket *s = size < sizeof *m ? NULL : STASIS_PUSH(scan, &scan->sockets);
    if (s == NULL)
        return;
    *s = (StasisSocket){ .ino = m->udiag_ino,
                         .netns = netns,
                         .family = AF_UNIX,
                         .type = m->udiag_type,
                         .state = m->udiag_state,
                         .name = "" };
    size_t left = size - NLMSG_ALIGN(sizeof *m);
    for (const struct rtattr *a = (const void *)((const char *)data + NLMSG_ALIGN(sizeof *m));
         RTA_OK(a, left); a = RTA_NEXT(a, left)) {
        if (a->rta_type == UNIX_DIAG_PEER && RTA_PAYLOAD(a) >= sizeof(uint32_t)) {
            s->peer = *(const uint32_t *)RTA_DATA(a);
        } else if (a->rta_type == UNIX_DIAG_NAME) {
            s->name = unix_name(scan, a);
        } else if (a->rta_type == UNIX_DIAG_ICONS) {
            uint32_t *pending = stasis_scan_alloc(scan, RTA_PAYLOAD(a) + 1);
            if (pending == NULL)
                return;
            memcpy(pending, RTA_DATA(a), RTA_PAYLOAD(a));
            s->pending = pending;
            s->n_pending = RTA_PAYLOAD(a) / sizeof *pending;
        }
    }
}

void stasis_socket_map_address(uint8_t out[16], int family, const uint32_t in[4])
{
    if (family == AF_INET6) {
        memcpy(out, in, 16);
        return;
    }
    memset(out, 0, 16);
    if (in[0] != 0) /* 0.0.0.0 is any, as :: is */
        out[10] = out[11] = 0xff;
    memcpy(out + 12, in, 4);
}

static void got_inet(StasisScan *scan, uint64_t netns, int protocol, const void *data, size_t size)
{
    const struct inet_diag_msg *m = data;
    StasisSocket *s = size < sizeof *m ? NULL : STASIS_PUSH(scan, &scan->sockets);
    if (s == NULL)
        return;
    *s = (StasisSocket){ .ino = m->idiag_inode,
                         .netns = netns,
                         .family = m->idiag_family,
                         .protocol = protocol,
                         .state = m->idiag_state,
                         .name = "",
                         .sport = (uint16_t)(m->id.idiag_sport >> 8 | m->id.idiag_sport << 8),
                         .dport = (uint16_t)(m->id.idiag_dport >> 8 | m->id.idiag_dport << 8) };
    stasis_socket_map_address(s->src, m->idiag_family, m->id.idiag_src);
    stasis_socket_map_address(s->dst, m->idiag_family, m->id.idiag_dst);
}

void stasis_diag_unix(StasisScan *scan, int netlink, uint64_t netns)
{
    const struct unix_diag_req request = {
        .sdiag_family = AF_UNIX,
        .udiag_states = UINT32_MAX,
        .udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS,
    };
    dump(scan, netlink, netns, 0, &request, sizeof request, got_unix);
}

bool stasis_diag_inet(StasisScan *scan, int netlink, uint64_t netns, int family, int protocol)
{
    const struct inet_diag_req_v2 request = {
        .sdiag_family = (uint8_t)family,
        .sdiag_protocol = (uint8_t)protocol,
        .idiag_states = UINT32_MAX,
    };
    return dump(scan, netlink, netns, protocol, &request, sizeof request, got_inet);
}

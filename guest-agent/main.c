/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The stasis guest agent: its command line. */
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "agent.h"
#include "lib/wire.h"

static const char help[] =
    "Usage: stasis-agent [OPTION]...\n"
    "Answer the host's stasis from inside a virtual machine, over the virtio-serial port\n" //
    STASIS_AGENT_PORT ". Runs until it is ended; without such a port it waits for one.\n"
    "\n"
    "  --port PATH     the port's device node (default: found by its name)\n"
    "  --fd N          talk over this open descriptor, a stream socket, until its end\n"
    "  --socket PATH   where programs of the guest find it (default: " STASIS_GUEST_SOCKET ",\n"
    "                  with --fd none)\n"
    "  --no-realtime   don't take a real-time priority\n"
    "  --help          print this and exit\n"
    "  --version       print the version and exit\n"
    "\n"
    "When the VM goes on from an image, it sets the clock, reseeds the kernel's random numbers, "
    "gives\n"
    "clones a machine id of their own, and runs each program in /etc/stasis/agent.d with one "
    "argument:\n"
    "restored, cloned or forked.\n";

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "port", required_argument, NULL, 'p' },
        { "fd", required_argument, NULL, 'f' },
        { "socket", required_argument, NULL, 's' },
        { "no-realtime", no_argument, NULL, 'n' },
        { "help", no_argument, NULL, 'h' },
        { "version", no_argument, NULL, 'v' },
        { NULL },
    };
    LoopOptions chosen = { .fd = -1, .realtime = true };
    const char *programs = NULL;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'p':
            chosen.port = optarg;
            break;
        case 'f':
            chosen.fd = atoi(optarg);
            if (fcntl(chosen.fd, F_SETFL, O_NONBLOCK) < 0) {
                say("--fd %s: no open descriptor", optarg);
                return 2;
            }
            fcntl(chosen.fd, F_SETFD, FD_CLOEXEC);
            break;
        case 's':
            programs = optarg;
            break;
        case 'n':
            chosen.realtime = false;
            break;
        case 'h':
            fputs(help, stdout);
            return 0;
        case 'v':
            puts("stasis-agent " AGENT_VERSION);
            return 0;
        default:
            return 2;
        }
    }
    if (optind < argc) {
        say("%s: no arguments are taken; see --help", argv[optind]);
        return 2;
    }
    chosen.programs = programs != NULL || chosen.fd >= 0 ? programs : STASIS_GUEST_SOCKET;
    return loop_run(&chosen);
}

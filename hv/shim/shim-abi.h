/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the shim inside QEMU and a monitor outside say to each other. Both include this file; it
 * uses nothing but the C library's integers.
 *
 * Finding the shim: among QEMU's descriptors there is a memfd of the name below. Its one page says
 * what the shim is and which mappings it made; anyone who may look into the process can read it.
 * In it is the number of the door, a socket among QEMU's descriptors: who fetches it
 * (pidfd_getfd(2)) sends a CONNECT with one end of a SOCK_SEQPACKET pair and speaks over the other.
 * The shim sees the end of a monitor as the hang-up of that socket. One monitor at a time; others
 * are answered -EBUSY.
 *
 * One request, one reply; both of fixed size. Anything else is answered -EPROTO and hung up on.
 * New requests get new numbers; unknown ones are answered -EOPNOTSUPP.
 */
#pragma once

#include <stdint.h>

#define STASIS_SHIM_NAME "stasis-shim"
#define STASIS_SHIM_MAGIC UINT64_C(0x316d696853617453) /* "StaShim1" */
#define STASIS_SHIM_ABI 1u
#define STASIS_SHIM_PAGE_BYTES 4096u
#define STASIS_SHIM_MAX_RANGES 64u

enum stasis_shim_state {
    STASIS_SHIM_IDLE,    /* no virtual machine of KVM yet (TCG: for ever) */
    STASIS_SHIM_OFF,     /* there is one; our log is off */
    STASIS_SHIM_ON,      /* our log is on, complete since the request that returned `token` */
    STASIS_SHIM_RING,    /* KVM's dirty ring, in a way that it can't be shared: nothing is split */
    STASIS_SHIM_REFUSED, /* something that the shim does not understand: nothing more is split */
};

/* A piece of guest memory that KVM writes through a mapping of its own. */
struct stasis_shim_range {
    uint64_t address;      /* QEMU's own mapping, whole */
    uint64_t bytes;        /* a multiple of 4096 */
    uint64_t view;         /* the mapping that KVM has */
    uint64_t result_words; /* where its bitmap begins in the buffer, in words of 64 pages */
};

/* The page in the memfd. While it changes, `seq` is odd; afterwards it is even and another one. */
struct stasis_shim_page {
    uint64_t magic;
    uint32_t abi;
    uint32_t bytes; /* of this structure */
    int32_t door_fd;
    uint32_t state; /* enum stasis_shim_state */
    uint64_t seq;
    uint64_t token;   /* see STASIS_SHIM_ON; 0 when off */
    uint64_t layout;  /* another number whenever ranges come or go */
    uint64_t n_words; /* that the bitmaps of all ranges take */
    uint32_t manual;  /* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2's flags as QEMU enabled them */
    uint32_t held;    /* no new ranges are made */
    uint32_t n_ranges;
    uint32_t n_slots; /* of KVM that show a range; a count for the curious */
    uint32_t inside;  /* STASIS_SHIM_INSIDE_…: what is possible */
    /* KVM's log is a ring of so many entries for each virtual CPU; 0: it is a bitmap. */
    uint32_t ring_entries;
    uint64_t n_harvests;
    uint64_t note; /* of the last START */
    struct stasis_shim_range ranges[STASIS_SHIM_MAX_RANGES];
};

#define STASIS_SHIM_INSIDE_STOP 1u  /* PAUSE and RESUME */
#define STASIS_SHIM_INSIDE_DISKS 2u /* SWITCH */
#define STASIS_SHIM_INSIDE_FLUSH 4u /* FLUSH */
#define STASIS_SHIM_MAX_SWITCH_BYTES 65536u

enum stasis_shim_op {
    STASIS_SHIM_CONNECT = 1, /* at the door, with the socket; the reply comes over that */
    STASIS_SHIM_HELLO,
    /* With a memfd of n_bytes = arg[0], sealed against shrinking: what HARVEST fills and GIVE_BACK
     * reads. A bitmap for each range, in pages of 4096 bytes. */
    STASIS_SHIM_BUFFER,
    /* Turn the log on, forget what was written, protect everything: from now on writes count.
     * arg[0]: a note of the monitor's to itself, to be read in the page. */
    STASIS_SHIM_START,
    /* OR what was written into the buffer. STASIS_SHIM_REARM: and begin anew for those pages.
     * arg[0]: the layout that the monitor knows; -EAGAIN when it is another one by now. */
    STASIS_SHIM_HARVEST,
    /* Count the pages in the buffer as written again; arg[0] as above. */
    STASIS_SHIM_GIVE_BACK,
    STASIS_SHIM_STOP,
    /* arg[0] = 1: make no new ranges until it is 0 again; outlives the monitor. For those who watch
     * QEMU's own mappings by other means and know those ranges only that are there now. */
    STASIS_SHIM_HOLD,
    /* Drop QEMU's page tables (not the memory) of all ranges; or, flags being N > 0, of the
     * N * STASIS_SHIM_TABLE_BYTES from address arg[0] on, which lie in one range. */
    STASIS_SHIM_DROP_TABLES,
    /* Stop the VM from inside QEMU, and begin to save its devices into /dev/fdset/arg[0]; the
     * answer comes when it stands still, and says in part_ns how long the disks of SWITCH took.
     * flags: the low half of CLOCK_MONOTONIC in microseconds; later than that nothing is done and
     * the answer is -ETIME; 0: there is no limit. -ESTALE: it was not running, and nothing is done.
     * -EIO: a disk was not switched; it stands still all the same. */
    STASIS_SHIM_PAUSE,
    /* When the devices are saved let it go on; the answer comes after that, and says in part_ns how
     * long saving took. -EIO: they could not be
     * saved. -EREMOTEIO: it could not be let go on. -ETIME: it was let go on before, since we took
     * too long. A monitor that hangs up lets it go on, too. */
    STASIS_SHIM_RESUME,
    /* With a file of arg[0] bytes: pairs of a device's path in QEMU's tree of objects and the name
     * of a block node, each ended by a zero byte. The next PAUSE, and no other, gives each device
     * that node for its "drive" as soon as the VM has stopped. Forgotten when the monitor hangs up.
     */
    STASIS_SHIM_SWITCH,
    /* With a file of arg[0] bytes: names of block nodes, each ended by a zero byte. Flush them, the
     * VM running, so that little is left to be flushed when it is stopped; the answer comes after
     * that. Only a help: nodes that are not there and errors are passed over. -EBUSY: an earlier
     * one is at it still. -ETIMEDOUT: it goes on by itself. */
    STASIS_SHIM_FLUSH,
};

#define STASIS_SHIM_REARM 1u
/* What one page table of the lowest level maps. */
#define STASIS_SHIM_TABLE_BYTES ((uint64_t)2 << 20)

struct stasis_shim_request {
    uint32_t magic; /* the low half of STASIS_SHIM_MAGIC */
    uint16_t abi;
    uint16_t op;
    uint32_t bytes; /* sizeof(struct stasis_shim_request) */
    uint32_t flags;
    uint64_t arg[2];
};

struct stasis_shim_reply {
    uint32_t magic;
    uint16_t abi;
    uint16_t op;
    uint32_t bytes;
    int32_t result; /* 0 or -errno */
    uint64_t layout;
    uint64_t token;
    uint64_t n_words; /* that the bitmaps of all ranges take */
    uint64_t took_ns;
    uint64_t part_ns; /* see PAUSE and RESUME */
};

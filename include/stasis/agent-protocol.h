/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the host and the agent in the guest say to each other, over the virtio-serial port
 * STASIS_AGENT_PORT. Pure C: the agent is built without GLib. Neither end trusts the other.
 *
 * A frame, numbers little-endian, is
 *
 *     0  magic    u32  STASIS_AGENT_MAGIC
 *     4  type     u8   StasisAgentType
 *     5  flags    u8   STASIS_AGENT_END
 *     6  code     u16  of a request: StasisAgentOp; of an answer: StasisAgentStatus; else 0
 *     8  id       u64  of the request
 *    16  length   u32  of what follows, at most STASIS_AGENT_MAX_PAYLOAD
 *    20  payload       fields, whole ones
 *
 * and travels stuffed (COBS: Cheshire and Baker, "Consistent Overhead Byte Stuffing", 1999), with a
 * zero byte before and behind it. So a zero byte always is the border of a frame, and whoever reads
 * from the middle of one, behind garbage, or behind a frame that was cut off by a reconnection, has
 * lost nothing more at the next border. What is between two borders and is no frame is dropped.
 *
 * A payload is a sequence of fields: tag u16 (StasisAgentTag), length u32, value. A number is a u64
 * (i64 where said) and has length 8; text is UTF-8 without zero bytes. Tags that are not known are
 * passed over; a tag that the request has no use for does no harm. A value may itself be fields (a
 * record, as PROCESS), one level deep.
 *
 * A conversation begins with the host's HELLO, which the agent answers by a HELLO of the same id.
 * It ends what went before: requests of an earlier conversation get no answer any more, and file
 * systems that it had frozen thaw. So does a host that has gone, after a second or two. Each end
 * says which versions it speaks; the highest that both do is taken. A request is answered by any
 * number of ANSWERs and a last one with STASIS_AGENT_END, all with its id, in order; answers to
 * several requests may be mixed. In one of them whose status is not 0 there is a MESSAGE.
 *
 * Ids are the host's and never used twice: each conversation begins at a random one, since a
 * request that is under way when a VM is forked is under way in both VMs, and its answer comes out
 * of both.
 */
#pragma once

#include <stdint.h>

#define STASIS_AGENT_PORT "org.stasis.agent.0"

#define STASIS_AGENT_MAGIC 0x31417453u /* "StA1" */
#define STASIS_AGENT_HEADER_BYTES 20u
#define STASIS_AGENT_MAX_PAYLOAD 65536u
/* Stuffed, with both borders. */
#define STASIS_AGENT_MAX_WIRE                               \
    (STASIS_AGENT_HEADER_BYTES + STASIS_AGENT_MAX_PAYLOAD + \
     (STASIS_AGENT_HEADER_BYTES + STASIS_AGENT_MAX_PAYLOAD) / 254u + 3u)
#define STASIS_AGENT_FIELD_HEADER_BYTES 6u

/* Versions of all of this that this header describes. */
#define STASIS_AGENT_VERSION_MIN 1u
#define STASIS_AGENT_VERSION_MAX 1u

/* flags */
#define STASIS_AGENT_END 1u /* the last answer to this request */

typedef enum {
    STASIS_AGENT_HELLO = 1, /* both ways: VERSION_MIN, VERSION_MAX; from the agent also VERSION,
                               AGENT, and an OPERATION for each that it has, or status VERSION */
    STASIS_AGENT_REQUEST,   /* to the agent */
    STASIS_AGENT_ANSWER,    /* from the agent */
    STASIS_AGENT_CANCEL,    /* to the agent: end the request of this id; answered by the request's
                               last answer, status CANCELLED, unless that has gone out already */
} StasisAgentType;

/*
 * What the host can ask for: fields of the request → fields of the answer. Those in brackets may be
 * left out. A time in ms that is left out, or larger than its limit, is the limit.
 */
typedef enum {
    /* [NONCE ≤ 64 bytes] → NONCE, REALTIME, MONOTONIC. */
    STASIS_AGENT_OP_PING = 1,
    /* → AGENT, KERNEL, SYSTEM, HOSTNAME, MACHINE_ID, BOOT_ID, UPTIME, REALTIME, INSTANTS; and of
     * the last instant KIND and TOKEN. */
    STASIS_AGENT_OP_INFO,
    /*
     * The VM goes on from an image. KIND, TOKEN (≤ 64 bytes of text), [REALTIME], [ENTROPY],
     * [NEW_IDENTITY], [HOSTNAME] → OFFSET, STEPPED, N_ENTROPY, MACHINE_ID, N_HOOKS, N_FAILED,
     * [N_RESUMED: devices], [MESSAGE: what did not work]. Devices are resumed, file systems thawed,
     * the clock is set, entropy is added and the kernel's generator reseeded from it, with
     * NEW_IDENTITY ≠ 0 /etc/machine-id is made anew and with HOSTNAME the name is set; then all
     * programs in /etc/stasis/agent.d run, 10 s each and 60 s together. It is done once for each
     * TOKEN: a repetition answers KIND, TOKEN and INSTANTS.
     */
    STASIS_AGENT_OP_INSTANT,
    /* REALTIME, the host's → OFFSET, STEPPED. Off by 100 ms or more the clock is stepped, else
     * slewed. */
    STASIS_AGENT_OP_SYNC_TIME,
    /* [TIMEOUT ≤ 60 s] → N_FROZEN, FROZEN_FOR. All mounted file systems that can be are frozen, all
     * or none: also none, and status FAILED, when one is mounted over and so can't be reached;
     * after TIMEOUT, when the conversation ends, or when the agent does, they thaw by themselves.
     */
    STASIS_AGENT_OP_FS_FREEZE,
    /* → N_FROZEN: thawed. Status STATE when none was frozen by us any more. */
    STASIS_AGENT_OP_FS_THAW,
    /* ARG (1 to 256 of them), [ENVIRONMENT "NAME=value"]…, [PATH: where it starts], [INPUT],
     * [LIMIT: bytes of output, ≤ 16 MiB], [TIMEOUT ≤ 600 s] → OUTPUT and ERROR_OUTPUT as they come;
     * last EXIT_STATUS or SIGNAL, [TRUNCATED], [TIMED_OUT]. At TIMEOUT it is killed; what is left
     * of its process group when it has ended is killed in any case. */
    STASIS_AGENT_OP_EXEC = 9, /* 7 and 8 were others: agents that are installed know them */
    /* PATH of a regular file, [OFFSET, from its beginning], [LIMIT ≤ 16 MiB] → OUTPUT…; last SIZE
     * of the file. ERRNO EISDIR or ENXIO: it is none. */
    STASIS_AGENT_OP_FILE_READ,
    /* [KIND "poweroff" or "reboot"] → nothing: it has begun. */
    STASIS_AGENT_OP_SHUTDOWN,
    /* → PROCESS for each, by rising PID; kernel threads and the request's own worker are left out.
     */
    STASIS_AGENT_OP_PROCESSES,
    /*
     * Who belongs together. PID…, UNIT, CGROUP: whom it is asked of, one of these at least; [SHAPE
     * "closure", "tree" or "talked"], [CUT]… (256 PIDs, 256 CUTs), [LIMIT: refuse larger sets, ≤
     * 10000, left out: 1000], [DIRECT ≠ 0: refuse what PROC_DUMP_DIRECT can't take], [TIMEOUT ≤ 60
     * s] → PROCESS for each member, those asked for first (N_ROOTS of them), each later one with
     * its VIA; NEIGHBOUR for each that an edge names and that is no member; EDGE for each that
     * touches a member; REFUSAL, the weightiest first; last N_ROOTS, REFUSED, PASSES, [COUNTED],
     * and a CUT_USES for each CUT. Of a set that is refused, lists may be left out. Status FAILED
     * when who is asked for is not there.
     *
     * "talked" makes the agent count, from then on, what processes say to each other: over pipes,
     * sockets, queues and semaphores, and signals. The answer in which counting began is the
     * closure (COUNTED 0); in later ones edges over which nothing was said since then, or since
     * the last checkpoint (TALK), are cut. Refused where the guest's kernel can't count.
     */
    STASIS_AGENT_OP_BOUNDARY,
    /* → CRIU, its version: it is there, and this kernel is good enough for it. */
    STASIS_AGENT_OP_PROC_CHECK,
    /* PID…, [TIMEOUT ≤ 10 s] → N_FROZEN, processes. In a fork of the VM only: they and all their
     * descendants are moved into a control group of their own, and are frozen for good. The first
     * thing that is done when it is the first request, before anything else of the guest runs. */
    STASIS_AGENT_OP_PROC_FREEZE,
    /*
     * PID…, the roots of all trees that PROC_FREEZE has frozen, [LIMIT: bytes], [TIMEOUT ≤ 600 s],
     * [IN_MEMORY ≠ 0] → CRIU's image of them: a part with PID, PPID, START and COMM for each frozen
     * process; then for each file a part with PATH (its name) and SIZE, OUTPUT…, and one with
     * DIGEST (SHA-256, 32 bytes). With IN_MEMORY, files that are not empty have after PATH and SIZE
     * a part for each STASIS_AGENT_PIECE_BYTES of them (the last may have fewer): SIZE, CHECKSUM
     * and RUNS, where in the guest's memory these bytes are; nowhere if there are none. The file
     * itself stays in DIRECTORY. Last PID, N_FILES, SIZE (of all files), SHELL_JOB, SESSION. PID is
     * the root of the image: of several trees it is a process that was made for that, their parent
     * in the image, which ends as soon as it is restored. Files "tmpfs.tar" and "mqueue.bin"
     * are not CRIU's: what they had open on tmpfs, and POSIX message queues with their messages
     * (agent/mqueue.h).
     */
    STASIS_AGENT_OP_PROC_DUMP,
    /* TOKEN (≤ 64 bytes of text), PATH (a file name), OFFSET (where the file ends by now), INPUT,
     * [SIZE: of the whole image] → nothing. A piece of an image that is to be restored. Another
     * TOKEN drops what there was. The image is put together in memory, unless there is no room for
     * SIZE there, and more elsewhere. */
    STASIS_AGENT_OP_PROC_PUT,
    /*
     * TOKEN, DIGEST, PID…, START… (as many), COMM… (as many), [REPLACE ≠ 0], [SHELL_JOB ≠ 0],
     * [SESSION ≠ 0], [TIMEOUT ≤ 600 s] → PID, of the restored tree's root, the first one. DIGEST is
     * the SHA-256 of a line "NAME SIZE SHA256-IN-HEX\n" for each file put, in the order of their
     * names (as bytes). Status STATE when a process has one of these PIDs, unless REPLACE is given
     * and it is the one of that START and COMM: that one is killed. PIDs of a SESSION need not be
     * free. Also status STATE when a file of tmpfs.tar is there, or a queue of mqueue.bin that is
     * not to be in a namespace of its own, unless REPLACE is given. What was put is dropped,
     * whatever the outcome. It comes to its end also when it is cancelled, or the host goes away:
     * until then PROC_PUT and PROC_RESTORE have status STATE.
     */
    STASIS_AGENT_OP_PROC_RESTORE,
    /*
     * KIND, TOKEN (≤ 64 bytes of text). "mark": remember what was counted so far; "keep", PID… : a
     * checkpoint of these, whose instant came after the mark of this TOKEN, is good: what they
     * said before the mark counts no more → nothing. Status STATE when nobody counts, or another
     * TOKEN has been marked since: then it goes on to count.
     */
    STASIS_AGENT_OP_TALK,
    /*
     * PID, the root of a tree, [LIMIT: bytes], [TIMEOUT ≤ 600 s] → as PROC_DUMP, and last
     * FROZEN_FOR. In the VM itself: the tree stands still while CRIU works, runs on when it has
     * done, and only then is anything sent. When the host goes away meanwhile, or at TIMEOUT, CRIU
     * is let come to its end all the same, since processes that it is ended over may not survive.
     * Status STATE
     * when the tree became another one meanwhile, UNSUPPORTED when CRIU can't restore what it
     * holds. There is no tmpfs.tar and no mqueue.bin. Nothing stays in the guest.
     */
    STASIS_AGENT_OP_PROC_DUMP_DIRECT,
    /*
     * TOKEN (≤ 64 letters, digits, '.', '_', '-'), and as of EXEC: ARG…, [ENVIRONMENT]…, [INPUT],
     * [LIMIT], [PATH: where it starts], [TIMEOUT ≤ 24 h] → [TOKEN: there was one of that name, and
     * nothing was started]: it runs. A job goes on when the host has gone, and, in a VM that goes
     * on from an image, when there is another host; what it writes is kept. Status BUSY when there
     * are 8.
     */
    STASIS_AGENT_OP_JOB_START,
    /*
     * TOKEN, [OFFSET, from its beginning], [TIMEOUT ≤ 600 s] → OFFSET (where the part ends) and
     * OUTPUT or ERROR_OUTPUT, as they come and have come; last OFFSET, and if it has ended
     * EXIT_STATUS or SIGNAL, [TRUNCATED], [TIMED_OUT]. Any number of times. Status STATE when there
     * is no such job.
     */
    STASIS_AGENT_OP_JOB_WAIT,
    /* TOKEN → nothing: it was killed if it still ran, and is forgotten. Status STATE when there is
     * none. */
    STASIS_AGENT_OP_JOB_END,
    /*
     * PATH… (16 at most), [DRIVER], [TIMEOUT ≤ 600 s] → SUSPENDED_FOR, and a DEVICE for each. PATH
     * is the way to a PCI device: slot and function of each bridge, and its own, as "1c.0/00.0".
     * All are suspended by their drivers (runtime power management), or, where that can't be, their
     * drivers are unbound from them; all or none. Status FAILED where a driver does neither, or
     * where it would have to be unbound from a disk that is in use. After TIMEOUT, when the
     * conversation ends, when the agent does, and at an INSTANT, they are given back. With DRIVER
     * (≤ 63 bytes) all are unbound, whatever else could be done, and given to that driver, whatever
     * they had; their configuration is the host's business then.
     */
    STASIS_AGENT_OP_DEVICE_SUSPEND,
    /* → N_RESUMED. Status FAILED, with MESSAGE, when one did not come back, or was used, and so
     * awake, meanwhile; STATE when none was suspended by us any more. */
    STASIS_AGENT_OP_DEVICE_RESUME,
    /*
     * TOKEN (≤ 64 bytes of text: who serves this guest), N_ENDED: how many WISH_ENDs it has had
     * answered, [TIMEOUT ≤ 60 s] → [TICKET, KIND "vm", "process" or "restore", PID, PATH,
     * N_CALLERS], N_SUBSCRIBED, N_ENDED. A program of the guest wishes for a checkpoint
     * (include/stasis-guest.h), or wants to go on from the image PATH (an ID, or the beginning of
     * one), and waits until WISH_END; or none did so in time. N_SUBSCRIBED programs may want to be
     * told of it, or to hold it off. Who asks is about no wish: those that
     * were taken (the answer was lost, or who got it has died) are offered again. N_ENDED larger
     * than what the agent has seen of the same TOKEN: the VM was taken back to an image, and
     * whoever waited then is told so. In the answer: what the agent has seen, which is more if the
     * host died before it counted.
     */
    STASIS_AGENT_OP_WISH_WAIT,
    /*
     * [PID…]: of these processes, or of the VM, [TOKEN: a name for who begins], [CYCLE ≠ 0],
     * [TIMEOUT ≤ 30 s, left out: 1 s] → N_SUBSCRIBED, N_FAILED, CYCLE. A checkpoint is about to be
     * taken: critical sections are waited for, for 10 s at most, N_SUBSCRIBED programs were told,
     * N_FAILED of which did not get ready in 1 s; then with CYCLE each control loop's end of a
     * cycle is waited for, for TIMEOUT, and CYCLE is the number of those that came to it. Status
     * STATE when one has begun already. It lasts until WISH_END, also beyond the conversation; for
     * 15 minutes at most. With HELD it ends with the conversation, too, and so does what its
     * programs were told.
     */
    STASIS_AGENT_OP_WISH_BEGIN,
    /* [TICKET], [ERRNO: it could not be], [PATH: the image's ID], [PID: of the first restored
     * process], [HELD: of a BEGIN with that; not counted in N_ENDED], [TOKEN: a BEGIN by that name,
     * if it is the present one, is over since its host is no more, and nothing else; not counted] →
     * N_CALLERS that were told, [N_MISSED, N_MISSED_BEFORE]: deadlines that programs say they
     * missed since the BEGIN, and between the END before and that. */
    STASIS_AGENT_OP_WISH_END,
    /*
     * TOKEN (≤ 64 bytes of text: who watches), SEQUENCE (of the last answer that came; 0: none),
     * KIND "fork", "exec", "exit", "mqueue", "sem" or "shm"…, [PID…, START… (as many, ≤
     * STASIS_AGENT_MAX_LOOK_AT): watch these, too, and what they start], [TIMEOUT ≤ 60 s], [LEASE ≤
     * 600 s, left out: 60 s] → CHANGE… as soon as there is one, or at TIMEOUT none; last SEQUENCE,
     * N_WATCHED, [LOST: so often more happened than could be kept], [FRESH]; PROCESS…, of PID and
     * START alone, before that: started by those who are watched, and watched. Both are told again
     * until the next request has its SEQUENCE. The watch goes on when the conversation ends, and
     * ends when nobody has asked for LEASE ms. FRESH is 1 when it began with this request: nothing
     * is known of what was before, except that those PIDs that are not there any more have ended.
     * Status STATE when another TOKEN watches, UNSUPPORTED where the kernel does not tell.
     */
    STASIS_AGENT_OP_WATCH,
    /* TOKEN → nothing: nobody watches any more by that. */
    STASIS_AGENT_OP_WATCH_END,
    /*
     * PATH, absolute, KIND "file", "directory" or "link", [MODE] → SIZE. A file is made
     * anew at OFFSET 0 (MODE left out: 0644), the agent's user's, in place of a file or a link; at
     * another it has to be a file that ends there, or status STATE. INPUT comes behind that. A
     * directory is made with those above it (MODE left out: 0755), unless it is there. A link is
     * made to INPUT, in place of a file or a link.
     */
    STASIS_AGENT_OP_FILE_WRITE,
    /* PATH, absolute → if it is a directory an ENTRY for all that is in it, in no order; last KIND,
     * MODE and SIZE of what is at PATH. Status FAILED for more than STASIS_AGENT_MAX_ENTRIES. */
    STASIS_AGENT_OP_FILE_LIST,
} StasisAgentOp;

typedef enum {
    STASIS_AGENT_OK = 0,
    STASIS_AGENT_FAILED,      /* with ERRNO where there is one */
    STASIS_AGENT_INVALID,     /* a field is missing or wrong */
    STASIS_AGENT_UNSUPPORTED, /* this agent, or this guest, does not have that operation */
    STASIS_AGENT_VERSION,     /* no version in common */
    STASIS_AGENT_NO_HELLO, /* a request before HELLO (as far as the agent can tell that the host is
                              a new one) */
    STASIS_AGENT_BUSY,     /* too many requests under way (STASIS_AGENT_MAX_REQUESTS) */
    STASIS_AGENT_TIMEOUT,
    STASIS_AGENT_CANCELLED,
    STASIS_AGENT_STATE, /* not now: frozen already, not frozen … */
} StasisAgentStatus;

/* Requests that take time, under way at once. */
#define STASIS_AGENT_MAX_REQUESTS 8u

/* What one part of PROC_DUMP tells of at most; a whole number of pages. */
#define STASIS_AGENT_PIECE_BYTES (4u << 20)

/* Records in an answer: PROCESS and NEIGHBOUR together, EDGE, REFUSAL. */
#define STASIS_AGENT_MAX_PROCESSES 16384u
#define STASIS_AGENT_MAX_EDGES 32768u
#define STASIS_AGENT_MAX_REFUSALS 64u
#define STASIS_AGENT_MAX_LIST 256u /* PIDs, and CUTs, of a request */

/* Of WATCH: processes that are watched at once, PIDs of a request, CHANGEs of an answer. */
#define STASIS_AGENT_MAX_WATCHED 4096u
#define STASIS_AGENT_MAX_LOOK_AT 2048u
#define STASIS_AGENT_MAX_CHANGES 4608u

#define STASIS_AGENT_MAX_ENTRIES 65536u /* of one directory */

/* CLASS of an edge: what may be done about it when one end stays outside. */
typedef enum {
    STASIS_AGENT_CLASS_INFO, /* nothing is lost */
    STASIS_AGENT_CLASS_CUTTABLE,
    STASIS_AGENT_CLASS_HARD,
    STASIS_AGENT_CLASS_OPAQUE,
    STASIS_AGENT_N_CLASSES,
} StasisAgentClass;

/* PLACE of an edge. */
typedef enum {
    STASIS_AGENT_PLACE_INSIDE, /* between members */
    STASIS_AGENT_PLACE_CUT,    /* would have drawn its other end in */
    STASIS_AGENT_PLACE_NEAR,   /* draws nothing in */
    STASIS_AGENT_N_PLACES,
} StasisAgentPlace;

typedef enum {
    STASIS_AGENT_TAG_MESSAGE = 1,  /* text, one line, ≤ 512 bytes */
    STASIS_AGENT_TAG_ERRNO,        /* Linux's number */
    STASIS_AGENT_TAG_VERSION_MIN,  /* number */
    STASIS_AGENT_TAG_VERSION_MAX,  /* number */
    STASIS_AGENT_TAG_VERSION,      /* number: the one that is spoken from now on */
    STASIS_AGENT_TAG_AGENT,        /* text: version of the program */
    STASIS_AGENT_TAG_OPERATION,    /* text: name of an operation, as "exec" */
    STASIS_AGENT_TAG_NONCE,        /* bytes */
    STASIS_AGENT_TAG_REALTIME,     /* ns since 1970 (CLOCK_REALTIME) */
    STASIS_AGENT_TAG_MONOTONIC,    /* ns (CLOCK_MONOTONIC) */
    STASIS_AGENT_TAG_UPTIME,       /* ns (CLOCK_BOOTTIME) */
    STASIS_AGENT_TAG_KERNEL,       /* text: uname -sr */
    STASIS_AGENT_TAG_SYSTEM,       /* text: PRETTY_NAME of os-release */
    STASIS_AGENT_TAG_HOSTNAME,     /* text, ≤ 64 bytes */
    STASIS_AGENT_TAG_MACHINE_ID,   /* text: 32 hexadecimal digits, or empty */
    STASIS_AGENT_TAG_BOOT_ID,      /* text: /proc/sys/kernel/random/boot_id */
    STASIS_AGENT_TAG_INSTANTS,     /* number: of instants that the agent was told of */
    STASIS_AGENT_TAG_KIND,         /* text: "restored", "cloned", "forked" … */
    STASIS_AGENT_TAG_TOKEN,        /* text */
    STASIS_AGENT_TAG_ENTROPY,      /* bytes, ≤ 512 */
    STASIS_AGENT_TAG_NEW_IDENTITY, /* number: 0 or 1 */
    STASIS_AGENT_TAG_OFFSET,       /* i64: ns by which the guest's clock was behind the host's; of
                                      FILE_READ: bytes */
    STASIS_AGENT_TAG_STEPPED,      /* number: 1 the clock was stepped, 0 it is slewed */
    STASIS_AGENT_TAG_N_ENTROPY,    /* number: bytes that the kernel took */
    STASIS_AGENT_TAG_N_HOOKS,      /* number: programs run */
    STASIS_AGENT_TAG_N_FAILED,     /* number: of these failed */
    STASIS_AGENT_TAG_N_FROZEN,     /* number: file systems */
    STASIS_AGENT_TAG_TIMEOUT,      /* ms */
    STASIS_AGENT_TAG_CGROUP,       /* text */
    STASIS_AGENT_TAG_ARG,          /* text */
    STASIS_AGENT_TAG_ENVIRONMENT,  /* text */
    STASIS_AGENT_TAG_INPUT,        /* bytes */
    STASIS_AGENT_TAG_OUTPUT,       /* bytes, ≤ 32 KiB */
    STASIS_AGENT_TAG_ERROR_OUTPUT, /* bytes, ≤ 32 KiB */
    STASIS_AGENT_TAG_LIMIT,        /* bytes */
    STASIS_AGENT_TAG_EXIT_STATUS,  /* number */
    STASIS_AGENT_TAG_SIGNAL,       /* number */
    STASIS_AGENT_TAG_TRUNCATED,    /* number: 1 */
    STASIS_AGENT_TAG_TIMED_OUT,    /* number: 1 */
    STASIS_AGENT_TAG_PATH,         /* text */
    STASIS_AGENT_TAG_SIZE,         /* bytes */
    STASIS_AGENT_TAG_FROZEN_FOR,   /* ns since the first file system was frozen; of
                                      PROC_DUMP_DIRECT: ns that the processes stood still */
    STASIS_AGENT_TAG_PROCESS,    /* record: PID, PPID, SID, START, STATE, THREADS, RSS, USER, UNIT,
                                    CGROUP, COMM, COMMAND, [VIA] */
    STASIS_AGENT_TAG_NEIGHBOUR,  /* record, as PROCESS */
    STASIS_AGENT_TAG_EDGE,       /* record: PID, [OTHER], RELATION, CLASS, PLACE, [BOTH],
                                    [BY_DEFAULT], [TALKED], OBJECT, WITNESS, REASON */
    STASIS_AGENT_TAG_REFUSAL,    /* record: WHAT, WITNESS, TODO */
    STASIS_AGENT_TAG_PID,        /* number */
    STASIS_AGENT_TAG_PPID,       /* number */
    STASIS_AGENT_TAG_SID,        /* number: session */
    STASIS_AGENT_TAG_START,      /* ticks since boot */
    STASIS_AGENT_TAG_STATE,      /* text: one letter, proc(5) */
    STASIS_AGENT_TAG_THREADS,    /* number */
    STASIS_AGENT_TAG_RSS,        /* bytes */
    STASIS_AGENT_TAG_USER,       /* text: name, or number */
    STASIS_AGENT_TAG_UNIT,       /* text: of systemd */
    STASIS_AGENT_TAG_COMM,       /* text */
    STASIS_AGENT_TAG_COMMAND,    /* text: command line, ≤ 4095 bytes */
    STASIS_AGENT_TAG_VIA,        /* number: which EDGE of the answer, from 0 */
    STASIS_AGENT_TAG_OTHER,      /* number: PID; left out: an end that is no process */
    STASIS_AGENT_TAG_RELATION,   /* text */
    STASIS_AGENT_TAG_CLASS,      /* number: StasisAgentClass */
    STASIS_AGENT_TAG_PLACE,      /* number: StasisAgentPlace */
    STASIS_AGENT_TAG_BOTH,       /* number: 1, it holds both ways */
    STASIS_AGENT_TAG_BY_DEFAULT, /* number: 1, cut without being asked for */
    STASIS_AGENT_TAG_OBJECT,     /* text */
    STASIS_AGENT_TAG_WITNESS,    /* text */
    STASIS_AGENT_TAG_REASON,     /* text */
    STASIS_AGENT_TAG_WHAT,       /* text */
    STASIS_AGENT_TAG_TODO,       /* text */
    STASIS_AGENT_TAG_SHAPE,      /* text */
    STASIS_AGENT_TAG_CUT,        /* text: object, witness or relation */
    STASIS_AGENT_TAG_CUT_USES,   /* number: edges that the CUT names */
    STASIS_AGENT_TAG_N_ROOTS,    /* number */
    STASIS_AGENT_TAG_REFUSED,    /* number: 1 */
    STASIS_AGENT_TAG_PASSES,     /* number */
    STASIS_AGENT_TAG_DIGEST,     /* bytes: SHA-256 */
    STASIS_AGENT_TAG_N_FILES,    /* number */
    STASIS_AGENT_TAG_CRIU,       /* text: CRIU's version */
    STASIS_AGENT_TAG_SHELL_JOB,  /* number: 1: its session's leader is not in the tree */
    STASIS_AGENT_TAG_REPLACE,    /* number: 1 */
    STASIS_AGENT_TAG_TALKED,     /* number: messages over that EDGE; left out: not counted */
    STASIS_AGENT_TAG_COUNTED,    /* ns since counting began; left out: nobody counts */
    STASIS_AGENT_TAG_SESSION,    /* number: 1: its root is the first of a PID namespace */
    STASIS_AGENT_TAG_IN_MEMORY,  /* number: 1: who asks can read the guest's memory */
    STASIS_AGENT_TAG_CHECKSUM,   /* number: XXH64, seed 0 */
    STASIS_AGENT_TAG_RUNS,       /* bytes: StasisAgentRun, any number */
    STASIS_AGENT_TAG_DIRECTORY,  /* text: absolute path, in the guest */
    STASIS_AGENT_TAG_DIRECT,     /* number: 1 */
    STASIS_AGENT_TAG_DEVICE,     /* text: "ADDRESS DRIVER METHOD", METHOD one of "runtime-pm",
                                    "unbind", "unused" (DRIVER is "-" then); ≤ 160 bytes */
    STASIS_AGENT_TAG_SUSPENDED_FOR, /* ns since the first device was */
    STASIS_AGENT_TAG_DRIVER,        /* text: of a device, as sysfs calls it */
    STASIS_AGENT_TAG_N_RESUMED,     /* number: devices */
    STASIS_AGENT_TAG_TICKET,        /* number: of a wish; never 0 */
    STASIS_AGENT_TAG_N_ENDED,       /* number */
    STASIS_AGENT_TAG_N_CALLERS,     /* number */
    STASIS_AGENT_TAG_N_SUBSCRIBED,  /* number: of programs */
    STASIS_AGENT_TAG_CYCLE,         /* number */
    STASIS_AGENT_TAG_HELD,          /* number: 1 */
    STASIS_AGENT_TAG_CHANGE, /* record: KIND, PID, START, COMM, COUNT, [OTHER: the last child] of a
                                process; KIND, WHAT ("created" or "removed"), OBJECT, [PID: who has
                                it open] of an object */
    STASIS_AGENT_TAG_SEQUENCE,        /* number */
    STASIS_AGENT_TAG_COUNT,           /* number: so often */
    STASIS_AGENT_TAG_N_WATCHED,       /* number: processes */
    STASIS_AGENT_TAG_LOST,            /* number */
    STASIS_AGENT_TAG_FRESH,           /* number: 1 */
    STASIS_AGENT_TAG_LEASE,           /* ms */
    STASIS_AGENT_TAG_N_MISSED,        /* number: of deadlines */
    STASIS_AGENT_TAG_N_MISSED_BEFORE, /* number */
    STASIS_AGENT_TAG_MODE,            /* number: permissions, ≤ 07777 */
    STASIS_AGENT_TAG_ENTRY,           /* record: KIND ("file", "directory", "link", "other"), NAME,
                                         MODE, SIZE, [OUTPUT: where a link leads] */
    STASIS_AGENT_TAG_NAME,            /* bytes: of an ENTRY in its directory, ≤ 255 */
} StasisAgentTag;

/* So many bytes at a guest-physical address, little-endian. */
typedef struct {
    uint64_t address, bytes;
} StasisAgentRun;

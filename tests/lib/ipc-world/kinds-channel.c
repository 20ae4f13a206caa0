/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pipes, FIFOs and terminals. */
#include "kinds.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static void prepare_pipe(Relation *r)
{
    int p[2];
    CHECK(pipe(p));
    keep_fd(r, p[r->variant & 1], 1u);
    keep_fd(r, p[!(r->variant & 1)], ALL & ~1u);
}
static void prepare_pipe_direct(Relation *r)
{
    int p[2];
    CHECK(pipe2(p, O_DIRECT));
    keep_fd(r, p[0], 1u);
    keep_fd(r, p[1], 1u);
}
static void prepare_fifo(Relation *r)
{
    snprintf(r->path, sizeof r->path, DIR_W "/fifo%d", r->index);
    CHECK(mkfifo(r->path, 0600));
}
static void act_fifo_read(Relation *r, int role)
{
    if (role == 0)
        own_fd((int)CHECK(open(r->path, O_RDWR)));
}
static void act_fifo_write(Relation *r, int role)
{
    if (role > 0)
        own_fd((int)CHECK(open(r->path, O_WRONLY | O_NONBLOCK)));
}
static void act_fifo_path(Relation *r, int role)
{
    own_fd((int)CHECK(open(r->path, O_PATH)));
}

static void act_self_pipe(Relation *r, int role)
{
    int p[2];
    CHECK(pipe(p));
    own_fd(p[0]);
    own_fd(p[1]);
}

/* ---- terminals ---- */

static int open_pty(Relation *r)
{
    /* Two instances of devpts, whose terminals have the same numbers. */
    int master =
        (int)CHECK(open(r->variant & 1 ? DIR_W "/pts/ptmx" : "/dev/ptmx", O_RDWR | O_NOCTTY));
    int zero = 0, number;
    CHECK(ioctl(master, TIOCSPTLCK, &zero));
    CHECK(ioctl(master, TIOCGPTN, &number));
    snprintf(r->path, sizeof r->path, "%s/pts/%d", r->variant & 1 ? DIR_W : "/dev", number);
    keep_fd(r, master, 1u);
    return master;
}
static void prepare_pty(Relation *r)
{
    open_pty(r);
    keep_fd(r, (int)CHECK(open(r->path, O_RDWR | O_NOCTTY)), ALL & ~1u);
}
static void prepare_ctty(Relation *r)
{
    open_pty(r);
}
static void act_ctty(Relation *r, int role)
{
    if (role != 0)
        close((int)CHECK(open(r->path, O_RDWR)));
}

const Kind channel_kinds[] = {
    R("pipe", "pipe", 2, 4, 0, .prepare = prepare_pipe),
    R("packet-pipe", "pipe", 1, 1, KIND_OPAQUE, .prepare = prepare_pipe_direct),
    R("fifo", "fifo", 2, 3, 0, .prepare = prepare_fifo, .act = { act_fifo_read, act_fifo_write }),
    R("pty", "pty", 2, 4, 0, .prepare = prepare_pty),
    R("ctty", "ctty", 2, 2, KIND_TTY | KIND_BORROWS, .prepare = prepare_ctty,
      .act = { [1] = act_ctty }),

    R("no-pipe", NULL, 2, 4, KIND_DECOY, .act = { act_self_pipe }),
    R("no-fifo", NULL, 2, 3, KIND_DECOY, .prepare = prepare_fifo, .act = { act_fifo_path }),
    { 0 },
};

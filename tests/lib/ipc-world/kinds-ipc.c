/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* System V and POSIX semaphores and queues. */
#include "kinds.h"

#include <mqueue.h>
#include <stdio.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/syscall.h>

static void act_sem_make(Relation *r, int role)
{
    if (role == 0)
        CHECK(semget(1000 + r->index, MAX_ROLES + 1, IPC_CREAT | 0600));
}
static void sem_wait_forever(Relation *r)
{
    struct sembuf op = { MAX_ROLES, -1, 0 };
    semop(r->id, &op, 1);
}
static void act_sem(Relation *r, int role)
{
    struct sembuf op = { (unsigned short)role, 1, 0 };
    r->id = (int)CHECK(semget(1000 + r->index, MAX_ROLES + 1, 0600));
    if (role == 1 && (r->variant & 1))
        block_in(SYS_semtimedop, sem_wait_forever, r);
    else
        CHECK(semop(r->id, &op, 1));
}
static void act_sem_undo(Relation *r, int role)
{
    struct sembuf op = { 0, 1, SEM_UNDO };
    CHECK(semop((int)CHECK(semget(1000 + r->index, 1, IPC_CREAT | 0600)), &op, 1));
}
static void act_sem_own(Relation *r, int role)
{
    struct sembuf op = { 0, 1, 0 };
    CHECK(semop((int)CHECK(semget(IPC_PRIVATE, 1, IPC_CREAT | 0600)), &op, 1));
}
static void act_msg_make(Relation *r, int role)
{
    if (role == 0)
        CHECK(msgget(1000 + r->index, IPC_CREAT | 0600));
}
static void msg_wait_forever(Relation *r)
{
    struct {
        long type;
        char text[8];
    } m;
    msgrcv(r->id, &m, sizeof m.text, 99, 0);
}
static void act_msg_send(Relation *r, int role)
{
    struct {
        long type;
        char text[8];
    } m = { 1, "hello" };
    r->id = (int)CHECK(msgget(1000 + r->index, 0600));
    if (role == 0)
        CHECK(msgsnd(r->id, &m, sizeof m.text, 0));
    else if (r->variant & 1)
        block_in(SYS_msgrcv, msg_wait_forever, r);
}
static void act_msg_receive(Relation *r, int role)
{
    struct {
        long type;
        char text[8];
    } m;
    if (role == 1 && !(r->variant & 1))
        CHECK(msgrcv(r->id, &m, sizeof m.text, 1, 0));
}
static void act_mq(Relation *r, int role)
{
    snprintf(r->path, sizeof r->path, "/q%d",
             r->kind->flags & KIND_DECOY ? r->index * 10 + role + 1000 : r->index);
    /* Small: a user's queues count with their whole capacity, in all worlds together. */
    struct mq_attr small = { .mq_maxmsg = 1, .mq_msgsize = 16 };
    own_fd((int)CHECK(mq_open(r->path, O_RDWR | O_CREAT, 0600, &small)));
}

const Kind ipc_kinds[] = {
    R("sysv-sem", "sysv-sem", 2, 4, KIND_IPC | KIND_BLOCKS, .act = { act_sem_make, act_sem }),
    R("undo-user", "sem-undo", 1, 1, KIND_OPAQUE | KIND_IPC, .act = { act_sem_undo }),
    R("sysv-msg", "sysv-msg", 2, 2, KIND_IPC | KIND_BLOCKS,
      .act = { act_msg_make, act_msg_send, act_msg_receive }),
    R("mqueue", "mqueue", 2, 4, KIND_IPC, .act = { act_mq }),

    R("no-sem", NULL, 2, 3, KIND_DECOY | KIND_IPC, .act = { act_sem_own }),
    R("no-mqueue", NULL, 2, 3, KIND_DECOY | KIND_IPC, .act = { act_mq }),
    { 0 },
};

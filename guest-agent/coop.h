/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Programs of the guest that have a say in checkpoints (lib/, include/stasis-guest.h), and the host
 * that serves them. coop.c has their connections and what they say; coop-turn.c what becomes of a
 * checkpoint, from a wish to its end; op-wish.c what the host asks. All of it in the loop, nothing
 * in a worker, since it is one state.
 */
#pragma once

#include "agent.h"
#include "lib/wire.h"
#include "stasis-guest.h"

#define COOP_MAX_CLIENTS 64u
#define COOP_MAX_FDS (COOP_MAX_CLIENTS + 1u)

typedef enum {
    COOP_NO_WISH,
    COOP_WISHED, /* the host has not heard of it */
    COOP_TAKEN,  /* it has */
} CoopWish;

/* What was done in the second that began then. */
typedef struct {
    int64_t second_ms;
    unsigned n;
} Rate;

typedef enum {
    COOP_PROCESS = STASIS_FREEZE_PROCESS,
    COOP_VM = STASIS_FREEZE_VM,
    COOP_RESTORE, /* no checkpoint, but going on from one */
    COOP_N_SCOPES,
} CoopScope;

/* One connection of a program: of one stasis_freeze(), or a standing one. */
typedef struct {
    int fd; /* or -1: this place is free */
    pid_t pid;
    uid_t uid;
    CoopWish wish;
    CoopScope scope; /* of the wish */
    char image[48];  /* that it is about, or "" */
    uint64_t ticket;
    int64_t since_ms; /* wished, or taken */
    bool subscribed, told, ready;
    bool cycles, cycle_wanted;
    bool holds, wants_to_hold; /* a critical section: known to it, or not yet */
    int64_t hold_end_ms;       /* … until when */
    unsigned hold_ms;          /* … as asked for */
    Rate said;                 /* packets */
} CoopClient;

extern CoopClient coop_clients[COOP_MAX_CLIENTS];

/* ---- coop.c ---- */

/* Listen at @path; without it programs find no agent. */
void coop_init(const char *path);
struct pollfd;
/* For the loop's poll(2): fills @fds (COOP_MAX_FDS of them), returns the number. */
unsigned coop_poll_fds(struct pollfd *fds);
/* Take what programs have said, and do what they and time bring about; answers to the host's
 * requests are sent when they are due, and the host is there and reads. */
void coop_work(bool (*send)(const Answer *, uint16_t, uint8_t), bool (*can_send)(void));
/* Take what programs have said by now. */
void coop_take(void);
/* This is a fork in which processes are frozen for CRIU: nothing is said to anybody any more. */
void coop_stop(void);
/* Say that; a program that does not read is let go. */
void coop_tell(CoopClient *client, StasisGuestWhat what, int64_t value);
void coop_close(CoopClient *client);

/* ---- coop-turn.c ---- */

void coop_wish(CoopClient *client, CoopScope scope);
void coop_hold(CoopClient *client, int64_t ms);
/* So many deadlines more, as a program says. */
void coop_missed(int64_t n);
/* Milliseconds until something is due, or @otherwise if that is sooner. What has to be sent is not
 * due while nothing can be. */
int coop_wait_ms(int otherwise, bool can_send);
void coop_turn(bool (*send)(const Answer *, uint16_t, uint8_t), bool (*can_send)(void));
/* Nobody waits for answers any more. */
void coop_forget_requests(void);
/* This VM goes on from an image. */
void coop_resumed(void);

/* For op-wish.c: the host @server is there and has ended @n_ended checkpoints. */
void coop_served_by(const char *server, uint64_t n_ended);
/* False: there is one such request already. */
bool coop_wait_wish(uint64_t id, unsigned timeout_ms);
/* … of @pids alone, unless n_pids is 0. @by: a name for who begins it, or "". @held: it ends with
 * the conversation, if not before. */
bool coop_begin(uint64_t id, const pid_t *pids, unsigned n_pids, const char *by, bool at_cycle_end,
                unsigned timeout_ms, bool held);
/* Who has begun by that name is no more: if it is that one's, it is over, and was not taken. */
void coop_left(const char *by);
/* Of the wish @ticket, or 0: its @result (or -errno) and @image. How many callers were told. */
unsigned coop_end(uint64_t ticket, int64_t result, const char *image);
/* Deadlines missed from BEGIN to END of the last one, and between the END before and that BEGIN.
 * False: no program has ever told of one. */
bool coop_count_missed(uint64_t *ret_meanwhile, uint64_t *ret_before);
/* Of one that is held. */
void coop_end_held(int64_t result);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Generated IPC worlds: random processes with random relations, of which the generator knows who
 * belongs to whom because it made it so. It shares no code with the scanners.
 *
 * Everything that processes have by inheritance is made in the world's init before any fork; each
 * process then drops what is not for it. What they do themselves they do in three steps, and wait
 * for each other by files, since every other channel would be a relation.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define MAX_ACTORS 40
#define MAX_RELATIONS 60
#define MAX_ROLES 4
#define N_STEPS 3
#define DIR_W "/mnt/w"

typedef struct Relation Relation;

enum {
    KIND_DECOY = 1,    /* must draw nobody in */
    KIND_DIRECTED = 2, /* role 0 needs the others, not the other way round */
    KIND_OPAQUE = 4,   /* a set with role 0 in it is refused */
    KIND_TARGET = 8,   /* … and not with role 0, but with role 1 in it */
    KIND_IPC = 16,     /* its members are in IPC namespace B */
    KIND_ODD_IPC = 32, /* … in IPC namespace C */
    KIND_BORROWS = 64, /* the scanner needs the first thread: don't end it */
    KIND_BLOCKS = 128, /* a role ends in a system call of its own */
    KIND_TTY = 256,    /* a role gets a controlling terminal: its session is its own */
    KIND_NET = 512,    /* its members are in one network namespace */
    KIND_NETS = 1024,  /* role 0 is in network namespace 0, role 1 in the other */
    KIND_GROUP = 2048, /* role 1 stands for its whole process group */
};

typedef struct {
    const char *name, *scanner; /* whose absence must be noticed */
    int min, max;               /* members */
    int flags;
    int n_leaves; /* members that role 0 makes itself, with clone: behind those of min … max */
    void (*prepare)(Relation *r);                /* in init, before forks */
    void (*act[N_STEPS])(Relation *r, int role); /* in the members */
} Kind;

struct Relation {
    const Kind *kind;
    int index, n, who[MAX_ROLES];
    int net; /* namespace of its members, with KIND_NET */
    unsigned variant;
    int fd[8];
    unsigned keep[8]; /* bit mask of the roles that keep fd[i] */
    int n_fd;
    void *map;
    size_t map_bytes;
    unsigned map_keep;
    int id; /* of SysV objects */
    char path[64];
};

typedef struct {
    int parent; /* −1: init */
    int leader; /* of its session, by index */
    int group;  /* of its process group, by index */
    bool leaf, leaderless, busy;
    int ipc;        /* 0: B, 1: C, −1: not yet chosen */
    int net;        /* 0: the world's, 1: another, −1: not yet chosen */
    pid_t pid;      /* as init sees it */
    unsigned final; /* number of the system call that it ends up in */
} Actor;

typedef struct {
    Actor actors[MAX_ACTORS];
    int n_actors, n_plain; /* plain ones first, leaves behind */
    Relation relations[MAX_RELATIONS];
    int n_relations;
    int me; /* in a process: its index; −1: init */
} World;

extern World world;

/* ---- kinds.c ---- */
int count_kinds(void);
const Kind *kind_at(int i);
const Kind *find_kind(const char *name);

/* ---- plan.c ---- */
void seed(uint64_t number);
unsigned draw(unsigned n); /* 0 … n − 1 */
/* A world of one kind only is to have no decoys. */
extern bool without_decoys;
/* With @only, of relations of this kind and of decoys. */
void plan(const char *only);

/* ---- truth.c ---- */
/* Without what is cut by its relation's name, if not NULL; before what follows. */
void work_out(const char *cut);
void close_over(int root, bool set[MAX_ACTORS]);
/* Is a set with all of these refused? */
bool is_refused(const bool set[MAX_ACTORS]);
/* What BOUNDARY is told not to mind (--any-dumper), and the agent minds. */
bool criu_refuses(const bool set[MAX_ACTORS]);
int role_of(const Relation *r, int actor); /* −1: none */

/* ---- check.c ---- */
/* The answer for @root is true. With @told, a relation that it is known to have: its edges must be
 * among those told. */
bool compare(const char *boundary, int root, const char *cut, const char *without,
             const char *told);

/* ---- stage.c ---- */
extern int ipc_fds[2], net_fds[2];
void make_world(const char *only);

/* ---- wait.c ---- */
void die(const char *what) __attribute__((noreturn));
void touch(const char *prefix, int index, long number);
void await(const char *prefix, int index, pid_t *ret_pid, long *ret_number);
/* The process ID of an actor after its first step. */
pid_t pid_of(int actor);

/* ---- actors.c ---- */
void spawn_children(int parent);
void drop_what_is_not_mine(int me);
/* An open descriptor of relation @r, for the roles in @mask. */
void keep_fd(Relation *r, int fd, unsigned mask);
/* In a member: a descriptor that it made and keeps. */
void own_fd(int fd);
/* What the process does in the end, instead of pause(2): a call that blocks. */
void block_in(long number, void (*call)(Relation *r), Relation *r);
/* Makes leaf @leaf (an actor's index) with clone(@flags), from its parent. */
void make_leaf(int leaf, int flags);
void make_namespace(int init_leaf, int other_leaf);

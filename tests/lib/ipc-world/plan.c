/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which processes there will be, and which relations: drawn by the seed. */
#include "world.h"

bool without_decoys;

#include <stdlib.h>
#include <string.h>

static uint64_t random_state;

void seed(uint64_t number)
{
    random_state = number * 0x9e3779b97f4a7c15u + 1;
    for (int i = 0; i < 8; i++)
        draw(2);
}

unsigned draw(unsigned n)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (unsigned)((random_state * 2685821657736338717u) >> 33) % n;
}

static bool needs_first[MAX_ACTORS], has_tty[MAX_ACTORS], makes_leaves[MAX_ACTORS];
static bool parted[MAX_ACTORS], traced[MAX_ACTORS];

static bool fits(const Relation *r, int actor)
{
    const Kind *k = r->kind;
    const Actor *a = &world.actors[actor];
    int role = r->n;
    if ((k->flags & KIND_BLOCKS) && a->busy)
        return false;
    if ((k->flags & KIND_IPC) && a->ipc == 1)
        return false;
    /* One undo list is all that the kernel shows; those of threads and of clones are lists, too. */
    bool undo = strcmp(k->name, "thread") == 0 || strcmp(k->name, "sem-undo") == 0;
    if (((k->flags & KIND_ODD_IPC) || undo) && a->ipc == 0)
        return false;
    if (role > 0 && (k->flags & KIND_NET) && a->net >= 0 && a->net != r->net)
        return false;
    if ((k->flags & KIND_NETS) && a->net >= 0 && a->net != role)
        return false;
    if ((k->flags & KIND_TTY) && role > 0 && (a->leader != actor || has_tty[actor]))
        return false;
    if ((k->flags & KIND_TARGET) && role == 1 && traced[actor])
        return false;
    if (k->n_leaves > 0 && (makes_leaves[actor] || parted[actor]))
        return false;
    /* A tracee's clone would be traced, too. */
    if (strcmp(k->name, "thread") == 0 && (parted[actor] || makes_leaves[actor]))
        return false;
    return true;
}

static void take(Relation *r, int role)
{
    const Kind *k = r->kind;
    int actor = r->who[role];
    Actor *a = &world.actors[actor];
    a->busy = a->busy || (k->flags & KIND_BLOCKS);
    bool undo = strcmp(k->name, "thread") == 0 || strcmp(k->name, "sem-undo") == 0;
    if (k->flags & KIND_IPC)
        a->ipc = 0;
    if ((k->flags & KIND_ODD_IPC) || undo)
        a->ipc = 1;
    if (k->flags & KIND_NET)
        a->net = r->net;
    if (k->flags & KIND_NETS)
        a->net = role;
    has_tty[actor] = has_tty[actor] || ((k->flags & KIND_TTY) && role > 0);
    traced[actor] = traced[actor] || ((k->flags & KIND_TARGET) && role == 1);
    makes_leaves[actor] = makes_leaves[actor] || k->n_leaves > 0;
    parted[actor] = parted[actor] || strcmp(k->name, "thread") == 0;
    needs_first[actor] = needs_first[actor] || k->n_leaves > 0 || undo ||
                         (k->flags & (KIND_BORROWS | KIND_BLOCKS | KIND_IPC | KIND_TARGET)) != 0;
}

static const Kind *draw_kind(void)
{
    return kind_at((int)draw((unsigned)count_kinds()));
}

static void plan_relation(const Kind *k)
{
    if (world.n_relations == MAX_RELATIONS || world.n_actors + k->n_leaves > MAX_ACTORS)
        return;
    Relation *r = &world.relations[world.n_relations];
    *r = (Relation){ .kind = k, .index = world.n_relations, .variant = draw(64) };
    int want = k->min + (int)draw((unsigned)(k->max - k->min + 1));
    for (int tries = 0; r->n < want && tries < 100; tries++) {
        int actor = (int)draw((unsigned)world.n_plain);
        if (role_of(r, actor) >= 0 || !fits(r, actor))
            continue;
        if (r->n == 0)
            r->net = world.actors[actor].net >= 0 ? world.actors[actor].net : draw(4) == 0;
        r->who[r->n++] = actor;
    }
    if (r->n < k->min)
        return;
    for (int i = 0; i < r->n; i++)
        take(r, i);
    for (int i = 0; i < k->n_leaves; i++) {
        int leaf = world.n_actors++;
        world.actors[leaf] = (Actor){
            .parent = i == 0 ? r->who[0] : leaf - 1, .leader = leaf, .group = leaf, .leaf = true
        };
        r->who[r->n++] = leaf;
    }
    world.n_relations++;
}

void plan(const char *only)
{
    bool tree = only == NULL || strcmp(only, "parent") == 0 || strcmp(only, "session") == 0 ||
                strcmp(only, "pgrp") == 0;
    unsigned same_session = only == NULL ? 30 : strcmp(only, "parent") == 0 ? 0 : 100;
    unsigned same_group = only == NULL ? 50 : strcmp(only, "pgrp") == 0 ? 100 : 0;
    world.n_plain = world.n_actors = 4 + (int)draw(only == NULL ? 11 : 4);
    for (int i = 0; i < world.n_plain; i++) {
        Actor *a = &world.actors[i];
        *a = (Actor){ .parent = -1, .leader = i, .group = i, .ipc = -1, .net = -1 };
        if (i == 0 || !tree || draw(100) >= (only == NULL ? 40u : 70u))
            continue;
        a->parent = (int)draw((unsigned)i);
        if (draw(100) < same_session) {
            a->leader = world.actors[a->parent].leader;
            if (draw(100) < same_group)
                a->group = world.actors[a->parent].group;
        }
    }
    int wanted = only == NULL ? 4 + (int)draw((unsigned)world.n_plain * 2) : tree ? 0 : 2;
    for (int i = 0; i < wanted; i++) {
        const Kind *k = only != NULL ? find_kind(only) : draw_kind();
        /* What is refused makes a whole set so: seldom. */
        if (only == NULL && (k->flags & KIND_OPAQUE) && draw(3) != 0)
            continue;
        plan_relation(k);
    }
    for (int i = 0; only != NULL && !without_decoys && i < 6; i++) {
        const Kind *k = draw_kind();
        if ((k->flags & KIND_DECOY) && !(k->flags & KIND_OPAQUE))
            plan_relation(k);
    }
    for (int i = 0; i < world.n_plain; i++) {
        Actor *a = &world.actors[i];
        a->leaderless = !needs_first[i] && draw(8) == 0;
        if (a->net < 0)
            a->net = draw(6) == 0;
    }
}

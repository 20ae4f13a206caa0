/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who belongs together, because the world was made so. */
#include "world.h"

#include <string.h>

int role_of(const Relation *r, int actor)
{
    for (int i = 0; i < r->n; i++)
        if (r->who[i] == actor)
            return i;
    return -1;
}

static bool draws[MAX_ACTORS][MAX_ACTORS];
static bool opaque[MAX_ACTORS];

static void pull(int a, int b, const char *relation, const char *cut)
{
    if (a >= 0 && b >= 0 && (cut == NULL || strcmp(cut, relation) != 0))
        draws[a][b] = true;
}

static void both(int a, int b, const char *relation, const char *cut)
{
    pull(a, b, relation, cut);
    pull(b, a, relation, cut);
}

void work_out(const char *cut)
{
    memset(draws, 0, sizeof draws);
    memset(opaque, 0, sizeof opaque);
    for (int i = 0; i < world.n_actors; i++) {
        pull(world.actors[i].parent, i, "parent", cut);
        for (int k = 0; k < i; k++) {
            if (world.actors[i].leader == world.actors[k].leader)
                both(i, k, "session", cut);
            if (world.actors[i].group == world.actors[k].group)
                both(i, k, "pgrp", cut);
        }
    }
    for (int i = 0; i < world.n_relations; i++) {
        const Relation *r = &world.relations[i];
        const Kind *k = r->kind;
        opaque[r->who[0]] =
            opaque[r->who[0]] || ((k->flags & KIND_OPAQUE) && !(k->flags & KIND_TARGET));
        if (k->flags & KIND_TARGET)
            opaque[r->who[1]] = true;
        if (k->flags & KIND_DECOY)
            continue;
        if (k->n_leaves == 2) {
            pull(r->who[2], r->who[1], "namespace", cut);
            continue;
        }
        for (int x = 0; (k->flags & KIND_GROUP) && x < world.n_actors; x++)
            if (world.actors[x].group == world.actors[r->who[1]].group)
                both(r->who[0], x, k->scanner, cut);
        for (int x = 1; x < r->n; x++) {
            pull(r->who[0], r->who[x], k->scanner, cut);
            if (!(k->flags & KIND_DIRECTED))
                pull(r->who[x], r->who[0], k->scanner, cut);
        }
        /* Its second end is open in several. */
        for (int x = 2; strcmp(k->name, "unix-pair") == 0 && x < r->n; x++)
            both(r->who[1], r->who[x], "socket", cut);
    }
}

void close_over(int root, bool set[MAX_ACTORS])
{
    memset(set, 0, MAX_ACTORS * sizeof *set);
    set[root] = true;
    for (bool more = true; more;) {
        more = false;
        for (int a = 0; a < world.n_actors; a++)
            for (int b = 0; set[a] && b < world.n_actors; b++)
                if (draws[a][b] && !set[b])
                    set[b] = more = true;
    }
}

bool is_refused(const bool set[MAX_ACTORS])
{
    bool refused = false;
    for (int i = 0; i < world.n_actors; i++)
        refused = refused || (set[i] && opaque[i]);
    return refused;
}

bool criu_refuses(const bool set[MAX_ACTORS])
{
    static const char *const kinds_refused[] = { "memory", "fs", "sighand", "bpf-map",
                                                 "huge-memfd" };
    int ipc = -1, space[MAX_ACTORS] = { 0 }, first = -1;
    for (int i = 0; i < world.n_relations; i++) {
        const Relation *r = &world.relations[i];
        for (size_t k = 0; k < sizeof kinds_refused / sizeof *kinds_refused; k++)
            if (set[r->who[0]] && strcmp(r->kind->name, kinds_refused[k]) == 0)
                return true;
        if (r->kind->n_leaves == 2) /* a PID namespace */
            space[r->who[1]] = space[r->who[2]] = i + 1;
    }
    for (int i = 0; i < world.n_actors; i++) {
        int plain = i;
        while (world.actors[plain].leaf)
            plain = world.actors[plain].parent;
        bool other = world.actors[plain].ipc == 1;
        if (set[i] && (world.actors[i].leaderless || (first >= 0 && space[i] != space[first]) ||
                       (ipc >= 0 && ipc != other)))
            return true;
        if (set[i]) {
            ipc = other;
            first = i;
        }
    }
    return false;
}

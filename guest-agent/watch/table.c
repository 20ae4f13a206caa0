/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is kept of those that are watched. */
#include <stdio.h>
#include <string.h>

#include "watch/watch.h"

#define RECORD_BYTES 512u

const char *const watch_kind_names[WATCH_N_KINDS] = {
    [WATCH_FORK] = "fork",     [WATCH_EXEC] = "exec", [WATCH_EXIT] = "exit",
    [WATCH_MQUEUE] = "mqueue", [WATCH_SEM] = "sem",   [WATCH_SHM] = "shm",
};

static bool wants(const WatchTable *table, WatchKind kind)
{
    return (table->kinds & 1u << kind) != 0;
}

static void count(uint32_t *counter)
{
    if (*counter < UINT32_MAX)
        (*counter)++;
}

void watch_table_clear(WatchTable *table, unsigned kinds)
{
    table->kinds = kinds;
    table->n = table->n_objects = table->n_objects_told = 0;
    table->lost = table->told_lost = 0;
}

/* ---- what happens ---- */

WatchProcess *watch_table_find(WatchTable *table, pid_t pid)
{
    for (unsigned i = 0; i < table->n; i++)
        if (table->processes[i].pid == pid && !table->processes[i].ended)
            return &table->processes[i];
    return NULL;
}

WatchProcess *watch_table_add(WatchTable *table, pid_t pid, uint64_t start, const WatchStat *stat,
                              bool known)
{
    for (unsigned i = 0; i < table->n; i++) {
        WatchProcess *p = &table->processes[i];
        if (p->pid != pid || p->start != start)
            continue;
        p->known |= known;
        p->has |= known;
        return p;
    }
    if (table->n == STASIS_AGENT_MAX_WATCHED) {
        count(&table->lost);
        return NULL;
    }
    WatchProcess *p = &table->processes[table->n++];
    *p = (WatchProcess){
        .pid = pid, .start = start, .known = known, .has = known, .ended = stat == NULL
    };
    if (stat != NULL)
        snprintf(p->comm, sizeof p->comm, "%s", stat->comm);
    return p;
}

static const WatchStat unseen;

void watch_table_fork(WatchTable *table, WatchProcess *parent, pid_t child, const WatchStat *stat)
{
    count(&parent->forks);
    parent->last_child = child;
    watch_table_add(table, child, stat != NULL ? stat->start : 0, stat != NULL ? stat : &unseen,
                    false);
}

void watch_table_exec(WatchProcess *process, const WatchStat *stat)
{
    count(&process->execs);
    if (stat != NULL)
        snprintf(process->comm, sizeof process->comm, "%s", stat->comm);
}

static void drop(WatchTable *table, WatchProcess *process)
{
    *process = table->processes[--table->n];
}

void watch_table_end(WatchTable *table, WatchProcess *process)
{
    process->ended = true;
    process->ending = false;
    if (!process->known || !wants(table, WATCH_EXIT))
        drop(table, process);
}

void watch_table_object(WatchTable *table, const WatchObject *object)
{
    if (table->n_objects == WATCH_MAX_OBJECT_CHANGES)
        count(&table->lost);
    else
        table->objects[table->n_objects++] = *object;
}

/* ---- what is told ---- */

static bool process_has_changed(const WatchTable *table, const WatchProcess *p)
{
    return (p->forks > 0 && wants(table, WATCH_FORK)) ||
           (p->execs > 0 && wants(table, WATCH_EXEC)) || (p->ended && wants(table, WATCH_EXIT));
}

bool watch_table_has_changes(const WatchTable *table)
{
    if (table->n_objects > 0 || table->lost > 0)
        return true;
    for (unsigned i = 0; i < table->n; i++)
        if (process_has_changed(table, &table->processes[i]))
            return true;
    return false;
}

static void put_process(const WatchTable *table, const WatchProcess *p, WatchKind kind,
                        uint32_t number, Answer *answer)
{
    uint8_t room[RECORD_BYTES];
    StasisFieldWriter record = { .payload = room, .room = sizeof room };
    if (number == 0 || !wants(table, kind))
        return;
    stasis_field_put_text(&record, STASIS_AGENT_TAG_KIND, watch_kind_names[kind]);
    stasis_field_put_number(&record, STASIS_AGENT_TAG_PID, (uint64_t)p->pid);
    stasis_field_put_number(&record, STASIS_AGENT_TAG_START, p->start);
    stasis_field_put_text(&record, STASIS_AGENT_TAG_COMM, p->comm);
    stasis_field_put_number(&record, STASIS_AGENT_TAG_COUNT, number);
    if (kind == WATCH_FORK)
        stasis_field_put_number(&record, STASIS_AGENT_TAG_OTHER, (uint64_t)p->last_child);
    answer_record(answer, STASIS_AGENT_TAG_CHANGE, &record);
}

/* Who has started all others may end before the host asks again: it can't ask for these by that. */
static void put_new(WatchProcess *p, Answer *answer)
{
    uint8_t room[RECORD_BYTES];
    StasisFieldWriter record = { .payload = room, .room = sizeof room };
    p->told_has = !p->has && !p->ended && p->start != 0;
    if (!p->told_has)
        return;
    stasis_field_put_number(&record, STASIS_AGENT_TAG_PID, (uint64_t)p->pid);
    stasis_field_put_number(&record, STASIS_AGENT_TAG_START, p->start);
    answer_record(answer, STASIS_AGENT_TAG_PROCESS, &record);
}

static void put_object(const WatchObject *object, Answer *answer)
{
    uint8_t room[RECORD_BYTES];
    StasisFieldWriter record = { .payload = room, .room = sizeof room };
    stasis_field_put_text(&record, STASIS_AGENT_TAG_KIND, watch_kind_names[object->kind]);
    stasis_field_put_text(&record, STASIS_AGENT_TAG_WHAT, object->created ? "created" : "removed");
    stasis_field_put_text(&record, STASIS_AGENT_TAG_OBJECT, object->name);
    if (object->pid > 0)
        stasis_field_put_number(&record, STASIS_AGENT_TAG_PID, (uint64_t)object->pid);
    answer_record(answer, STASIS_AGENT_TAG_CHANGE, &record);
}

void watch_table_put(WatchTable *table, Answer *answer)
{
    for (unsigned i = 0; i < table->n; i++) {
        WatchProcess *p = &table->processes[i];
        put_process(table, p, WATCH_FORK, p->told_forks = p->forks, answer);
        put_process(table, p, WATCH_EXEC, p->told_execs = p->execs, answer);
        put_process(table, p, WATCH_EXIT, p->told_ended = p->ended, answer);
        put_new(p, answer);
        p->known |= p->start != 0;
    }
    for (unsigned i = 0; i < table->n_objects; i++)
        put_object(&table->objects[i], answer);
    table->n_objects_told = table->n_objects;
    table->told_lost = table->lost;
}

void watch_table_confirm(WatchTable *table)
{
    for (unsigned i = table->n; i-- > 0;) {
        WatchProcess *p = &table->processes[i];
        p->forks -= p->told_forks;
        p->execs -= p->told_execs;
        p->told_forks = p->told_execs = 0;
        p->has |= p->told_has;
        if (p->told_ended)
            drop(table, p);
    }
    table->n_objects -= table->n_objects_told;
    memmove(table->objects, table->objects + table->n_objects_told,
            table->n_objects * sizeof *table->objects);
    table->n_objects_told = 0;
    table->lost -= table->told_lost;
    table->told_lost = 0;
}

unsigned watch_table_count(const WatchTable *table)
{
    unsigned n = 0;
    for (unsigned i = 0; i < table->n; i++)
        n += !table->processes[i].ended;
    return n;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The watch, in the loop: what the kernel tells goes into the table, and what is in that to the
 * host when it asks. It outlives the conversation in which it was begun, since the host takes its
 * checkpoints in others; a host that has gone for good is known by its not asking any more.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "watch/watch.h"

#define ENDING_MS 20    /* from the news that a process ends until it has */
#define MAX_EVENTS 512u /* in one go: others want the loop, too */
#define READY_MS 10000  /* who looks for objects has looked once */
#define SETTLE_MS 20    /* what comes together is told together */

static struct {
    bool running;
    char token[65];
    uint64_t sequence; /* of the last answer; 0: none yet */
    bool fresh;        /* … which is the first */
    int connector;
    WatchObjects objects;
    WatchTable table;
    bool any_ending, pids_changed;
    bool overflown; /* the kernel told more than there was room for */
    unsigned lease_ms;
    int64_t lease_end_ms;
    /* The request that waits. */
    bool asked;
    uint64_t id;
    int64_t asked_ms, due_ms;
    int64_t changed_ms; /* there is something to tell since then; 0: nothing */
    Answer answer;
} watch = { .connector = -1, .objects = { .fd = -1 } };

/* ---- what is heard ---- */

static void look_at_ending(WatchProcess *p)
{
    WatchStat stat;
    bool there = watch_stat(p->pid, &stat) && stat.start == p->start;
    if (!there || watch_stat_is_over(&stat))
        watch_table_end(&watch.table, p);
    else if (stat.state == 'Z')
        p->ending = false; /* its last thread will be told of */
    else
        watch.any_ending = true;
}

static void look_at_all_ending(void)
{
    if (!watch.any_ending)
        return;
    watch.any_ending = false;
    for (unsigned i = watch.table.n; i-- > 0;)
        if (watch.table.processes[i].ending && !watch.table.processes[i].ended)
            look_at_ending(&watch.table.processes[i]);
    watch.pids_changed = true;
}

static void hear(void *data, WatchHeard what, pid_t pid, pid_t other)
{
    WatchProcess *p = watch_table_find(&watch.table, pid);
    WatchStat stat;
    (void)data;
    if (p == NULL)
        return;
    if (what == WATCH_HEARD_FORK) {
        bool there = watch_stat(other, &stat);
        watch_table_fork(&watch.table, p, other, there ? &stat : NULL);
        watch.pids_changed = true;
    } else if (what == WATCH_HEARD_EXEC) {
        watch_table_exec(p, watch_stat(pid, &stat) ? &stat : NULL);
        p->ending = false; /* a thread that becomes the program ends the first one */
    } else {
        /* Of a thread: the process may have ended with it if its first one has before. */
        p->ending |= other == pid || (watch_stat(pid, &stat) && stat.state == 'Z');
        watch.any_ending |= p->ending;
    }
}

static void add_child(void *data, pid_t child)
{
    WatchStat stat;
    (void)data;
    if (watch_table_find(&watch.table, child) == NULL && watch_stat(child, &stat) &&
        !watch_stat_is_over(&stat))
        watch_table_add(&watch.table, child, stat.start, &stat, false);
}

/* What was started before we were told of anything. Those that are added are looked at as well. */
static void add_descendants(unsigned from)
{
    for (unsigned i = from; i < watch.table.n; i++)
        if (!watch.table.processes[i].ended)
            process_each_child(watch.table.processes[i].pid, add_child, NULL);
    watch.pids_changed = true;
}

/* Some of what the kernel told went past us: who has ended, and who has been started? */
static void look_again(void)
{
    watch.overflown = false;
    watch.table.lost++;
    for (unsigned i = watch.table.n; i-- > 0;) {
        WatchProcess *p = &watch.table.processes[i];
        WatchStat stat;
        if (!p->ended &&
            (!watch_stat(p->pid, &stat) || stat.start != p->start || watch_stat_is_over(&stat)))
            watch_table_end(&watch.table, p);
    }
    add_descendants(0);
}

static void share_pids(void)
{
    WatchShared *shared = watch.objects.shared;
    unsigned n = 0;
    if (shared == NULL || !watch.pids_changed)
        return;
    watch.pids_changed = false;
    for (unsigned i = 0; i < watch.table.n; i++)
        if (!watch.table.processes[i].ended)
            shared->pids[n++] = watch.table.processes[i].pid;
    shared->n = n;
}

static void take_objects(void)
{
    WatchObject object;
    ssize_t n = 0;
    if (watch.objects.fd < 0)
        return;
    while (watch.table.n_objects < WATCH_MAX_OBJECT_CHANGES &&
           (n = read(watch.objects.fd, &object, sizeof object)) == (ssize_t)sizeof object)
        if (object.kind < WATCH_N_KINDS)
            watch_table_object(&watch.table, &object);
        else
            watch.objects.ready = true;
    if (n == 0 && watch.table.n_objects < WATCH_MAX_OBJECT_CHANGES) {
        watch_objects_stop(&watch.objects); /* it was killed; the host is told by LOST */
        watch.table.lost++;
    }
}

/* ---- begin and end ---- */

void watch_stop(void)
{
    if (!watch.running)
        return;
    watch_connector_close(watch.connector);
    watch.connector = -1;
    watch_objects_stop(&watch.objects);
    watch.running = false;
}

static void add(const WatchRequest *request)
{
    unsigned from = watch.table.n;
    for (unsigned i = 0; i < request->n_pids; i++) {
        WatchStat stat;
        bool lives = watch_stat(request->pids[i], &stat) && stat.start == request->starts[i] &&
                     !watch_stat_is_over(&stat);
        watch_table_add(&watch.table, request->pids[i], request->starts[i], lives ? &stat : NULL,
                        true);
    }
    add_descendants(from);
}

static bool begin(const WatchRequest *request, Answer *answer)
{
    watch_stop();
    int fd = watch_connector_open();
    if (fd < 0) {
        answer_error(
            answer, STASIS_AGENT_UNSUPPORTED, -fd,
            "watch: the guest's kernel does not tell of processes (CONFIG_PROC_EVENTS, for "
            "root in the first network namespace)");
        return false;
    }
    watch_table_clear(&watch.table, request->kinds);
    int r = (request->kinds & WATCH_OBJECTS) != 0
                ? watch_objects_start(&watch.objects, request->kinds)
                : 0;
    if (r != 0) {
        watch_connector_close(fd);
        answer_error(answer, STASIS_AGENT_FAILED, r, "watch: who looks for objects");
        return false;
    }
    memcpy(watch.token, request->token, sizeof watch.token);
    watch.connector = fd;
    watch.running = true;
    watch.fresh = true;
    watch.sequence = 0;
    watch.any_ending = watch.overflown = false;
    return true;
}

bool watch_ask(uint64_t id, const WatchRequest *request, Answer *answer)
{
    bool mine = watch.running && strcmp(watch.token, request->token) == 0;
    if ((watch.running && !mine) || watch.asked) {
        answer_error(answer, STASIS_AGENT_STATE, 0,
                     "watch: processes of this guest are watched already, by another proc-watch");
        return false;
    }
    if (mine && request->sequence == watch.sequence && watch.sequence > 0) {
        watch_table_confirm(&watch.table);
        watch.fresh = false;
    } else if (!mine || request->kinds != watch.table.kinds ||
               request->sequence + 1 != watch.sequence) {
        /* Also when this VM was taken back to before that. */
        if (!begin(request, answer))
            return false;
    }
    add(request);
    share_pids();
    watch.lease_ms = request->lease_ms;
    watch.lease_end_ms = now_ms() + request->lease_ms;
    watch.id = id;
    watch.asked_ms = now_ms();
    watch.due_ms = watch.asked_ms + request->timeout_ms;
    watch.changed_ms = 0;
    watch.asked = true;
    return true;
}

void watch_end(const char *token)
{
    if (watch.running && strcmp(watch.token, token) == 0)
        watch_stop();
}

void watch_forget_request(void)
{
    watch.asked = false;
}

/* ---- for the loop ---- */

unsigned watch_poll_fds(struct pollfd *fds)
{
    unsigned n = 0;
    if (!watch.running)
        return 0;
    fds[n++] = (struct pollfd){ .fd = watch.connector, .events = POLLIN };
    if (watch.objects.fd >= 0 && watch.table.n_objects < WATCH_MAX_OBJECT_CHANGES)
        fds[n++] = (struct pollfd){ .fd = watch.objects.fd, .events = POLLIN };
    return n;
}

static int64_t answer_at_ms(void)
{
    /* The first answer says that all that happens from then on will be told. */
    if (watch.objects.fd >= 0 && !watch.objects.ready && watch_table_count(&watch.table) > 0)
        return watch.asked_ms + READY_MS;
    return watch.changed_ms != 0 && watch.changed_ms + SETTLE_MS < watch.due_ms
               ? watch.changed_ms + SETTLE_MS
               : watch.due_ms;
}

int watch_wait_ms(int otherwise, bool can_send)
{
    if (!watch.running)
        return otherwise;
    int64_t now = now_ms(), at = watch.lease_end_ms;
    if (watch.any_ending && now + ENDING_MS < at)
        at = now + ENDING_MS;
    if (watch.asked && can_send && answer_at_ms() < at)
        at = answer_at_ms();
    return at <= now ? 0 : at - now < otherwise ? (int)(at - now) : otherwise;
}

static void send_changes(bool (*send)(const Answer *, uint16_t, uint8_t))
{
    Answer *answer = &watch.answer;
    answer->id = watch.id;
    answer->send = send;
    answer->ended = false;
    answer->fields = (StasisFieldWriter){ answer->payload, 0, STASIS_AGENT_MAX_PAYLOAD, false };
    watch.asked = false;
    watch.lease_end_ms = now_ms() + watch.lease_ms;
    watch_table_put(&watch.table, answer);
    answer_part(answer);
    watch.sequence++;
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_SEQUENCE, watch.sequence);
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_N_WATCHED,
                            watch_table_count(&watch.table));
    if (watch.table.lost > 0)
        stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_LOST, watch.table.lost);
    if (watch.fresh)
        stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_FRESH, 1);
    answer_end(answer);
}

void watch_work(bool (*send)(const Answer *, uint16_t, uint8_t), bool (*can_send)(void))
{
    if (!watch.running) {
        watch.asked = false;
        return;
    }
    bool all = watch_connector_read(watch.connector, MAX_EVENTS, hear, NULL, &watch.overflown);
    if (all && watch.overflown)
        look_again();
    look_at_all_ending();
    take_objects();
    share_pids();
    int64_t now = now_ms();
    if (watch.changed_ms == 0 && watch_table_has_changes(&watch.table))
        watch.changed_ms = now;
    if (watch.asked && now >= answer_at_ms() && can_send())
        send_changes(send);
    if (!watch.asked && now >= watch.lease_end_ms)
        watch_stop();
}

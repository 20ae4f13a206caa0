/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who belongs together (graph/boundary.h), as an answer. The worker that looks is left out of what
 * it sees, and the agent, its parent, may not be in the set: a command that agent-exec runs hangs
 * on a pipe to the agent, and is refused with just that as the witness.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "graph/boundary.h"

#define LIMIT_MS 60000
#define MAX_SET 10000
#define RECORD_BYTES 32768u

/* Same numbers in the protocol and in the scan. */
_Static_assert((int)STASIS_AGENT_CLASS_INFO == (int)STASIS_EDGE_INFO &&
                   (int)STASIS_AGENT_CLASS_OPAQUE == (int)STASIS_EDGE_OPAQUE,
               "classes");

typedef struct {
    pid_t pids[STASIS_AGENT_MAX_LIST];
    const char *cuts[STASIS_AGENT_MAX_LIST];
    char unit[256], cgroup[1024];
    StasisBoundaryRequest request;
} Asked;

/* ---- the request ---- */

static bool add_pid(Asked *asked, const StasisField *field)
{
    uint64_t pid = stasis_field_to_number(field);
    if (asked->request.n_pids == STASIS_AGENT_MAX_LIST || pid == 0 || pid > INT32_MAX)
        return false;
    asked->pids[asked->request.n_pids++] = (pid_t)pid;
    return true;
}

static bool add_cut(Asked *asked, const StasisField *field)
{
    if (asked->request.n_cuts == STASIS_AGENT_MAX_LIST || !stasis_field_is_text(field, 4096))
        return false;
    asked->cuts[asked->request.n_cuts] = strndup((const char *)field->value, field->length);
    return asked->cuts[asked->request.n_cuts++] != NULL;
}

/* NULL, or what is wrong with it. */
static const char *read_request(const Request *request, Asked *asked)
{
    StasisBoundaryRequest *r = &asked->request;
    char shape[16] = "closure";
    StasisField field;
    *r = (StasisBoundaryRequest){ .pids = asked->pids, .cuts = asked->cuts };
    for (uint32_t at = 0; stasis_field_next(request->fields, request->length, &at, &field);) {
        if (field.tag == STASIS_AGENT_TAG_PID && !add_pid(asked, &field))
            return "no process ID, or too many";
        if (field.tag == STASIS_AGENT_TAG_CUT && !add_cut(asked, &field))
            return "a cut that is too long, or too many";
    }
    if (request_text(request, STASIS_AGENT_TAG_UNIT, asked->unit, sizeof asked->unit))
        r->unit = asked->unit;
    if (request_text(request, STASIS_AGENT_TAG_CGROUP, asked->cgroup, sizeof asked->cgroup))
        r->cgroup = asked->cgroup;
    if (r->n_pids == 0 && r->unit == NULL && r->cgroup == NULL)
        return "no process, unit or cgroup is asked for";
    request_text(request, STASIS_AGENT_TAG_SHAPE, shape, sizeof shape);
    if (!stasis_shape_find(shape, &r->shape))
        return "a shape that is not known here";
    uint64_t limit = request_number(request, STASIS_AGENT_TAG_LIMIT, 0);
    r->max_processes = limit < MAX_SET ? (size_t)limit : MAX_SET;
    r->max_ms = request_timeout(request, LIMIT_MS);
    r->direct = request_number(request, STASIS_AGENT_TAG_DIRECT, 0) != 0;
    r->ignore_self = true;
    r->agent = getppid();
    return NULL;
}

/* ---- the answer ---- */

/* Number of each edge in the answer. */
static uint32_t *number_edges(const StasisBoundary *b, size_t *ret_n)
{
    uint32_t *numbers = calloc(b->scan.edges.n + 1, sizeof *numbers);
    uint32_t n = 0;
    for (size_t i = 0; numbers != NULL && i < b->scan.edges.n; i++)
        if (b->place[i] != STASIS_EDGE_FAR)
            numbers[i] = n++;
    *ret_n = n;
    return numbers;
}

static bool put_process(const StasisBoundary *b, int proc, int32_t index, const uint32_t *numbers,
                        Answer *answer)
{
    static uint8_t room[PROCESS_RECORD_BYTES];
    static Process process;
    const StasisProcess *p = &b->scan.processes.items[index];
    StasisFieldWriter record = { .payload = room, .room = sizeof room };
    /* What the scan saw counts; what it does not look at is read now, if it is still the same. */
    if (!process_read(proc, p->pid, &process) || process.start != p->start)
        process = (Process){ .pid = p->pid };
    process.ppid = p->ppid;
    process.sid = p->sid;
    process.start = p->start;
    process.state = p->state;
    process.n_threads = (unsigned)p->n_tasks;
    size_t len = strnlen(p->comm, sizeof process.comm - 1);
    memcpy(process.comm, p->comm, len);
    process.comm[len] = '\0';
    process_put(&record, &process);
    if (b->via[index] >= 0)
        stasis_field_put_number(&record, STASIS_AGENT_TAG_VIA, numbers[b->via[index]]);
    return answer_record(
        answer, b->is_member[index] ? STASIS_AGENT_TAG_PROCESS : STASIS_AGENT_TAG_NEIGHBOUR,
        &record);
}

static uint64_t place_number(StasisEdgePlace place)
{
    return place == STASIS_EDGE_INSIDE ? STASIS_AGENT_PLACE_INSIDE
           : place == STASIS_EDGE_CUT  ? STASIS_AGENT_PLACE_CUT
                                       : STASIS_AGENT_PLACE_NEAR;
}

static bool put_edge(const StasisBoundary *b, size_t index, Answer *answer)
{
    static uint8_t room[RECORD_BYTES];
    const StasisEdge *e = &b->scan.edges.items[index];
    StasisFieldWriter record = { .payload = room, .room = sizeof room };
    stasis_field_put_number(&record, STASIS_AGENT_TAG_PID,
                            (uint64_t)b->scan.processes.items[e->a].pid);
    if (e->b >= 0)
        stasis_field_put_number(&record, STASIS_AGENT_TAG_OTHER,
                                (uint64_t)b->scan.processes.items[e->b].pid);
    stasis_field_put_text(&record, STASIS_AGENT_TAG_RELATION, e->relation->name);
    stasis_field_put_number(&record, STASIS_AGENT_TAG_CLASS, e->class);
    stasis_field_put_number(&record, STASIS_AGENT_TAG_PLACE, place_number(b->place[index]));
    if (e->both)
        stasis_field_put_number(&record, STASIS_AGENT_TAG_BOTH, 1);
    if (e->cut_by_default)
        stasis_field_put_number(&record, STASIS_AGENT_TAG_BY_DEFAULT, 1);
    if (e->counted)
        stasis_field_put_number(&record, STASIS_AGENT_TAG_TALKED, e->talked);
    stasis_field_put_text(&record, STASIS_AGENT_TAG_OBJECT, e->object);
    stasis_field_put_text(&record, STASIS_AGENT_TAG_WITNESS, e->witness);
    stasis_field_put_text(&record, STASIS_AGENT_TAG_REASON, e->reason);
    return answer_record(answer, STASIS_AGENT_TAG_EDGE, &record);
}

static void put_refusals(const StasisBoundary *b, Answer *answer)
{
    static uint8_t room[RECORD_BYTES];
    for (size_t i = 0; i < b->refusals.n && i < STASIS_AGENT_MAX_REFUSALS; i++) {
        StasisFieldWriter record = { .payload = room, .room = sizeof room };
        stasis_field_put_text(&record, STASIS_AGENT_TAG_WHAT, b->refusals.items[i].what);
        stasis_field_put_text(&record, STASIS_AGENT_TAG_WITNESS, b->refusals.items[i].witness);
        stasis_field_put_text(&record, STASIS_AGENT_TAG_TODO, b->refusals.items[i].todo);
        answer_record(answer, STASIS_AGENT_TAG_REFUSAL, &record);
    }
}

/* How many processes the answer names. */
static size_t count_processes(const StasisBoundary *b)
{
    size_t n = b->members.n;
    for (size_t i = 0; i < b->scan.processes.n; i++)
        n += b->is_neighbour[i];
    return n;
}

/* Members, neighbours, edges; false when there are more than an answer may have. */
static bool put_graph(const StasisBoundary *b, Answer *answer)
{
    size_t n_edges;
    uint32_t *numbers = number_edges(b, &n_edges);
    int proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    bool fits = numbers != NULL && n_edges <= STASIS_AGENT_MAX_EDGES &&
                count_processes(b) <= STASIS_AGENT_MAX_PROCESSES;
    bool wanted = fits;
    for (size_t i = 0; wanted && i < b->members.n; i++)
        wanted = put_process(b, proc, b->members.items[i], numbers, answer);
    for (size_t i = 0; wanted && i < b->scan.processes.n; i++)
        wanted = !b->is_neighbour[i] || put_process(b, proc, (int32_t)i, numbers, answer);
    for (size_t i = 0; wanted && i < b->scan.edges.n; i++)
        wanted = b->place[i] == STASIS_EDGE_FAR || put_edge(b, i, answer);
    if (proc >= 0)
        close(proc);
    free(numbers);
    return fits;
}

static void put_boundary(const StasisBoundary *b, Answer *answer)
{
    bool refused = b->verdict == STASIS_VERDICT_REFUSED;
    /* Without members, as after a limit, there is no graph at all. */
    bool fits = b->members.n == 0 || put_graph(b, answer);
    if (!fits && !refused) {
        answer_error(answer, STASIS_AGENT_FAILED, 0,
                     "boundary: %zu processes with more relations than an answer may have (%u); "
                     "ask for fewer",
                     b->members.n, STASIS_AGENT_MAX_EDGES);
        return;
    }
    put_refusals(b, answer);
    if (answer->fields.length > 0)
        answer_part(answer); /* the last part has numbers alone, and so has room for them */
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_N_ROOTS,
                            fits && b->members.n > 0 ? b->n_roots : 0);
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_REFUSED, refused);
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_PASSES, b->n_passes);
    if (b->request.counts != NULL)
        stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_COUNTED,
                                b->request.counts->unknown
                                    ? 0
                                    : clock_ns(CLOCK_BOOTTIME) - b->request.counts->since_ns);
    for (size_t i = 0; i < b->request.n_cuts; i++)
        stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_CUT_USES,
                                b->cut_uses != NULL ? b->cut_uses[i] : 0);
    answer_end(answer);
}

/* In the loop, since what counts ends with who began it. */
bool op_boundary_before(const Request *request, Answer *answer)
{
    char shape[16] = "";
    (void)answer;
    agent_talk.fresh = false;
    if (request_text(request, STASIS_AGENT_TAG_SHAPE, shape, sizeof shape) &&
        strcmp(shape, stasis_shape_names[STASIS_SHAPE_TALKED]) == 0)
        stasis_talk_start(&agent_talk);
    return true;
}

void op_boundary(const Request *request, Answer *answer)
{
    static Asked asked;
    static StasisBoundary boundary;
    static StasisCounts counts;
    StasisCount *items = NULL;
    const char *wrong = read_request(request, &asked);
    if (wrong != NULL) {
        answer_error(answer, STASIS_AGENT_INVALID, 0, "boundary: %s", wrong);
        return;
    }
    /* If that fails, the set is refused, with the reason. */
    stasis_talk_open(&agent_talk, asked.request.shape == STASIS_SHAPE_TALKED);
    if (agent_talk.running && stasis_talk_read(&agent_talk, &counts, &items))
        asked.request.counts = &counts;
    else
        asked.request.uncounted = agent_talk.error;
    stasis_boundary_find(&boundary, &asked.request);
    if (boundary.verdict == STASIS_VERDICT_FAILED)
        answer_error(answer, STASIS_AGENT_FAILED, 0, "%s", boundary.error);
    else
        put_boundary(&boundary, answer);
    stasis_talk_sweep(&agent_talk, &boundary.scan);
    stasis_boundary_clear(&boundary);
    free(items);
}

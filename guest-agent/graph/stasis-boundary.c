/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The command that prints a boundary, for use in the guest by hand: the agent answers the same
 * question over its channel. Exit codes: 0, 1 failed, 2 wrong use, 4 refused. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "graph/boundary.h"
#include "talk/talk.h"

#define MAX_LIST 256

static const char help[] =
    "usage: stasis-boundary [OPTION]... [PID]...\n"
    "Print which processes belong together with those given, and why.\n"
    "\n"
    "  --pid P            a process; may be repeated, and P may be a list: 12,15\n"
    "  --cgroup G         all processes in control group G (/a/b) and below\n"
    "  --unit U           all processes of systemd unit U\n"
    "  --boundary SHAPE   closure (default): all that belongs together; tree: the processes and\n"
    "                     their descendants, what leads out of that being cut; talked: without\n"
    "                     those over whose common objects nothing was said\n"
    "  --count MS         for that, count so long what is said (1000)\n"
    "  --cut W            leave W out: an object (pipe:[812]), a witness, or a relation's name;\n"
    "                     may be repeated\n"
    "  --json             one JSON object instead of text\n"
    "  --max-processes N  refuse larger sets (1000)\n"
    "  --max-memory MIB   memory of a pass (64)\n"
    "  --max-time MS      time of all passes (10000)\n"
    "  --without R        don't look for relation R: the answer may be wrong (for tests)\n"
    "  --any-dumper       refuse nothing just because CRIU can't dump it (for tests)\n"
    "  --relations        list the relations and leave\n"
    "  --help             this text\n"
    "\n"
    "Exit status: 0 the set can be taken; 4 it is refused, with three lines: what, the witness, "
    "what\n"
    "to do; 1 failed; 2 wrong use.\n";

static int usage(const char *what, const char *value)
{
    fprintf(stderr, "stasis-boundary: %s%s; --help tells what there is\n", what, value);
    return 2;
}

static bool parse_number(const char *text, unsigned long max, unsigned long *ret)
{
    char *end;
    errno = 0;
    unsigned long n = strtoul(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || *text < '0' || *text > '9' || n == 0 ||
        n > max)
        return false;
    *ret = n;
    return true;
}

/* "12" or "12,15"; false: it is no such list, or too long. */
static bool add_pids(const char *text, pid_t *pids, size_t *n)
{
    char item[16];
    unsigned long pid;
    do {
        size_t len = strcspn(text, ",");
        if (len >= sizeof item || *n == MAX_LIST)
            return false;
        memcpy(item, text, len);
        item[len] = '\0';
        if (!parse_number(item, INT32_MAX, &pid))
            return false;
        pids[(*n)++] = (pid_t)pid;
        text += len;
    } while (*text++ == ',');
    return true;
}

static int write_out(void *data, const char *text, size_t len)
{
    return fwrite(text, 1, len, data) == len ? 0 : -1;
}

static void print_edges(const StasisBoundary *b, StasisEdgePlace place, StasisEdgeClass least,
                        const char *title)
{
    static const char *const classes[] = { "told", "cuttable", "hard", "opaque" };
    bool any = false;
    for (size_t i = 0; i < b->scan.edges.n; i++) {
        const StasisEdge *e = &b->scan.edges.items[i];
        if (b->place[i] != place || e->class < least)
            continue;
        if (!any)
            printf("%s\n", title);
        any = true;
        printf("  %-11s %-8s  %s", e->relation->name, classes[e->class], e->witness);
        if (e->counted)
            printf(" (talked %llu)", (unsigned long long)e->talked);
        putchar('\n');
    }
}

static void print_text(const StasisBoundary *b)
{
    if (b->members.n == 0)
        return;
    printf("%zu %s together, %u passes\n", b->members.n,
           b->members.n == 1 ? "process belongs" : "processes belong", b->n_passes);
    for (size_t i = 0; i < b->members.n; i++) {
        int32_t m = b->members.items[i];
        const StasisProcess *p = &b->scan.processes.items[m];
        const char *why = b->via[m] < 0 ? "asked for" : b->scan.edges.items[b->via[m]].witness;
        printf("  %7d  ", p->pid);
        for (const char *c = p->comm; *c != '\0'; c++)
            putchar((unsigned char)*c < 0x20 || *c == 0x7f ? '?' : *c);
        printf("%*s  %s\n", (int)(strlen(p->comm) < 15 ? 15 - strlen(p->comm) : 0), "", why);
    }
    print_edges(b, STASIS_EDGE_INSIDE, STASIS_EDGE_CUTTABLE, "what holds them together:");
    print_edges(b, STASIS_EDGE_CUT, STASIS_EDGE_CUTTABLE, "cut:");
    for (size_t i = 0; i < b->request.n_cuts; i++)
        if (b->cut_uses[i] == 0)
            printf("note: --cut '%s' names nothing here\n", b->request.cuts[i]);
}

static int print_result(const StasisBoundary *b, bool json)
{
    if (json && stasis_boundary_write_json(b, write_out, stdout) != 0)
        return 1;
    if (!json)
        print_text(b);
    if (fflush(stdout) != 0)
        return 1;
    if (b->verdict == STASIS_VERDICT_FAILED) {
        fprintf(stderr, "stasis-boundary: %s\n", b->error);
        return 1;
    }
    if (b->verdict == STASIS_VERDICT_OK)
        return 0;
    const StasisRefusal *r = &b->refusals.items[0];
    fprintf(stderr, "refused: %s\nwitness: %s\nto do: %s\n", r->what, r->witness, r->todo);
    return 4;
}

static void print_relations(void)
{
    for (size_t i = 0; stasis_scanners[i] != NULL; i++)
        printf("%-12s %s\n", stasis_scanners[i]->name, stasis_scanners[i]->summary);
}

enum {
    PID = 1,
    CGROUP,
    UNIT,
    BOUNDARY,
    CUT,
    JSON,
    PROCESSES,
    MEMORY,
    TIME,
    WITHOUT,
    ANY_DUMPER,
    COUNT,
    RELATIONS,
    HELP,
};

static const struct option options[] = {
    { "pid", required_argument, NULL, PID },
    { "cgroup", required_argument, NULL, CGROUP },
    { "unit", required_argument, NULL, UNIT },
    { "boundary", required_argument, NULL, BOUNDARY },
    { "cut", required_argument, NULL, CUT },
    { "json", no_argument, NULL, JSON },
    { "max-processes", required_argument, NULL, PROCESSES },
    { "max-memory", required_argument, NULL, MEMORY },
    { "max-time", required_argument, NULL, TIME },
    { "without", required_argument, NULL, WITHOUT },
    { "any-dumper", no_argument, NULL, ANY_DUMPER },
    { "count", required_argument, NULL, COUNT },
    { "relations", no_argument, NULL, RELATIONS },
    { "help", no_argument, NULL, HELP },
    { 0 },
};

typedef struct {
    StasisBoundaryRequest request;
    pid_t pids[MAX_LIST];
    const char *cuts[MAX_LIST];
    unsigned long count_ms;
    bool json;
} Arguments;

/* A limit's option; 0, or an exit status. */
static int take_limit(Arguments *a, int option, const char *value)
{
    unsigned long number;
    if (!parse_number(value, 1000000, &number))
        return usage("no number from 1 to 1000000: ", value);
    if (option == PROCESSES)
        a->request.max_processes = number;
    else if (option == COUNT)
        a->count_ms = number;
    else if (option == MEMORY)
        a->request.max_bytes = (size_t)number << 20;
    else
        a->request.max_ms = (unsigned)number;
    return 0;
}

/* An option; 0, or an exit status. */
static int take_option(Arguments *a, int option, const char *value)
{
    switch (option) {
    case PID:
        return add_pids(value, a->pids, &a->request.n_pids)
                   ? 0
                   : usage("no process ID, or too many: ", value);
    case CGROUP:
        a->request.cgroup = value;
        return 0;
    case UNIT:
        a->request.unit = value;
        return 0;
    case BOUNDARY:
        return stasis_shape_find(value, &a->request.shape)
                   ? 0
                   : usage("--boundary is closure, tree or talked, not ", value);
    case CUT:
        if (a->request.n_cuts == MAX_LIST)
            return usage("too many cuts: ", value);
        a->cuts[a->request.n_cuts++] = value;
        return 0;
    case JSON:
        a->json = true;
        return 0;
    case ANY_DUMPER:
        a->request.any_dumper = true;
        return 0;
    case WITHOUT:
        a->request.without = value;
        return 0;
    case PROCESSES:
    case MEMORY:
    case TIME:
    case COUNT:
        return take_limit(a, option, value);
    }
    return 2; /* getopt has said what is wrong */
}

/* Counts for a while, if asked for what was said. */
static void listen(Arguments *a, StasisTalk *talk, StasisCounts *counts, StasisCount **items)
{
    unsigned long ms = a->count_ms != 0 ? a->count_ms : 1000;
    if (a->request.shape != STASIS_SHAPE_TALKED)
        return;
    stasis_talk_start(talk);
    stasis_talk_open(talk, true);
    a->request.uncounted = talk->error;
    if (!talk->running)
        return;
    nanosleep(&(struct timespec){ (time_t)(ms / 1000), (long)(ms % 1000) * 1000000 }, NULL);
    talk->fresh = false;
    if (stasis_talk_read(talk, counts, items))
        a->request.counts = counts;
}

int main(int argc, char **argv)
{
    static Arguments a;
    static StasisTalk talk;
    StasisCounts counts;
    StasisCount *items = NULL;
    a.request = (StasisBoundaryRequest){ .pids = a.pids, .cuts = a.cuts, .ignore_self = true };
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == RELATIONS || c == HELP) {
            if (c == HELP)
                fputs(help, stdout);
            else
                print_relations();
            return 0;
        }
        int status = take_option(&a, c, optarg);
        if (status != 0)
            return status;
    }
    for (; optind < argc; optind++)
        if (!add_pids(argv[optind], a.pids, &a.request.n_pids))
            return usage("no process ID, or too many: ", argv[optind]);
    if (a.request.n_pids == 0 && a.request.cgroup == NULL && a.request.unit == NULL)
        return usage("no process asked for: --pid, --cgroup or --unit", "");
    listen(&a, &talk, &counts, &items);
    StasisBoundary boundary;
    stasis_boundary_find(&boundary, &a.request);
    int status = print_result(&boundary, a.json);
    stasis_boundary_clear(&boundary);
    stasis_talk_stop(&talk);
    free(items);
    return status;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Processes out of a running VM: what stands against it is asked in the VM itself, then a
 * fork of the VM is made, in which the processes are frozen before they run a step further and CRIU
 * takes its time. A direct one leaves out the fork.
 */
#include "engine/processes/proc-checkpoint.h"

#include <stasis/error.h>
#include <stasis/seal.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/options.h"
#include "engine/fork/fork-sweep.h"
#include "engine/fork/fork.h"
#include "engine/guest/agent-vm.h"
#include "engine/guest/guest-ready.h"
#include "engine/guest/process.h"
#include "engine/processes/proc-boundary.h"
#include "engine/processes/proc-receive.h"
#include "engine/processes/proc-talk.h"
#include "store/scratch.h"

#define MAX_CHECK_MS 60000u
#define MAX_FREEZE_MS 60000u
#define MAX_TIMEOUT_MS 600000u
#define MAX_ROOTS 256u /* that many PIDs can be asked for */
#define GHOST_BYTES ((guint64)1 << 30)
/* Heads of parts and of files, over the bytes themselves: a guest may send them in small pieces. */
#define OVERHEAD(n) ((n) / 4 + ((gsize)64 << 20))

typedef struct {
    StasisVm *vm;
    StasisStore *store; /* NULL: nothing is to be taken */
    const StasisProcessCheckpointOptions *options;
    StasisGuestBoundary *boundary; /* as found in the VM, and then in the fork */
    GArray *roots;                 /* guint: of each tree */
    char *talk;                    /* token of the guest's counters, or NULL */
    gboolean counting;             /* … by which the set was found */
    gboolean is_ready;             /* programs of the guest are told by others */
    StasisAgent *ready;            /* they were told in this conversation; or NULL */
    StasisFork *fork;
    StasisProcImageWriter *writer;
    StasisProcessImageInfo *info;
    GCancellable *cancellable;
    guint64 began_us, forking_us;
} Job;

static void job_clear(Job *job)
{
    g_clear_pointer(&job->ready, stasis_agent_free);
    g_clear_pointer(&job->fork, stasis_fork_free);
    g_clear_pointer(&job->boundary, stasis_guest_boundary_free);
    g_clear_pointer(&job->roots, g_array_unref);
    g_clear_pointer(&job->writer, stasis_proc_image_writer_free);
    g_clear_pointer(&job->info, stasis_process_image_info_free);
    g_clear_pointer(&job->talk, g_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Job, job_clear)

/* For one step in the guest: what was asked for, or what it may take at most. */
static guint timeout_of(const Job *job, guint max_ms)
{
    return job->options->timeout_ms != 0 ? MIN(job->options->timeout_ms, max_ms) : max_ms;
}

static StasisAgentWait wait_for(const Job *job, guint ms)
{
    return (StasisAgentWait){ stasis_now_us() + (guint64)ms * 1000, job->cancellable };
}

/* ---- before the fork ---- */

/* In the VM: is CRIU there, and good for this kernel? What processes said is marked by the way. */
static gboolean check_guest(Job *job, GError **error)
{
    StasisAgentWait wait = wait_for(job, timeout_of(job, MAX_CHECK_MS));
    g_autoptr(StasisAgent) agent = stasis_agent_open_vm(stasis_vm_get_name(job->vm), &wait, error);
    g_autoptr(GBytes) criu =
        agent != NULL ? stasis_agent_call(agent, STASIS_AGENT_OP_PROC_CHECK, NULL, &wait, error)
                      : NULL;
    g_autoptr(GBytes) about =
        criu != NULL ? stasis_agent_call(agent, STASIS_AGENT_OP_INFO, NULL, &wait, error) : NULL;
    if (about == NULL)
        return FALSE;
    job->talk = stasis_talk_mark(agent, &wait);
    job->info->criu = stasis_agent_text(criu, STASIS_AGENT_TAG_CRIU, 64);
    job->info->kernel = stasis_agent_text(about, STASIS_AGENT_TAG_KERNEL, 256);
    return TRUE;
}

static gboolean is_member(const StasisGuestBoundary *b, guint pid)
{
    for (guint i = 0; i < b->n_members; i++)
        if (b->processes[i].pid == pid)
            return TRUE;
    return FALSE;
}

/* Members whose parent is none, in the boundary's order; of several trees the agent makes one. */
static GArray *find_roots(const StasisGuestBoundary *b, GError **error)
{
    g_autoptr(GArray) roots = g_array_new(FALSE, FALSE, sizeof(guint));
    for (guint i = 0; i < b->n_members; i++)
        if (!is_member(b, b->processes[i].ppid))
            g_array_append_val(roots, b->processes[i].pid);
    if (roots->len > 0 && roots->len <= MAX_ROOTS)
        return g_steal_pointer(&roots);
    if (roots->len == 0)
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                            "agent: processes that are each other's parents");
    else
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_REFUSED,
                    "refused: the %u processes that belong together are %u trees, %u can be\n"
                    "witness: pid %u (%s) is the first process of one\n"
                    "to do: leave out what holds them together: --cut",
                    b->n_members, roots->len, MAX_ROOTS, b->processes[0].pid, b->processes[0].comm);
    return NULL;
}

static const StasisGuestProcess *find_process(const StasisGuestBoundary *b, guint pid)
{
    guint i = 0;
    while (i < b->n_members - 1 && b->processes[i].pid != pid)
        i++;
    return &b->processes[i];
}

/* The VM goes on meanwhile: no parent can be made up, and no packet kept away. */
static gboolean check_direct(const Job *job, GError **error)
{
    static const char todo[] = "to do: leave out --direct, so that CRIU works in a fork of the VM";
    const StasisGuestBoundary *b = job->boundary;
    if (job->roots->len > 1) {
        const StasisGuestProcess *one = find_process(b, g_array_index(job->roots, guint, 0));
        const StasisGuestProcess *other = find_process(b, g_array_index(job->roots, guint, 1));
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_REFUSED,
                    "refused: the %u processes that belong together are %u trees, and --direct "
                    "takes one\n"
                    "witness: pid %u (%s) and pid %u (%s) both have a parent outside%s%s\n%s",
                    b->n_members, job->roots->len, one->pid, one->comm, other->pid, other->comm,
                    other->via >= 0 ? "; " : "",
                    other->via >= 0 ? b->edges[other->via].witness : "", todo);
        return FALSE;
    }
    for (guint i = 0; i < b->n_edges; i++) {
        if (strcmp(b->edges[i].relation, "tcp") != 0 || b->edges[i].place == STASIS_GUEST_NEAR)
            continue;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_REFUSED,
                    "refused: a TCP connection, which --direct can't take\nwitness: %s\n%s",
                    b->edges[i].witness, todo);
        return FALSE;
    }
    return TRUE;
}

/* What is asked for; whoever can wait for an image can wait for that, in a guest that is busy. */
static StasisBoundaryOptions asked_for(const Job *job)
{
    StasisBoundaryOptions options = STASIS_BOUNDARY_OPTIONS_INIT;
    stasis_own_options(&options, job->options->boundary, sizeof options);
    if (options.timeout_ms == 0)
        options.timeout_ms = timeout_of(job, MAX_CHECK_MS);
    return options;
}

static gboolean check_boundary(Job *job, GError **error)
{
    StasisBoundaryOptions options = asked_for(job);
    job->boundary = stasis_vm_find_boundary_to(job->vm, &options, job->options->direct,
                                               job->cancellable, error);
    if (job->boundary == NULL || !stasis_guest_boundary_check(job->boundary, error))
        return FALSE;
    job->roots = find_roots(job->boundary, error);
    job->counting = job->boundary->counted_for_us > 0;
    return job->roots != NULL && (!job->options->direct || check_direct(job, error));
}

StasisGuestBoundary *stasis_process_checkpoint_plan(StasisVm *vm,
                                                    const StasisProcessCheckpointOptions *given,
                                                    GCancellable *cancellable, GError **error)
{
    StasisProcessCheckpointOptions own = STASIS_PROCESS_CHECKPOINT_OPTIONS_INIT;
    const StasisProcessCheckpointOptions *options = stasis_own_options(&own, given, sizeof own);
    g_auto(Job) job = { .vm = vm,
                        .options = options,
                        .cancellable = cancellable,
                        .info = g_new0(StasisProcessImageInfo, 1) };
    return check_boundary(&job, error) && check_guest(&job, error) ? g_steal_pointer(&job.boundary)
                                                                   : NULL;
}

/* Those of the set that want to know of it. */
static gboolean tell_before(Job *job, StasisAgent *agent, GError **error)
{
    StasisAgentWait wait = wait_for(job, STASIS_READY_MS);
    g_autofree guint *pids = g_new(guint, job->boundary->n_members);
    for (guint i = 0; i < job->boundary->n_members; i++)
        pids[i] = job->boundary->processes[i].pid;
    return job->is_ready ||
           stasis_guest_ready_begin(agent, pids, job->boundary->n_members, &wait, error);
}

static void tell_after(gpointer data)
{
    Job *job = data;
    if (job->ready != NULL)
        stasis_guest_ready_end(job->ready, TRUE);
    g_clear_pointer(&job->ready, stasis_agent_free);
}

static gboolean get_ready(Job *job, GError **error)
{
    if (job->is_ready)
        return TRUE;
    StasisAgentWait wait = wait_for(job, timeout_of(job, MAX_CHECK_MS));
    job->ready = stasis_agent_open_vm(stasis_vm_get_name(job->vm), &wait, error);
    return job->ready != NULL && tell_before(job, job->ready, error);
}

/* ---- in the fork ---- */

static gboolean make_fork(Job *job, GError **error)
{
    g_autofree char *memory = NULL;
    /* The VM's image is in the clear: of a store whose images are not, it may be in memory only. */
    if (job->options->scratch == NULL && stasis_store_scratch_is_memory(job->store)) {
        memory = stasis_store_scratch_path(job->store, STASIS_FORKS_DIR, error);
        if (memory == NULL)
            return FALSE;
    }
    StasisForkOptions options = { .scratch = memory != NULL ? memory : job->options->scratch,
                                  .progress = job->options->progress,
                                  .progress_data = job->options->progress_data,
                                  .taken = tell_after,
                                  .taken_data = job };
    job->forking_us = stasis_now_us();
    job->fork = stasis_fork_new(job->vm, &options, job->cancellable, error);
    if (job->fork == NULL)
        return FALSE;
    const StasisImageInfo *image = stasis_fork_get_image(job->fork);
    job->info->vm = g_strdup(image->vm);
    job->info->created_us = image->created_us;
    job->info->cost.pause_us = image->cost.pause_us;
    job->info->cost.image_us = image->cost.total_us;
    return TRUE;
}

/* The processes may have become others since they were looked at; now nothing changes any more. */
static gboolean look_again(Job *job, guint64 n_frozen, GError **error)
{
    StasisBoundaryOptions options = asked_for(job);
    options.pids = (const guint *)(gconstpointer)job->roots->data;
    options.n_pids = job->roots->len;
    options.unit = options.cgroup = NULL;
    /* Counting began when it was looked at in the VM: that was the closure. */
    if (options.shape == STASIS_BOUNDARY_TALKED && !job->counting)
        options.shape = STASIS_BOUNDARY_CLOSURE;
    g_clear_pointer(&job->boundary, stasis_guest_boundary_free);
    job->boundary =
        stasis_agent_find_boundary(stasis_fork_get_agent(job->fork), stasis_vm_get_name(job->vm),
                                   &options, FALSE, job->cancellable, error);
    if (job->boundary == NULL || !stasis_guest_boundary_check(job->boundary, error))
        return FALSE;
    g_autoptr(GArray) roots = find_roots(job->boundary, error);
    if (roots == NULL)
        return FALSE;
    /* Those that were asked for come first, so the order is the same. */
    if (roots->len == job->roots->len && job->boundary->n_members == n_frozen &&
        memcmp(roots->data, job->roots->data, roots->len * sizeof(guint)) == 0)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "VM %s: the processes changed while they were looked at: %u belong together, "
                "%" G_GUINT64_FORMAT " were frozen; try again",
                stasis_vm_get_name(job->vm), job->boundary->n_members, n_frozen);
    return FALSE;
}

static void put_roots(const Job *job, StasisFieldWriter *fields)
{
    for (guint i = 0; i < job->roots->len; i++)
        stasis_field_put_number(fields, STASIS_AGENT_TAG_PID, g_array_index(job->roots, guint, i));
}

static gboolean freeze(Job *job, GError **error)
{
    StasisAgentWait wait = wait_for(job, timeout_of(job, MAX_FREEZE_MS));
    g_autofree guint8 *room = g_malloc(STASIS_AGENT_MAX_PAYLOAD);
    StasisFieldWriter fields = { .payload = room, .room = STASIS_AGENT_MAX_PAYLOAD };
    /* Roots first: what they have started meanwhile is found by them. */
    put_roots(job, &fields);
    for (guint i = 0; i < job->boundary->n_members; i++)
        stasis_field_put_number(&fields, STASIS_AGENT_TAG_PID, job->boundary->processes[i].pid);
    g_autoptr(GBytes) frozen =
        stasis_fork_run(job->fork, STASIS_AGENT_OP_PROC_FREEZE, &fields, &wait, error);
    if (frozen == NULL)
        return FALSE;
    job->info->cost.fork_us = stasis_now_us() - job->forking_us - job->info->cost.image_us;
    return look_again(job, stasis_agent_number(frozen, STASIS_AGENT_TAG_N_FROZEN, 0), error) &&
           stasis_fault(STASIS_FAULT_PROC_FROZEN, error);
}

/* Of several trees it is their parent, whom the guest made. */
static gboolean check_root(const Job *job, GError **error)
{
    const StasisImageProcess *root = g_ptr_array_index(job->info->processes, 0);
    if (job->roots->len > 1 || root->pid == g_array_index(job->roots, guint, 0))
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                "agent: it says that it has dumped pid %u, and was asked for pid %u", root->pid,
                g_array_index(job->roots, guint, 0));
    return FALSE;
}

/* What only its place came of, out of @memory. */
static gboolean fetch(Job *job, StasisAgent *agent, const StasisGuestMemory *memory,
                      StasisProcReceiver *receiver, GBytes *last, const StasisAgentWait *wait,
                      GError **error)
{
    guint64 done;
    const GPtrArray *placed = stasis_proc_receiver_get_placed(receiver, &done);
    if (placed->len == 0)
        return TRUE;
    if (memory == NULL) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                            "agent: it tells where the image is, and was not asked to");
        return FALSE;
    }
    g_autofree char *dir = stasis_agent_text(last, STASIS_AGENT_TAG_DIRECTORY, 256);
    StasisProcFetch from = {
        memory, agent, dir, wait, job->options->progress, job->options->progress_data
    };
    return stasis_proc_fetch(&from, placed, done, job->writer, error);
}

/* The last part of the answer. With @memory, which may be NULL, the files come out of that. */
static GBytes *dump(Job *job, StasisAgent *agent, StasisAgentOp op, guint64 ram_bytes,
                    const StasisGuestMemory *memory, GError **error)
{
    const StasisProcessCheckpointOptions *options = job->options;
    /* Memory of the guest, and files that have no name any more. */
    guint64 most = ram_bytes + GHOST_BYTES;
    guint64 max_bytes = options->max_bytes != 0 ? options->max_bytes : most, id;
    guint timeout_ms = timeout_of(job, MAX_TIMEOUT_MS);
    guint64 from_us = stasis_now_us();
    StasisAgentWait wait = wait_for(job, timeout_ms);
    guint8 room[MAX_ROOTS * 16 + 128];
    StasisFieldWriter fields = { .payload = room, .room = sizeof room };
    put_roots(job, &fields);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_LIMIT, max_bytes);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_TIMEOUT, timeout_ms);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_IN_MEMORY, memory != NULL);
    g_autoptr(StasisProcReceiver) receiver =
        stasis_proc_receiver_new(job->writer, max_bytes, options->progress, options->progress_data);
    if (!stasis_agent_begin(agent, op, &fields, &id, &wait, error))
        return NULL;
    g_autoptr(GBytes) last = stasis_agent_finish(agent, id, stasis_proc_receiver_take, receiver,
                                                 max_bytes + OVERHEAD(max_bytes), &wait, error);
    if (last == NULL || !fetch(job, agent, memory, receiver, last, &wait, error) ||
        !stasis_proc_receiver_finish(receiver, last, job->info, error) || !check_root(job, error))
        return NULL;
    job->info->n_trees = job->roots->len;
    job->info->cost.dump_us = stasis_now_us() - from_us;
    return g_steal_pointer(&last);
}

/* Memory that can't be read is no reason to fail: the files can come over the channel. */
static gboolean dump_fork(Job *job, GError **error)
{
    g_autoptr(StasisGuestMemory) memory = stasis_fork_open_memory(job->fork, NULL);
    g_autoptr(GBytes) last = dump(job, stasis_fork_get_agent(job->fork), STASIS_AGENT_OP_PROC_DUMP,
                                  stasis_fork_get_image(job->fork)->ram_bytes, memory, error);
    return last != NULL;
}

/* ---- without one ---- */

/* The set that was dumped is the one that was found to belong together, before and after. */
static gboolean check_set(Job *job, GError **error)
{
    const GPtrArray *dumped = job->info->processes;
    gboolean same = dumped->len == job->boundary->n_members;
    for (guint i = 0; same && i < dumped->len; i++)
        same = is_member(job->boundary, ((StasisImageProcess *)g_ptr_array_index(dumped, i))->pid);
    if (same)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "VM %s: the processes changed while they were looked at: %u belong together, %u "
                "were dumped; try again",
                job->info->vm, job->boundary->n_members, dumped->len);
    return FALSE;
}

static gboolean dump_direct(Job *job, GError **error)
{
    const char *name = stasis_vm_get_name(job->vm);
    g_autoptr(StasisVmInfo) vm = stasis_vm_get_info(job->vm, error);
    if (vm == NULL)
        return FALSE;
    StasisAgentWait wait = wait_for(job, timeout_of(job, MAX_CHECK_MS));
    g_autoptr(StasisAgent) agent = stasis_agent_open_vm(name, &wait, error);
    if (agent == NULL || !stasis_agent_check_operation(agent, name, "proc-dump-direct", error))
        return FALSE;
    job->info->vm = g_strdup(name);
    if (!tell_before(job, agent, error))
        return FALSE;
    job->info->created_us = g_get_real_time();
    g_autoptr(GBytes) last =
        dump(job, agent, STASIS_AGENT_OP_PROC_DUMP_DIRECT, vm->ram_bytes, NULL, error);
    stasis_guest_ready_end(agent, last != NULL);
    if (last == NULL || !check_set(job, error))
        return FALSE;
    job->info->cost.pause_us = stasis_agent_number(last, STASIS_AGENT_TAG_FROZEN_FOR, 0) / 1000;
    g_clear_pointer(&job->boundary, stasis_guest_boundary_free);
    StasisBoundaryOptions options = asked_for(job);
    job->boundary =
        stasis_agent_find_boundary(agent, name, &options, TRUE, job->cancellable, error);
    return job->boundary != NULL && stasis_guest_boundary_check(job->boundary, error) &&
           check_set(job, error);
}

static gboolean is_of_these(const Job *job, const StasisProcessImageInfo *info)
{
    const StasisGuestBoundary *b = job->boundary;
    for (guint i = 0; i < info->processes->len; i++) {
        const StasisImageProcess *process = g_ptr_array_index(info->processes, i);
        for (guint k = 0; k < b->n_members; k++)
            if (b->processes[k].pid == process->pid &&
                strcmp(b->processes[k].comm, process->name) == 0)
                return strcmp(info->vm, stasis_vm_get_name(job->vm)) == 0;
    }
    return FALSE;
}

/* Pages are compared by their content, so any image would be a sound parent; that is a likely one.
 */
static gboolean share_pages(Job *job, StasisStore *store, GError **error)
{
    g_autoptr(GPtrArray) images =
        job->options->incremental ? stasis_store_list_processes(store, error) : NULL;
    if (images == NULL)
        return !job->options->incremental;
    StasisKeyIds keys = stasis_store_get_keys(store);
    const char *key = keys.encrypt[0] != '\0' ? keys.encrypt : NULL;
    for (guint i = images->len; i-- > 0;) {
        const StasisProcessImageInfo *info = g_ptr_array_index(images, i);
        /* Another key begins with an image that shares nothing. */
        if (g_strcmp0(info->encrypted_with, key) != 0 || !is_of_these(job, info))
            continue;
        /* Damaged, or gone meanwhile: then it shares nothing, and is whole; the next one has it to
         * share with. */
        stasis_proc_image_writer_set_parent(job->writer, info->id, NULL);
        return TRUE;
    }
    return TRUE;
}

/* For people: who is in the image, and why. */
static gboolean keep_boundary(Job *job, GError **error)
{
    g_autoptr(GBytes) text = stasis_proc_boundary_to_json(job->boundary);
    return stasis_proc_image_writer_add_part(job->writer, "boundary.json", text, error);
}

static StasisProcessImageInfo *take(StasisVm *vm, StasisStore *store,
                                    const StasisProcessCheckpointOptions *options,
                                    gboolean is_ready, GCancellable *cancellable, GError **error)
{
    g_auto(Job) job = { .vm = vm,
                        .store = store,
                        .options = options,
                        .is_ready = is_ready,
                        .cancellable = cancellable,
                        .info = g_new0(StasisProcessImageInfo, 1),
                        .began_us = stasis_now_us() };
    job.info->note = g_strdup(options->note);
    job.info->by_policy = options->by_policy;
    if (!check_boundary(&job, error) || !check_guest(&job, error))
        return NULL;
    job.writer = stasis_proc_image_writer_new(store, error);
    job.info->direct = options->direct;
    gboolean dumped = job.writer != NULL && share_pages(&job, store, error) &&
                      (options->direct ? dump_direct(&job, error)
                                       : get_ready(&job, error) && make_fork(&job, error) &&
                                             freeze(&job, error) && dump_fork(&job, error));
    if (!dumped || !keep_boundary(&job, error))
        return NULL;
    /* The store may keep us waiting. */
    g_clear_pointer(&job.fork, stasis_fork_free);
    job.info->cost.total_us = stasis_now_us() - job.began_us;
    StasisProcessImageInfo *info =
        stasis_proc_image_writer_commit(job.writer, job.info, cancellable, error);
    if (info != NULL && job.talk != NULL)
        stasis_talk_keep(stasis_vm_get_name(vm), job.talk, job.boundary, cancellable);
    return info;
}

StasisProcessImageInfo *stasis_process_checkpoint(StasisVm *vm, StasisStore *store,
                                                  const StasisProcessCheckpointOptions *given,
                                                  GCancellable *cancellable, GError **error)
{
    StasisProcessCheckpointOptions own = STASIS_PROCESS_CHECKPOINT_OPTIONS_INIT;
    const StasisProcessCheckpointOptions *options = stasis_own_options(&own, given, sizeof own);
    return take(vm, store, options, FALSE, cancellable, error);
}

StasisProcessImageInfo *
stasis_process_checkpoint_of_ready(StasisVm *vm, StasisStore *store,
                                   const StasisProcessCheckpointOptions *options,
                                   GCancellable *cancellable, GError **error)
{
    return take(vm, store, options, TRUE, cancellable, error);
}

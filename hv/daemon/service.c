/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A policy is due when its period has gone by since the last run that went well was due. What is
 * kept on disk says so only once a run has gone well: a daemon that dies with a run in its hands
 * leaves the policy due, unless the run's process is still at work, and then it is taken up.
 */
#include "daemon/service.h"

#include <errno.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

#include <glib-unix.h>

#include "base/fd.h"
#include "base/io.h"
#include "base/json.h"
#include "daemon/policy-state.h"

#define MAX_BACKOFF_S 60u

typedef struct {
    StasisPolicy *policy;
    StasisdPolicyState state;
    StasisdMoment pending; /* for when the run under way counts; boot_id "": not known */
    gint64 retry_us;       /* CLOCK_BOOTTIME, 0: none */
    guint n_on_end;        /* failures on end */
    guint n_told;          /* periods missed since the last run that went well, as told so far */
    char *text;            /* the policy as it is in its file */
} Entry;

struct _StasisdService {
    char *state_dir;
    int lock_fd, state_fd, timer_fd;
    guint timer_source, reload_source;
    GFileMonitor *monitor;
    GHashTable *entries; /* VM's name → Entry */
    StasisdJobs *jobs;
    StasisdMoment now;
    StasisdEventFunc func;
    gpointer func_data;
};

static void entry_free(gpointer data)
{
    Entry *entry = data;
    stasis_policy_free(entry->policy);
    stasisd_policy_state_clear(&entry->state);
    g_free(entry->text);
    g_free(entry);
}

/* ---- events ---- */

static void tell(StasisdService *service, guint owner, const char *what, const char *vm,
                 JsonObject *more)
{
    json_object_set_string_member(more, "event", what);
    json_object_set_int_member(more, "at_us", g_get_real_time());
    stasis_json_set_string(more, "vm", vm);
    if (service->func != NULL)
        service->func(owner, more, service->func_data);
    json_object_unref(more);
}

static void tell_job(StasisdService *service, const StasisdJob *job)
{
    JsonObject *more = json_object_new();
    stasis_json_set_uint(more, "job", job->id);
    stasis_json_set_string(more, "kind", job->kind);
    stasis_json_set_string(more, "state", stasisd_job_state_name(job->state));
    if (job->error != NULL)
        stasis_json_set_string(more, "error", job->error);
    tell(service, job->owner, "job", job->vm, more);
}

/* ---- runs ---- */

/* The job that carries @vm's policy out now, or NULL. */
static StasisdJob *find_run(StasisdService *service, const char *vm)
{
    const GPtrArray *jobs = stasisd_jobs_all(service->jobs);
    for (guint i = jobs->len; i > 0; i--) {
        StasisdJob *job = jobs->pdata[i - 1];
        if (!stasisd_job_is_over(job) && strcmp(job->vm, vm) == 0 &&
            (strcmp(job->kind, "policy") == 0 || strcmp(job->kind, "guard") == 0))
            return job;
    }
    return NULL;
}

static char **guard_words(StasisdService *service, const StasisPolicy *policy)
{
    g_autoptr(GStrvBuilder) words = g_strv_builder_new();
    g_autofree char *bundles = g_build_filename(service->state_dir, "bundles", NULL);
    const char *how = policy->guard_do != NULL ? policy->guard_do : "capture";
    g_strv_builder_add_many(words, "guard", policy->vm, "--on", policy->guard, "--do", how,
                            "--output", bundles, "--json", "--progress", "json", NULL);
    if (policy->connect != NULL)
        g_strv_builder_add_many(words, "--connect", policy->connect, NULL);
    if (policy->store != NULL)
        g_strv_builder_add_many(words, "--store", policy->store, NULL);
    return g_strv_builder_end(words);
}

static StasisdJob *add_run(StasisdService *service, Entry *entry)
{
    const StasisPolicy *policy = entry->policy;
    const char *const once[] = { "policy-run", policy->vm, "--json", "--progress", "json", NULL };
    entry->retry_us = 0;
    if (policy->guard == NULL)
        return stasisd_jobs_add(service->jobs, "policy", policy->vm, policy->owner, once, -1);
    g_auto(GStrv) words = guard_words(service, policy);
    return stasisd_jobs_add(service->jobs, "guard", policy->vm, policy->owner,
                            (const char *const *)words, -1);
}

static gint64 due_of(const StasisdService *service, const Entry *entry)
{
    if (entry->retry_us > 0)
        return entry->retry_us;
    if (entry->policy->guard != NULL)
        return service->now.boot_us;
    return stasisd_schedule_next(&entry->state.last, entry->policy->every_us, &service->now);
}

static void begin(StasisdService *service, Entry *entry)
{
    guint missed = 0;
    const StasisPolicy *policy = entry->policy;
    if (policy->guard == NULL) {
        gint64 due = stasisd_schedule_next(&entry->state.last, policy->every_us, &service->now);
        entry->pending = stasisd_schedule_begin(due, policy->every_us, &service->now, &missed);
    }
    /* Each once, however often it is tried. */
    if (missed > entry->n_told) {
        JsonObject *more = json_object_new();
        stasis_json_set_uint(more, "periods", missed - entry->n_told);
        entry->state.n_missed += missed - entry->n_told;
        entry->n_told = missed;
        tell(service, policy->owner, "missed", policy->vm, more);
    }
    add_run(service, entry);
}

static void arm(StasisdService *service, gint64 at_us)
{
    /* An absolute time of 0 would disarm it. */
    at_us = MAX(at_us, 1);
    struct itimerspec spec = { .it_value = { .tv_sec = at_us / G_TIME_SPAN_SECOND,
                                             .tv_nsec = at_us % G_TIME_SPAN_SECOND * 1000 } };
    if (at_us == G_MAXINT64)
        spec = (struct itimerspec){ 0 };
    if (timerfd_settime(service->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL) < 0)
        g_warning("timerfd_settime: %s", g_strerror(errno));
}

typedef struct {
    gint64 due_us;
    Entry *entry;
} Due;

static gint compare_due(gconstpointer a, gconstpointer b)
{
    gint64 x = ((const Due *)a)->due_us, y = ((const Due *)b)->due_us;
    return x < y ? -1 : x > y;
}

/* Begin what is due, whatever has waited for longest first, and wake up for what is due next. */
static void look(StasisdService *service)
{
    g_autoptr(GArray) all = g_array_new(FALSE, FALSE, sizeof(Due));
    GHashTableIter iter;
    gpointer vm, value;
    stasisd_moment_now(&service->now);
    g_hash_table_iter_init(&iter, service->entries);
    while (g_hash_table_iter_next(&iter, &vm, &value)) {
        Due due = { due_of(service, value), value };
        if (find_run(service, vm) == NULL)
            g_array_append_val(all, due);
    }
    g_array_sort(all, compare_due);
    gint64 next = G_MAXINT64;
    for (guint i = 0; i < all->len && next == G_MAXINT64; i++) {
        const Due *due = &g_array_index(all, Due, i);
        if (due->due_us <= service->now.boot_us)
            begin(service, due->entry);
        else
            next = due->due_us;
    }
    arm(service, next);
}

static gboolean on_timer(int fd, GIOCondition condition, gpointer data)
{
    guint64 n;
    if (read(fd, &n, sizeof(n)) == sizeof(n))
        look(data);
    return G_SOURCE_CONTINUE;
}

/* ---- how runs went ---- */

static void save_state(StasisdService *service, Entry *entry)
{
    g_autoptr(GError) error = NULL;
    if (!stasisd_policy_state_save(&entry->state, service->state_fd, entry->policy->vm, &error))
        g_warning("state of the policy of VM \"%s\": %s", entry->policy->vm, error->message);
}

/* Of a run that a daemon before us began it is not known for when it counts: for its beginning. */
static StasisdMoment counted(StasisdService *service, const Entry *entry, const StasisdJob *job)
{
    if (entry->pending.boot_id[0] != '\0')
        return entry->pending;
    StasisdMoment moment = service->now;
    gint64 ago = CLAMP(service->now.wall_us - job->started_us, 0, service->now.boot_us);
    moment.boot_us -= ago;
    moment.wall_us -= ago;
    return moment;
}

static void note_image(Entry *entry, const StasisdJob *job)
{
    g_autoptr(JsonObject) result =
        job->result != NULL ? stasis_json_parse_object(job->result, -1, NULL) : NULL;
    const char *id = result != NULL ? stasis_json_string_or(result, "id", NULL) : NULL;
    if (id == NULL)
        return;
    g_free(entry->state.last_image);
    entry->state.last_image = g_strdup(id);
}

static void run_went(StasisdService *service, Entry *entry, const StasisdJob *job)
{
    gboolean guard = entry->policy->guard != NULL, well = job->state == STASISD_DONE;
    /* Of a VM that does not run nothing is missing; it is looked for again when the next is due. */
    gboolean absent = g_strcmp0(job->error_name, "not-found") == 0;
    stasisd_moment_now(&service->now);
    entry->state.n_runs++;
    g_clear_pointer(&entry->state.last_error, g_free);
    if (well || absent) {
        entry->state.last = counted(service, entry, job);
        entry->n_told = 0;
    }
    entry->pending.boot_id[0] = '\0';
    if (well) {
        entry->state.last_success_us = job->ended_us;
        note_image(entry, job);
    } else {
        entry->state.n_failures++;
        entry->state.last_error = g_strdup(job->error != NULL ? job->error : "aborted");
    }
    entry->n_on_end = well ? 0 : entry->n_on_end + 1;
    if (guard)
        entry->retry_us =
            service->now.boot_us +
            (gint64)MIN(MAX_BACKOFF_S, 1u << MIN(entry->n_on_end, 6u)) * G_TIME_SPAN_SECOND;
    else if (!well && !absent)
        entry->retry_us =
            service->now.boot_us + (gint64)stasisd_schedule_retry_us(entry->policy->every_us);
    save_state(service, entry);
}

static void on_job(StasisdJob *job, gpointer data)
{
    StasisdService *service = data;
    Entry *entry = g_hash_table_lookup(service->entries, job->vm);
    tell_job(service, job);
    if (!stasisd_job_is_over(job))
        return;
    if (entry != NULL && strcmp(job->kind, entry->policy->guard != NULL ? "guard" : "policy") == 0)
        run_went(service, entry, job);
    look(service);
}

/* A guard's events. */
static void on_told(StasisdJob *job, JsonObject *line, gpointer data)
{
    const char *what = stasis_json_string_or(line, "event", "");
    /* An image every half a second is nobody's news. */
    if (*what == '\0' || strcmp(what, "image") == 0)
        return;
    JsonObject *more = json_object_new();
    static const char *const texts[] = { "bundle", "id" };
    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        const char *text = stasis_json_string_or(line, texts[i], NULL);
        if (text != NULL)
            stasis_json_set_string(more, texts[i], text);
    }
    stasis_json_set_uint(more, "job", job->id);
    g_autofree char *name = g_strconcat("guard-", what, NULL);
    tell(data, job->owner, name, job->vm, more);
}

/* ---- policies ---- */

/* A guard whose policy is no more, or is another. */
static void end_guard(StasisdService *service, const char *vm)
{
    StasisdJob *job = find_run(service, vm);
    if (job != NULL && strcmp(job->kind, "guard") == 0)
        stasisd_jobs_abort(service->jobs, job);
}

static void take(StasisdService *service, StasisPolicy *policy)
{
    g_autofree char *text = stasis_policy_to_text(policy);
    Entry *entry = g_hash_table_lookup(service->entries, policy->vm);
    if (entry != NULL && strcmp(entry->text, text) == 0) {
        stasis_policy_free(policy);
        return;
    }
    Entry *taken = g_new0(Entry, 1);
    stasisd_policy_state_load(&taken->state, service->state_fd, policy->vm);
    taken->policy = policy;
    taken->text = g_steal_pointer(&text);
    if (entry != NULL)
        end_guard(service, policy->vm);
    g_hash_table_replace(service->entries, g_strdup(policy->vm), taken);
}

static void drop_absent(StasisdService *service, const GPtrArray *there)
{
    GHashTableIter iter;
    gpointer vm;
    g_hash_table_iter_init(&iter, service->entries);
    while (g_hash_table_iter_next(&iter, &vm, NULL)) {
        gboolean found = FALSE;
        for (guint i = 0; i < there->len && !found; i++)
            found = strcmp(((const StasisPolicy *)there->pdata[i])->vm, vm) == 0;
        if (found)
            continue;
        end_guard(service, vm);
        stasisd_policy_state_remove(service->state_fd, vm);
        g_hash_table_iter_remove(&iter);
    }
}

void stasisd_service_reload(StasisdService *service)
{
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) bad = NULL;
    g_autoptr(GPtrArray) policies = stasis_policy_list(&bad, &error);
    if (policies == NULL) {
        g_warning("policies: %s", error->message);
        return;
    }
    for (char **name = bad; *name != NULL; name++)
        g_warning("policies/%s can't be read: it is not carried out", *name);
    /* One that can't be read at present may be the same again: nothing is forgotten. */
    if (bad[0] == NULL)
        drop_absent(service, policies);
    g_ptr_array_set_free_func(policies, NULL);
    for (guint i = 0; i < policies->len; i++)
        take(service, policies->pdata[i]);
    look(service);
}

static gboolean on_reload(gpointer data)
{
    StasisdService *service = data;
    service->reload_source = 0;
    stasisd_service_reload(service);
    return G_SOURCE_REMOVE;
}

static void on_files_changed(GFileMonitor *monitor, GFile *file, GFile *other,
                             GFileMonitorEvent event, gpointer data)
{
    StasisdService *service = data;
    if (service->reload_source == 0)
        service->reload_source = g_idle_add(on_reload, service);
}

/* ---- the service ---- */

static int open_below(const char *state_dir, const char *name, GError **error)
{
    g_autofree char *path = g_build_filename(state_dir, name, NULL);
    if (mkdir(path, 0700) < 0 && errno != EEXIST) {
        stasis_set_errno(error, errno, "make %s", path);
        return -1;
    }
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        stasis_set_errno(error, errno, "open %s", path);
    return fd;
}

static int lock(const char *state_dir, GError **error)
{
    g_autofree char *path = g_build_filename(state_dir, "lock", NULL);
    stasis_autofd int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        stasis_set_errno(error, errno, "open %s", path);
        return -1;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                    "another stasisd has %s: end it, or choose another directory with "
                    "STASIS_STATE_DIR",
                    state_dir);
        return -1;
    }
    return stasis_steal_fd(&fd);
}

StasisdService *stasisd_service_new(const char *state_dir, const char *program, guint n_places,
                                    GError **error)
{
    static const StasisdJobsFuncs funcs = { on_job, on_told };
    g_autoptr(StasisdService) service = g_new0(StasisdService, 1);
    service->state_dir = g_strdup(state_dir);
    service->lock_fd = service->state_fd = service->timer_fd = -1;
    service->entries = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, entry_free);
    if (!stasisd_moment_now(&service->now)) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                            "/proc/sys/kernel/random/boot_id can't be read: is /proc mounted?");
        return NULL;
    }
    service->lock_fd = lock(state_dir, error);
    if (service->lock_fd < 0 || (service->state_fd = open_below(state_dir, "state", error)) < 0)
        return NULL;
    stasis_autofd int bundles = open_below(state_dir, "bundles", error);
    stasis_autofd int policies = bundles >= 0 ? open_below(state_dir, "policies", error) : -1;
    if (policies < 0)
        return NULL;
    service->timer_fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    if (service->timer_fd < 0) {
        stasis_set_errno(error, errno, "timerfd_create");
        return NULL;
    }
    service->jobs = stasisd_jobs_new(state_dir, program, service->now.boot_id, n_places, &funcs,
                                     service, error);
    return service->jobs != NULL ? g_steal_pointer(&service) : NULL;
}

void stasisd_service_free(StasisdService *service)
{
    if (service == NULL)
        return;
    g_clear_handle_id(&service->timer_source, g_source_remove);
    g_clear_handle_id(&service->reload_source, g_source_remove);
    g_clear_object(&service->monitor);
    stasisd_jobs_free(service->jobs);
    g_hash_table_unref(service->entries);
    stasis_close_fdp(&service->timer_fd);
    stasis_close_fdp(&service->state_fd);
    stasis_close_fdp(&service->lock_fd);
    g_free(service->state_dir);
    g_free(service);
}

void stasisd_service_set_func(StasisdService *service, StasisdEventFunc func, gpointer user_data)
{
    service->func = func;
    service->func_data = user_data;
}

gboolean stasisd_service_start(StasisdService *service, GError **error)
{
    g_autofree char *path = g_build_filename(service->state_dir, "policies", NULL);
    g_autoptr(GFile) dir = g_file_new_for_path(path);
    service->monitor = g_file_monitor_directory(dir, G_FILE_MONITOR_NONE, NULL, error);
    if (service->monitor == NULL)
        return FALSE;
    g_file_monitor_set_rate_limit(service->monitor, 100);
    g_signal_connect(service->monitor, "changed", G_CALLBACK(on_files_changed), service);
    service->timer_source = g_unix_fd_add(service->timer_fd, G_IO_IN, on_timer, service);
    /* What still runs is taken up before anything is due. */
    g_autoptr(GPtrArray) policies = stasis_policy_list(NULL, error);
    if (policies == NULL)
        return FALSE;
    g_ptr_array_set_free_func(policies, NULL);
    for (guint i = 0; i < policies->len; i++)
        take(service, policies->pdata[i]);
    stasisd_jobs_adopt(service->jobs);
    look(service);
    return TRUE;
}

StasisdJobs *stasisd_service_jobs(StasisdService *service)
{
    return service->jobs;
}

const StasisPolicy *stasisd_service_policy(StasisdService *service, const char *vm)
{
    const Entry *entry = g_hash_table_lookup(service->entries, vm);
    return entry != NULL ? entry->policy : NULL;
}

GList *stasisd_service_vms(StasisdService *service)
{
    return g_list_sort(g_hash_table_get_keys(service->entries), (GCompareFunc)strcmp);
}

JsonObject *stasisd_service_describe(StasisdService *service, const char *vm)
{
    const Entry *entry = g_hash_table_lookup(service->entries, vm);
    JsonObject *object = json_object_new();
    JsonObject *state = stasisd_policy_state_to_json(&entry->state);
    json_object_remove_member(state, "boot_id");
    json_object_remove_member(state, "boot_us");
    json_object_remove_member(state, "wall_us");
    stasisd_moment_now(&service->now);
    gboolean runs = find_run(service, vm) != NULL;
    json_object_set_boolean_member(state, "running", runs);
    if (!runs) {
        gint64 wait = due_of(service, entry) - service->now.boot_us;
        json_object_set_int_member(state, "next_us", service->now.wall_us + MAX(wait, 0));
    }
    json_object_set_object_member(object, "policy",
                                  stasis_json_parse_object(entry->text, -1, NULL));
    json_object_set_object_member(object, "state", state);
    return object;
}

StasisdJob *stasisd_service_run(StasisdService *service, const char *vm, GError **error)
{
    Entry *entry = g_hash_table_lookup(service->entries, vm);
    if (entry == NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND, "VM \"%s\" has no policy", vm);
        return NULL;
    }
    StasisdJob *job = find_run(service, vm);
    return job != NULL ? job : add_run(service, entry);
}

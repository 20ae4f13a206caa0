/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A policy is due when its period has gone by since the last run that went well was due. What is
 * kept on disk says so only once a run has gone well: a daemon that dies with a run in its hands
 * leaves the policy due, unless the run's process is still at work, and then it is taken up.
 */
#include <errno.h>
#include <string.h>
#include <sys/timerfd.h>

#include "base/json.h"
#include "daemon/service-internal.h"

#define MAX_BACKOFF_S 60u
#define DAY_S ((guint64)24 * 3600)
#define MAX_AGE_US ((guint64)999 * 365 * G_TIME_SPAN_DAY)

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

StasisdJob *stasisd_runs_find(StasisdService *service, const char *vm)
{
    const GPtrArray *jobs = stasisd_jobs_all(service->jobs);
    for (guint i = jobs->len; i > 0; i--) {
        StasisdJob *job = jobs->pdata[i - 1];
        if (!stasisd_job_is_over(job) && strcmp(job->vm, vm) == 0 &&
            stasisd_job_is_policys(job->kind))
            return job;
    }
    return NULL;
}

static const char *kind_of(const StasisPolicy *policy)
{
    return policy->guard != NULL ? "guard" : policy->watch != NULL ? "watch" : "policy";
}

static gboolean lasts(const StasisPolicy *policy)
{
    return stasisd_job_lasts(kind_of(policy));
}

static void add_place(GStrvBuilder *words, const StasisPolicy *policy)
{
    if (policy->connect != NULL)
        g_strv_builder_add_many(words, "--connect", policy->connect, NULL);
    if (policy->store != NULL)
        g_strv_builder_add_many(words, "--store", policy->store, NULL);
}

static void add_word(GStrvBuilder *words, const char *option, const char *value)
{
    g_autofree char *word = value != NULL ? g_strconcat("--", option, "=", value, NULL) : NULL;
    if (word != NULL)
        g_strv_builder_add(words, word);
}

static void add_number(GStrvBuilder *words, const char *option, guint64 value)
{
    g_autofree char *text = value > 0 ? g_strdup_printf("%" G_GUINT64_FORMAT, value) : NULL;
    add_word(words, option, text);
}

static void add_ms(GStrvBuilder *words, const char *option, guint64 us)
{
    char ms[G_ASCII_DTOSTR_BUF_SIZE];
    g_ascii_formatd(ms, sizeof ms, "%.3f", (double)us / 1000);
    add_word(words, option, us > 0 ? ms : NULL);
}

/* @text's parts between @separator, each a value of @option; NULL has none. */
static void add_parts(GStrvBuilder *words, const char *option, const char *text,
                      const char *separator)
{
    g_auto(GStrv) parts = g_strsplit(text != NULL ? text : "", separator, -1);
    for (char **part = parts; *part != NULL; part++)
        add_word(words, option, *part);
}

char **stasisd_runs_guard_words(const StasisPolicy *policy, const char *state_dir)
{
    g_autoptr(GStrvBuilder) words = g_strv_builder_new();
    g_autofree char *bundles = g_build_filename(state_dir, "bundles", NULL);
    g_strv_builder_add_many(words, "guard", policy->vm, "--on", policy->guard, "--output", bundles,
                            "--by-policy", "--json", "--progress", "json", NULL);
    add_parts(words, "on", policy->guard_also, "\n");
    add_parts(words, "do", policy->guard_do, ",");
    add_ms(words, "every", policy->every_us);
    add_number(words, "keep", policy->guard_keep);
    add_number(words, "max-tries", policy->guard_max_tries);
    add_number(words, "max-skips", policy->guard_max_skips);
    add_number(words, "max-bundles", policy->guard_max_bundles);
    add_word(words, "disk", policy->disk);
    add_place(words, policy);
    return g_strv_builder_end(words);
}

/* Whole seconds; a day and more as days, since a number has nine digits at most. */
static void add_age(GStrvBuilder *words, const char *option, guint64 us)
{
    guint64 s = (MIN(us, MAX_AGE_US) + G_TIME_SPAN_SECOND - 1) / G_TIME_SPAN_SECOND;
    guint64 days = s / DAY_S;
    g_autofree char *long_part = g_strdup_printf("%" G_GUINT64_FORMAT "d", days);
    g_autofree char *rest = g_strdup_printf("%" G_GUINT64_FORMAT "s", s % DAY_S);
    g_autofree char *text = g_strconcat(days > 0 ? long_part : "", s % DAY_S > 0 ? rest : "", NULL);
    add_word(words, option, s > 0 ? text : NULL);
}

/* As cli_read_keep_times() reads them. */
static void add_keep_times(GStrvBuilder *words, const StasisPolicy *policy)
{
    g_autofree char *quota = g_strdup_printf(
        "%" G_GUINT64_FORMAT "K", policy->quota_bytes / 1024 + (policy->quota_bytes % 1024 > 0));
    add_number(words, "keep-hourly", policy->keep_hourly);
    add_number(words, "keep-daily", policy->keep_daily);
    add_number(words, "keep-weekly", policy->keep_weekly);
    add_number(words, "keep-monthly", policy->keep_monthly);
    add_number(words, "keep-yearly", policy->keep_yearly);
    add_age(words, "keep-within", policy->keep_within_us);
    add_word(words, "quota", policy->quota_bytes > 0 ? quota : NULL);
}

char **stasisd_runs_watch_words(const StasisPolicy *policy)
{
    g_autoptr(GStrvBuilder) words = g_strv_builder_new();
    g_strv_builder_add_many(words, "proc-watch", policy->vm, "--on", policy->watch, "--note",
                            STASIS_POLICY_WATCH_NOTE, "--take-up", "--by-policy", "--json",
                            "--progress", "json", NULL);
    add_parts(words, "pid", policy->watch_pids, ",");
    add_word(words, "unit", policy->watch_unit);
    add_word(words, "cgroup", policy->watch_cgroup);
    add_word(words, "boundary", policy->watch_boundary);
    add_number(words, "keep", policy->keep_last);
    add_keep_times(words, policy);
    add_ms(words, "min-interval", policy->watch_interval_us);
    if (policy->watch_incremental)
        g_strv_builder_add(words, "--incremental");
    add_place(words, policy);
    return g_strv_builder_end(words);
}

/* What carries out a policy of a kind that lasts. */
static char **lasting_words(StasisdService *service, const StasisPolicy *policy)
{
    return policy->guard != NULL ? stasisd_runs_guard_words(policy, service->state_dir)
                                 : stasisd_runs_watch_words(policy);
}

void stasisd_runs_end_strays(StasisdService *service)
{
    const GPtrArray *jobs = stasisd_jobs_all(service->jobs);
    for (guint i = 0; i < jobs->len; i++) {
        StasisdJob *job = jobs->pdata[i];
        const StasisdEntry *entry = g_hash_table_lookup(service->entries, job->vm);
        if (stasisd_job_is_over(job) || !stasisd_job_lasts(job->kind))
            continue;
        g_auto(GStrv) words =
            entry != NULL && lasts(entry->policy) ? lasting_words(service, entry->policy) : NULL;
        if (words == NULL ||
            !g_strv_equal((const char *const *)words, (const char *const *)job->argv))
            stasisd_jobs_abort(service->jobs, job);
    }
}

StasisdJob *stasisd_runs_add(StasisdService *service, StasisdEntry *entry)
{
    const StasisPolicy *policy = entry->policy;
    const char *const once[] = { "policy-run", policy->vm, "--json", "--progress", "json", NULL };
    entry->retry_us = 0;
    entry->may_have_watched = FALSE;
    if (!lasts(policy))
        return stasisd_jobs_add(service->jobs, "policy", policy->vm, policy->connect, policy->owner,
                                once, -1);
    g_auto(GStrv) words = lasting_words(service, policy);
    return stasisd_jobs_add(service->jobs, kind_of(policy), policy->vm, policy->connect,
                            policy->owner, (const char *const *)words, -1);
}

gint64 stasisd_runs_due(const StasisdService *service, const StasisdEntry *entry)
{
    if (entry->retry_us > 0)
        return entry->retry_us;
    if (lasts(entry->policy))
        return service->now.boot_us;
    return stasisd_schedule_next(&entry->state.last, entry->policy->every_us, &service->now);
}

static void begin(StasisdService *service, StasisdEntry *entry)
{
    guint missed = 0;
    const StasisPolicy *policy = entry->policy;
    if (!lasts(policy)) {
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
    stasisd_runs_add(service, entry);
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
    StasisdEntry *entry;
} Due;

static gint compare_due(gconstpointer a, gconstpointer b)
{
    gint64 x = ((const Due *)a)->due_us, y = ((const Due *)b)->due_us;
    return x < y ? -1 : x > y;
}

void stasisd_runs_look(StasisdService *service)
{
    g_autoptr(GArray) all = g_array_new(FALSE, FALSE, sizeof(Due));
    GHashTableIter iter;
    gpointer vm, value;
    stasisd_moment_now(&service->now);
    g_hash_table_iter_init(&iter, service->entries);
    while (g_hash_table_iter_next(&iter, &vm, &value)) {
        Due due = { stasisd_runs_due(service, value), value };
        if (stasisd_runs_find(service, vm) == NULL)
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

/* ---- how runs went ---- */

static void save_state(StasisdService *service, StasisdEntry *entry)
{
    g_autoptr(GError) error = NULL;
    if (!stasisd_policy_state_save(&entry->state, service->state_fd, entry->policy->vm, &error))
        g_warning("state of the policy of VM \"%s\": %s", entry->policy->vm, error->message);
}

/* Of a run that a daemon before us began it is not known for when it counts: for its beginning. */
static StasisdMoment counted(StasisdService *service, const StasisdEntry *entry,
                             const StasisdJob *job)
{
    if (entry->pending.boot_id[0] != '\0')
        return entry->pending;
    StasisdMoment moment = service->now;
    gint64 ago = CLAMP(service->now.wall_us - job->started_us, 0, service->now.boot_us);
    moment.boot_us -= ago;
    moment.wall_us -= ago;
    return moment;
}

/* Its image; and why old ones were not removed, which is no failure and is not to be overlooked. */
static void note_result(StasisdEntry *entry, const StasisdJob *job)
{
    g_autoptr(JsonObject) result =
        job->result != NULL ? stasis_json_parse_object(job->result, -1, NULL) : NULL;
    const char *id = result != NULL ? stasis_json_string_or(result, "id", NULL) : NULL;
    const char *left = result != NULL ? stasis_json_string_or(result, "left", NULL) : NULL;
    if (id != NULL) {
        g_free(entry->state.last_image);
        entry->state.last_image = g_strdup(id);
    }
    if (result != NULL)
        entry->state.n_missed_deadlines += stasis_json_uint_or(result, "missed_deadlines", 0);
    if (left != NULL)
        entry->state.last_error = g_strconcat("old images are left: ", left, NULL);
}

/* All that was watched has ended. A PID is another process's then, or will be. */
static gboolean all_ended(const StasisdJob *job)
{
    g_autoptr(JsonObject) result =
        job->result != NULL ? stasis_json_parse_object(job->result, -1, NULL) : NULL;
    return strcmp(job->kind, "watch") == 0 && result != NULL &&
           stasis_json_bool_or(result, "ended", FALSE);
}

/* Also when nobody can say: the VM or its agent has gone, and has begun anew when it is back. What
 * kept a run from watching at all, as the host was short of something, is no such reason. */
static gboolean is_over(const StasisdEntry *entry, const StasisdJob *job)
{
    static const char *const gone[] = { "not-found", "unsupported", NULL };
    static const char *const passing[] = { "busy", "refused", "no-store", "locked", "key", NULL };
    if (entry->policy->watch == NULL || entry->policy->watch_pids == NULL || job->aborting)
        return FALSE;
    if (all_ended(job))
        return TRUE;
    if (job->state != STASISD_FAILED || job->pid == 0 || job->error_name == NULL)
        return FALSE;
    return entry->may_have_watched ? !g_strv_contains(passing, job->error_name)
                                   : g_strv_contains(gone, job->error_name);
}

/* Of a guard that ended at a failure of its VM the kind of that; else NULL. */
static char *failure_of(const StasisdJob *job)
{
    g_autoptr(JsonObject) result =
        job->result != NULL ? stasis_json_parse_object(job->result, -1, NULL) : NULL;
    if (strcmp(job->kind, "guard") != 0 || job->aborting || result == NULL ||
        !json_object_has_member(result, "last") || json_object_has_member(result, "ended"))
        return NULL;
    JsonNode *last = json_object_get_member(result, "last");
    return JSON_NODE_HOLDS_OBJECT(last)
               ? g_strdup(stasis_json_string_or(json_node_get_object(last), "kind", NULL))
               : NULL;
}

/* How often on end there was nothing to be done, of a kind that lasts; or a guard saw what the one
 * before had seen. */
static guint count_on_end(StasisdEntry *entry, const StasisdJob *job)
{
    g_autofree char *before = g_steal_pointer(&entry->failure);
    entry->failure = failure_of(job);
    if (job->state == STASISD_DONE &&
        (entry->failure == NULL || g_strcmp0(entry->failure, before) != 0))
        return 0;
    gboolean lasted = job->ended_us - job->started_us > MAX_BACKOFF_S * G_TIME_SPAN_SECOND;
    return lasted ? 1 : entry->n_on_end + 1;
}

static void run_went(StasisdService *service, StasisdEntry *entry, const StasisdJob *job)
{
    gboolean well = job->state == STASISD_DONE;
    /* Of a VM that does not run nothing is missing; it is looked for again when the next is due. */
    gboolean absent = g_strcmp0(job->error_name, "not-found") == 0;
    stasisd_moment_now(&service->now);
    entry->state.n_runs += !absent;
    g_clear_pointer(&entry->state.last_error, g_free);
    if (well || absent) {
        entry->state.last = counted(service, entry, job);
        entry->n_told = 0;
    }
    entry->pending.boot_id[0] = '\0';
    if (well) {
        entry->state.last_success_us = job->ended_us;
        note_result(entry, job);
    } else {
        entry->state.n_failures += !absent;
        entry->state.last_error = g_strdup(job->error != NULL ? job->error : "aborted");
    }
    entry->n_on_end = count_on_end(entry, job);
    if (all_ended(job))
        entry->state.last_error = g_strdup("all processes have ended");
    g_clear_pointer(&entry->state.over, g_free);
    if (is_over(entry, job)) {
        entry->state.over = g_strdup(entry->text);
        entry->retry_us = G_MAXINT64;
    } else if (lasts(entry->policy))
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
    StasisdEntry *entry = g_hash_table_lookup(service->entries, job->vm);
    tell_job(service, job);
    if (!stasisd_job_is_over(job))
        return;
    if (entry != NULL && strcmp(job->kind, kind_of(entry->policy)) == 0)
        run_went(service, entry, job);
    stasisd_runs_look(service);
}

static void tell_line(const StasisdJob *job, JsonObject *line, const char *prefix,
                      StasisdService *service)
{
    JsonObject *more = json_object_new();
    static const char *const texts[] = { "bundle", "id", "code", "error" };
    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        const char *text = stasis_json_string_or(line, texts[i], NULL);
        if (text != NULL)
            stasis_json_set_string(more, texts[i], text);
    }
    stasis_json_set_uint(more, "job", job->id);
    g_autofree char *name = g_strconcat(prefix, stasis_json_string_or(line, "event", ""), NULL);
    tell(service, job->owner, name, job->vm, more);
}

/* What a watch tells of its images is how its policy goes. TRUE when it is to be told. */
static gboolean note_watch(StasisdService *service, const StasisdJob *job, JsonObject *line,
                           const char *what)
{
    StasisdEntry *entry = g_hash_table_lookup(service->entries, job->vm);
    const char *id = stasis_json_string_or(line, "id", NULL);
    const char *error = stasis_json_string_or(line, "error", NULL);
    static const char *const told[] = { "watching", "image", "failed", "removed", "lost", NULL };
    if (!g_strv_contains(told, what))
        return FALSE;
    if (entry == NULL || entry->policy->watch == NULL)
        return TRUE;
    entry->n_on_end = 0;
    entry->may_have_watched = TRUE;
    if (error != NULL || strcmp(what, "watching") == 0 || strcmp(what, "image") == 0) {
        g_free(entry->state.last_error);
        entry->state.last_error = g_strdup(error);
    }
    if (strcmp(what, "image") == 0 && id != NULL) {
        g_free(entry->state.last_image);
        entry->state.last_image = g_strdup(id);
        entry->state.last_success_us = g_get_real_time();
    }
    save_state(service, entry);
    return TRUE;
}

/* A guard's events, and a watch's. */
static void on_told(StasisdJob *job, JsonObject *line, gpointer data)
{
    const char *what = stasis_json_string_or(line, "event", "");
    if (strcmp(job->kind, "watch") == 0) {
        if (note_watch(data, job, line, what))
            tell_line(job, line, "watch-", data);
        return;
    }
    guint64 n_on_end = 0;
    if (json_object_has_member(line, "on_end"))
        stasis_json_uint(line, "on_end", &n_on_end, NULL);
    /* An image every half a second is nobody's news, nor is each that is left out. */
    if (*what == '\0' || strcmp(what, "image") == 0 || n_on_end > 1)
        return;
    tell_line(job, line, "guard-", data);
}

const StasisdJobsFuncs stasisd_runs_funcs = { on_job, on_told };

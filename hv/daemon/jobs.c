/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/jobs.h"

#include <errno.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/io.h"

#define MAX_FILE_BYTES (8 * 1024 * 1024)
/* Of those that are over, and of each VM's. */
#define MAX_OVER 500u

struct _StasisdJobs {
    char *program, *boot_id;
    int dir_fd;
    guint n_places, next_id, idle_source;
    GPtrArray *all;
    StasisdJobsFuncs funcs;
    gpointer user_data;
};

static gint compare_ids(gconstpointer a, gconstpointer b)
{
    guint x = (*(StasisdJob *const *)a)->id, y = (*(StasisdJob *const *)b)->id;
    return x < y ? -1 : x > y;
}

/* A file that can't be read is a job whose record a power failure took: nobody asks for it. */
static void load(StasisdJobs *jobs, const char *name)
{
    gsize len = 0;
    g_autofree char *text = stasis_read_file_at(jobs->dir_fd, name, MAX_FILE_BYTES, &len, NULL);
    StasisdJob *job = text != NULL ? stasisd_job_from_text(text, (gssize)len, NULL) : NULL;
    if (job == NULL) {
        unlinkat(jobs->dir_fd, name, 0);
        return;
    }
    g_ptr_array_add(jobs->all, job);
    jobs->next_id = MAX(jobs->next_id, job->id + 1);
}

static gboolean load_all(StasisdJobs *jobs, const char *path, GError **error)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, error);
    if (dir == NULL)
        return FALSE;
    for (const char *name; (name = g_dir_read_name(dir)) != NULL;) {
        if (name[0] == '.')
            unlinkat(jobs->dir_fd, name, 0); /* one that was being written */
        else if (g_str_has_suffix(name, ".json"))
            load(jobs, name);
    }
    g_ptr_array_sort(jobs->all, compare_ids);
    return TRUE;
}

StasisdJobs *stasisd_jobs_new(const char *state_dir, const char *program, const char *boot_id,
                              guint n_places, const StasisdJobsFuncs *funcs, gpointer user_data,
                              GError **error)
{
    g_autoptr(StasisdJobs) jobs = g_new0(StasisdJobs, 1);
    g_autofree char *path = g_build_filename(state_dir, "jobs", NULL);
    jobs->program = g_strdup(program);
    jobs->boot_id = g_strdup(boot_id);
    jobs->n_places = n_places;
    jobs->next_id = 1;
    jobs->all = g_ptr_array_new_with_free_func((GDestroyNotify)stasisd_job_free);
    jobs->funcs = *funcs;
    jobs->user_data = user_data;
    jobs->dir_fd = -1;
    if (mkdir(path, 0700) < 0 && errno != EEXIST) {
        stasis_set_errno(error, errno, "make %s", path);
        return NULL;
    }
    jobs->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (jobs->dir_fd < 0) {
        stasis_set_errno(error, errno, "open %s", path);
        return NULL;
    }
    return load_all(jobs, path, error) ? g_steal_pointer(&jobs) : NULL;
}

void stasisd_jobs_free(StasisdJobs *jobs)
{
    if (jobs == NULL)
        return;
    g_clear_handle_id(&jobs->idle_source, g_source_remove);
    g_ptr_array_unref(jobs->all);
    stasis_close_fdp(&jobs->dir_fd);
    g_free(jobs->program);
    g_free(jobs->boot_id);
    g_free(jobs);
}

const char *stasisd_jobs_program(const StasisdJobs *jobs)
{
    return jobs->program;
}

const GPtrArray *stasisd_jobs_all(StasisdJobs *jobs)
{
    return jobs->all;
}

StasisdJob *stasisd_jobs_find(StasisdJobs *jobs, guint id)
{
    for (guint i = 0; i < jobs->all->len; i++) {
        StasisdJob *job = jobs->all->pdata[i];
        if (job->id == id)
            return job;
    }
    return NULL;
}

/* An export takes as long as whoever reads it likes: policies don't wait for that. */
typedef enum { NO_PLACE, OF_EXPORTS, OF_OTHERS, N_PLACES } Place;

static Place place_of(const StasisdJob *job)
{
    if (stasisd_job_lasts(job->kind))
        return NO_PLACE;
    return strcmp(job->kind, "export") == 0 ? OF_EXPORTS : OF_OTHERS;
}

static void remove_files(StasisdJobs *jobs, guint id)
{
    static const char *const suffixes[] = { "json", "pid", "out", "err" };
    for (guint i = 0; i < G_N_ELEMENTS(suffixes); i++) {
        g_autofree char *name = g_strdup_printf("%u.%s", id, suffixes[i]);
        unlinkat(jobs->dir_fd, name, 0);
    }
}

static void forget_old(StasisdJobs *jobs)
{
    guint n_over = 0;
    for (guint i = jobs->all->len; i > 0; i--) {
        const StasisdJob *job = jobs->all->pdata[i - 1];
        if (!stasisd_job_is_over(job) || ++n_over <= MAX_OVER)
            continue;
        remove_files(jobs, job->id);
        g_ptr_array_remove_index(jobs->all, i - 1);
    }
}

static void save(StasisdJobs *jobs, StasisdJob *job)
{
    g_autoptr(GError) error = NULL;
    if (!stasisd_job_save(job, jobs->dir_fd, &error))
        g_warning("job %u: %s", job->id, error->message);
}

static void start_some(StasisdJobs *jobs);

static void on_end(StasisdJob *job, gpointer data)
{
    StasisdJobs *jobs = data;
    save(jobs, job);
    jobs->funcs.changed(job, jobs->user_data);
    start_some(jobs);
}

static void on_line(StasisdJob *job, JsonObject *line, gpointer data)
{
    StasisdJobs *jobs = data;
    jobs->funcs.told(job, line, jobs->user_data);
}

static void start(StasisdJobs *jobs, StasisdJob *job)
{
    g_autoptr(GError) error = NULL;
    if (!stasisd_job_start(job, jobs->program, jobs->dir_fd, jobs->boot_id, on_line, on_end, jobs,
                           &error)) {
        job->state = STASISD_FAILED;
        job->ended_us = g_get_real_time();
        job->error_name = g_strdup(stasis_error_name(error));
        job->error = g_strdup(error->message);
        stasis_clear_fd(&job->out_fd);
        save(jobs, job);
    }
    jobs->funcs.changed(job, jobs->user_data);
}

static gboolean on_idle(gpointer data)
{
    StasisdJobs *jobs = data;
    jobs->idle_source = 0;
    guint n_taken[N_PLACES] = { 0 };
    forget_old(jobs);
    for (guint i = 0; i < jobs->all->len; i++) {
        const StasisdJob *job = jobs->all->pdata[i];
        n_taken[place_of(job)] += job->state == STASISD_RUNNING;
    }
    for (guint i = 0; i < jobs->all->len; i++) {
        StasisdJob *job = jobs->all->pdata[i];
        Place place = place_of(job);
        if (job->state != STASISD_WAITING ||
            (place != NO_PLACE && n_taken[place] >= jobs->n_places))
            continue;
        start(jobs, job);
        /* Of one that could not begin nobody tells the end. */
        n_taken[place] += job->state == STASISD_RUNNING;
    }
    return G_SOURCE_REMOVE;
}

/* Not at once: whoever has added one has yet to note it. */
static void start_some(StasisdJobs *jobs)
{
    if (jobs->idle_source == 0)
        jobs->idle_source = g_idle_add_full(G_PRIORITY_DEFAULT, on_idle, jobs, NULL);
}

void stasisd_jobs_adopt(StasisdJobs *jobs)
{
    for (guint i = 0; i < jobs->all->len; i++) {
        StasisdJob *job = jobs->all->pdata[i];
        if (job->state == STASISD_RUNNING)
            stasisd_job_adopt(job, jobs->dir_fd, jobs->boot_id, on_line, on_end, jobs);
    }
    start_some(jobs);
}

StasisdJob *stasisd_jobs_add(StasisdJobs *jobs, const char *kind, const char *vm,
                             const char *connect, guint owner, const char *const *argv, int out_fd)
{
    StasisdJob *job = stasisd_job_new(jobs->next_id++, kind, vm, connect, owner, argv);
    job->out_fd = out_fd;
    g_ptr_array_add(jobs->all, job);
    /* What a policy wants is known without it, and what somebody else's descriptor was for is lost
     * with us. */
    if (out_fd < 0 && !stasisd_job_is_policys(kind))
        save(jobs, job);
    jobs->funcs.changed(job, jobs->user_data);
    start_some(jobs);
    return job;
}

void stasisd_jobs_abort(StasisdJobs *jobs, StasisdJob *job)
{
    if (job->state == STASISD_RUNNING) {
        stasisd_job_abort(job);
    } else if (job->state == STASISD_WAITING) {
        job->state = STASISD_ABORTED;
        job->ended_us = g_get_real_time();
        stasis_clear_fd(&job->out_fd);
        save(jobs, job);
        jobs->funcs.changed(job, jobs->user_data);
    }
}

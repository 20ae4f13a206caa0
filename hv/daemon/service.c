/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The policies as the daemon has them: as their files say, which are looked at whenever they
 * change. */
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
#include "daemon/service-internal.h"

static void entry_free(gpointer data)
{
    StasisdEntry *entry = data;
    stasis_policy_free(entry->policy);
    stasisd_policy_state_clear(&entry->state);
    g_free(entry->text);
    g_free(entry->failure);
    g_free(entry);
}

/* ---- policies ---- */

/* A guard or a watch whose policy is no more, or is another. */
static void end_lasting(StasisdService *service, const char *vm)
{
    StasisdJob *job = stasisd_runs_find(service, vm);
    if (job != NULL && stasisd_job_lasts(job->kind))
        stasisd_jobs_abort(service->jobs, job);
}

static void take(StasisdService *service, StasisPolicy *policy)
{
    g_autofree char *text = stasis_policy_to_text(policy);
    StasisdEntry *entry = g_hash_table_lookup(service->entries, policy->vm);
    if (entry != NULL && strcmp(entry->text, text) == 0) {
        stasis_policy_free(policy);
        return;
    }
    StasisdEntry *taken = g_new0(StasisdEntry, 1);
    stasisd_policy_state_load(&taken->state, service->state_fd, policy->vm);
    taken->policy = policy;
    taken->text = g_steal_pointer(&text);
    taken->may_have_watched = TRUE;
    if (g_strcmp0(taken->state.over, taken->text) == 0)
        taken->retry_us = G_MAXINT64;
    if (entry != NULL)
        end_lasting(service, policy->vm);
    g_hash_table_replace(service->entries, g_strdup(policy->vm), taken);
}

/* Whose file is there, or can't be read at present: that may be the same again. */
static gboolean is_there(const char *vm, const GPtrArray *there, char **bad)
{
    g_autofree char *file = stasisd_policy_file(vm);
    for (guint i = 0; i < there->len; i++)
        if (strcmp(((const StasisPolicy *)there->pdata[i])->vm, vm) == 0)
            return TRUE;
    return g_strv_contains((const char *const *)bad, file);
}

static void drop_absent(StasisdService *service, const GPtrArray *there, char **bad)
{
    GHashTableIter iter;
    gpointer vm;
    g_hash_table_iter_init(&iter, service->entries);
    while (g_hash_table_iter_next(&iter, &vm, NULL)) {
        if (is_there(vm, there, bad))
            continue;
        end_lasting(service, vm);
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
    drop_absent(service, policies, bad);
    g_ptr_array_set_free_func(policies, NULL);
    for (guint i = 0; i < policies->len; i++)
        take(service, policies->pdata[i]);
    stasisd_runs_look(service);
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

static gboolean on_timer(int fd, GIOCondition condition, gpointer data)
{
    guint64 n;
    if (read(fd, &n, sizeof(n)) == sizeof(n))
        stasisd_runs_look(data);
    return G_SOURCE_CONTINUE;
}

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
    service->jobs = stasisd_jobs_new(state_dir, program, service->now.boot_id, n_places,
                                     &stasisd_runs_funcs, service, error);
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
    stasisd_runs_end_strays(service);
    stasisd_runs_look(service);
    return TRUE;
}

StasisdJobs *stasisd_service_jobs(StasisdService *service)
{
    return service->jobs;
}

const StasisPolicy *stasisd_service_policy(StasisdService *service, const char *vm)
{
    const StasisdEntry *entry = g_hash_table_lookup(service->entries, vm);
    return entry != NULL ? entry->policy : NULL;
}

GList *stasisd_service_vms(StasisdService *service)
{
    return g_list_sort(g_hash_table_get_keys(service->entries), (GCompareFunc)strcmp);
}

JsonObject *stasisd_service_describe(StasisdService *service, const char *vm)
{
    const StasisdEntry *entry = g_hash_table_lookup(service->entries, vm);
    JsonObject *object = json_object_new();
    JsonObject *state = stasisd_policy_state_to_json(&entry->state);
    json_object_remove_member(state, "boot_id");
    json_object_remove_member(state, "boot_us");
    json_object_remove_member(state, "wall_us");
    json_object_remove_member(state, "over");
    stasisd_moment_now(&service->now);
    gboolean runs = stasisd_runs_find(service, vm) != NULL;
    json_object_set_boolean_member(state, "running", runs);
    gint64 due = stasisd_runs_due(service, entry);
    if (!runs && due < G_MAXINT64) {
        gint64 wait = due - service->now.boot_us;
        json_object_set_int_member(state, "next_us", service->now.wall_us + MAX(wait, 0));
    }
    json_object_set_object_member(object, "policy",
                                  stasis_json_parse_object(entry->text, -1, NULL));
    json_object_set_object_member(object, "state", state);
    return object;
}

StasisdJob *stasisd_service_run(StasisdService *service, const char *vm, GError **error)
{
    StasisdEntry *entry = g_hash_table_lookup(service->entries, vm);
    if (entry == NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND, "VM \"%s\" has no policy", vm);
        return NULL;
    }
    StasisdJob *job = stasisd_runs_find(service, vm);
    return job != NULL ? job : stasisd_runs_add(service, entry);
}

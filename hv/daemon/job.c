/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is known of a job, and its file. */
#include "daemon/job.h"

#include <fcntl.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"
#include "base/json.h"

/* What the command puts before its complaints. */
#define PROGRAM "stasis: "
#define CONNECT "--connect"
#define MAX_OUT_BYTES (4 * 1024 * 1024)

static const char *const state_names[] = { "waiting", "running", "done", "failed",
                                           "aborted", "lost",    NULL };

const char *stasisd_job_state_name(StasisdJobState state)
{
    return state_names[state];
}

gboolean stasisd_job_lasts(const char *kind)
{
    return strcmp(kind, "guard") == 0 || strcmp(kind, "watch") == 0;
}

gboolean stasisd_job_is_policys(const char *kind)
{
    return strcmp(kind, "policy") == 0 || stasisd_job_lasts(kind);
}

StasisdJob *stasisd_job_new(guint id, const char *kind, const char *vm, const char *connect,
                            guint owner, const char *const *argv)
{
    StasisdJob *job = g_new0(StasisdJob, 1);
    job->id = id;
    job->kind = g_strdup(kind);
    job->vm = g_strdup(vm);
    job->connect = g_strdup(connect);
    job->owner = owner;
    job->argv = g_strdupv((char **)argv);
    job->created_us = g_get_real_time();
    job->pidfd = job->out_fd = -1;
    job->said = g_string_new(NULL);
    return job;
}

void stasisd_job_free(StasisdJob *job)
{
    if (job == NULL)
        return;
    g_clear_handle_id(&job->pid_source, g_source_remove);
    g_clear_handle_id(&job->err_source, g_source_remove);
    if (job->pidfd >= 0)
        close(job->pidfd);
    if (job->out_fd >= 0)
        close(job->out_fd);
    g_free(job->kind);
    g_free(job->vm);
    g_free(job->connect);
    g_strfreev(job->argv);
    g_free(job->boot_id);
    g_free(job->error_name);
    g_free(job->error);
    g_free(job->result);
    g_free(job->phase);
    g_string_free(job->said, TRUE);
    g_free(job);
}

JsonObject *stasisd_job_to_json(const StasisdJob *job, gboolean live)
{
    JsonObject *object = json_object_new();
    JsonArray *argv = json_array_new();
    stasis_json_set_uint(object, "id", job->id);
    stasis_json_set_string(object, "kind", job->kind);
    stasis_json_set_string(object, "vm", job->vm);
    if (job->connect != NULL)
        stasis_json_set_string(object, "connect", job->connect);
    stasis_json_set_uint(object, "owner", job->owner);
    stasis_json_set_string(object, "state", state_names[job->state]);
    for (char **word = job->argv; *word != NULL; word++)
        json_array_add_string_element(argv, *word);
    json_object_set_array_member(object, "argv", argv);
    json_object_set_int_member(object, "created_us", job->created_us);
    json_object_set_int_member(object, "started_us", job->started_us);
    json_object_set_int_member(object, "ended_us", job->ended_us);
    json_object_set_boolean_member(object, "aborting", job->aborting);
    if (job->boot_id != NULL && !live)
        stasis_json_set_string(object, "boot_id", job->boot_id);
    if (job->error != NULL) {
        stasis_json_set_string(object, "error_name", job->error_name);
        stasis_json_set_string(object, "error", job->error);
    }
    if (job->result != NULL)
        stasis_json_set_string(object, "result", job->result);
    if (live && job->phase != NULL) {
        stasis_json_set_string(object, "phase", job->phase);
        stasis_json_set_uint(object, "done_bytes", job->done_bytes);
        stasis_json_set_uint(object, "total_bytes", job->total_bytes);
    }
    return object;
}

static gboolean read_state(JsonObject *object, StasisdJobState *ret, GError **error)
{
    const char *name;
    if (!stasis_json_string(object, "state", &name, error))
        return FALSE;
    for (guint i = 0; state_names[i] != NULL; i++) {
        if (strcmp(state_names[i], name) == 0) {
            *ret = (StasisdJobState)i;
            return TRUE;
        }
    }
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "job: no state \"%s\"", name);
    return FALSE;
}

static char **read_words(JsonObject *object, GError **error)
{
    JsonArray *array;
    if (!stasis_json_array(object, "argv", &array, error))
        return NULL;
    g_autoptr(GStrvBuilder) words = g_strv_builder_new();
    for (guint i = 0; i < json_array_get_length(array); i++) {
        const char *word;
        if (!stasis_json_string_at(array, i, &word, error))
            return NULL;
        g_strv_builder_add(words, word);
    }
    return g_strv_builder_end(words);
}

/* A daemon before us may have written of it in the command line alone. */
static const char *find_connect(JsonObject *object, char **argv)
{
    const char *found = stasis_json_string_or(object, "connect", NULL);
    for (char **word = argv; found == NULL && *word != NULL; word++) {
        if (g_str_has_prefix(*word, CONNECT "="))
            found = *word + strlen(CONNECT "=");
        else if (strcmp(*word, CONNECT) == 0)
            found = word[1];
    }
    return found;
}

StasisdJob *stasisd_job_from_text(const char *text, gssize len, GError **error)
{
    g_autoptr(JsonObject) object = stasis_json_parse_object(text, len, error);
    const char *kind, *vm;
    guint64 id;
    StasisdJobState state;
    if (object == NULL || !stasis_json_uint(object, "id", &id, error) ||
        !stasis_json_string(object, "kind", &kind, error) ||
        !stasis_json_string(object, "vm", &vm, error) || !read_state(object, &state, error))
        return NULL;
    g_auto(GStrv) argv = read_words(object, error);
    if (argv == NULL)
        return NULL;
    StasisdJob *job =
        stasisd_job_new((guint)MIN(id, G_MAXINT32), kind, vm, find_connect(object, argv),
                        (guint)stasis_json_uint_or(object, "owner", 0), (const char *const *)argv);
    job->state = state;
    job->created_us = (gint64)stasis_json_uint_or(object, "created_us", 0);
    job->started_us = (gint64)stasis_json_uint_or(object, "started_us", 0);
    job->ended_us = (gint64)stasis_json_uint_or(object, "ended_us", 0);
    job->aborting = stasis_json_bool_or(object, "aborting", FALSE);
    job->boot_id = g_strdup(stasis_json_string_or(object, "boot_id", NULL));
    job->error_name = g_strdup(stasis_json_string_or(object, "error_name", NULL));
    job->error = g_strdup(stasis_json_string_or(object, "error", NULL));
    job->result = g_strdup(stasis_json_string_or(object, "result", NULL));
    return job;
}

gboolean stasisd_job_save(const StasisdJob *job, int dir_fd, GError **error)
{
    g_autoptr(JsonObject) object = stasisd_job_to_json(job, /* live= */ FALSE);
    g_autofree char *text = stasis_json_to_text(object, FALSE);
    g_autofree char *name = g_strdup_printf("%u.json", job->id);
    /* What a power failure takes of it is a job that has ended with the host. */
    return stasis_write_file_at(dir_fd, name, text, strlen(text), /* durable= */ FALSE, error);
}

/* ---- what became of it ---- */

static void fail(StasisdJob *job, StasisdJobState state, const char *name, const char *message)
{
    job->state = job->aborting ? STASISD_ABORTED : state;
    job->error_name = g_strdup(name);
    job->error = g_strdup(message);
}

/* The envelope of --json; FALSE when there is no whole one. */
static gboolean read_envelope(StasisdJob *job, int dir_fd)
{
    gsize len = 0;
    gboolean ok = FALSE;
    g_autofree char *name = g_strdup_printf("%u.out", job->id);
    g_autofree char *text = stasis_read_file_at(dir_fd, name, MAX_OUT_BYTES, &len, NULL);
    g_autoptr(JsonObject) object =
        text != NULL ? stasis_json_parse_object(text, (gssize)len, NULL) : NULL;
    if (object == NULL || !stasis_json_bool(object, "ok", &ok, NULL))
        return FALSE;
    JsonNode *result = json_object_get_member(object, "result");
    if (result != NULL && !json_node_is_null(result))
        job->result = json_to_string(result, FALSE);
    JsonObject *error;
    if (ok)
        job->state = STASISD_DONE;
    else if (stasis_json_object(object, "error", &error, NULL))
        fail(job, STASISD_FAILED, stasis_json_string_or(error, "code", "failed"),
             stasis_json_string_or(error, "message", ""));
    else
        return FALSE;
    return TRUE;
}

/* Its process says who it is before anything else (job-process.c). */
static gboolean has_begun(const StasisdJob *job, int dir_fd)
{
    struct stat st;
    g_autofree char *name = g_strdup_printf("%u.pid", job->id);
    return fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_size > 0;
}

void stasisd_job_settle(StasisdJob *job, int dir_fd, int status)
{
    job->ended_us = g_get_real_time();
    g_autofree char *said = g_strdup(g_strstrip(job->said->str));
    if (read_envelope(job, dir_fd))
        return;
    /* Its stdout was somebody else's. */
    if (status >= 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        job->state = STASISD_DONE;
        return;
    }
    g_autofree char *message = NULL;
    if (status >= 0 && WIFSIGNALED(status))
        message = g_strdup_printf("its process was ended by signal %d%s%s", WTERMSIG(status),
                                  *said != '\0' ? "; it had said: " : "", said);
    else if (status >= 0)
        message =
            *said != '\0' ? g_strdup(said) : g_strdup_printf("exit status %d", WEXITSTATUS(status));
    else
        message =
            g_strdup(has_begun(job, dir_fd)
                         ? "its process ended while no daemon was there, and left no result"
                         : "the daemon ended while its process was begun, which left no result");
    if (status < 0 || !WIFEXITED(status)) {
        fail(job, STASISD_LOST, "lost", message);
        return;
    }
    /* As it would have said with --json. */
    g_autoptr(GError) error = g_error_new_literal(
        STASIS_ERROR, (gint)stasis_error_from_exit_code(WEXITSTATUS(status)), message);
    fail(job, STASISD_FAILED, stasis_error_name(error),
         message + (g_str_has_prefix(message, PROGRAM) ? strlen(PROGRAM) : 0));
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A job: one run of the command `stasis` as a process of its own. Four files in jobs/:
 *
 *   N.json   what it is and what became of it, written aside and renamed
 *   N.pid    its line of /proc/self/stat, which it writes itself before it becomes `stasis`
 *   N.out    its stdout: the result as JSON
 *   N.err    its stderr: a FIFO, so that the next daemon hears what it tells from then on
 *
 * so that whoever comes after a daemon that was killed knows the process (by its PID and when it
 * was started), can wait for it, and reads how it went. The process outlives the daemon on purpose.
 */
#pragma once

#include <gio/gio.h>
#include <json-glib/json-glib.h>

G_BEGIN_DECLS

typedef enum {
    STASISD_WAITING, /* for a free place */
    STASISD_RUNNING,
    STASISD_DONE,
    STASISD_FAILED,
    STASISD_ABORTED,
    STASISD_LOST, /* it died without a word */
} StasisdJobState;

typedef struct {
    guint id;
    char *kind; /* "policy", "guard", "watch", "checkpoint", "restore", "rollback", "export" */
    char *vm;
    char *connect; /* of a libvirt domain: the URI that it is looked for at; or NULL */
    guint owner;
    char **argv; /* behind "stasis" */
    StasisdJobState state;
    gint64 created_us, started_us, ended_us; /* Unix time; 0: not yet */
    char *boot_id;                           /* of the host, when it was started */
    gboolean aborting;
    char *error_name, *error; /* of a failure */
    char *result;             /* JSON, or NULL */
    /* Not in the file. */
    pid_t pid;
    int pidfd;  /* or -1 */
    int out_fd; /* stdout that is somebody else's, before the start; or -1 */
    guint pid_source, err_source;
    GString *said; /* the end of its stderr that is no JSON */
    char *phase;
    guint64 done_bytes, total_bytes;
} StasisdJob;

const char *stasisd_job_state_name(StasisdJobState state);
static inline gboolean stasisd_job_is_over(const StasisdJob *job)
{
    return job->state >= STASISD_DONE;
}

/* Of the kinds that carry out a policy: "policy" is one run; a "guard" and a "watch" are there for
 * as long as it is. */
gboolean stasisd_job_is_policys(const char *kind);
gboolean stasisd_job_lasts(const char *kind);

/* @connect: or NULL. */
StasisdJob *stasisd_job_new(guint id, const char *kind, const char *vm, const char *connect,
                            guint owner, const char *const *argv);
void stasisd_job_free(StasisdJob *job);

/* What there is to tell of it; what its file has, and (@live) how far it is. */
JsonObject *stasisd_job_to_json(const StasisdJob *job, gboolean live);
/* Untrusted only as far as a file may be damaged. */
StasisdJob *stasisd_job_from_text(const char *text, gssize len, GError **error);
gboolean stasisd_job_save(const StasisdJob *job, int dir_fd, GError **error);

/* A line of its stderr that is JSON. Valid during the call. */
typedef void (*StasisdJobLineFunc)(StasisdJob *job, JsonObject *line, gpointer user_data);
typedef void (*StasisdJobEndFunc)(StasisdJob *job, gpointer user_data);

/* Start @program for it; @job's file is written before. */
gboolean stasisd_job_start(StasisdJob *job, const char *program, int dir_fd, const char *boot_id,
                           StasisdJobLineFunc line, StasisdJobEndFunc end, gpointer user_data,
                           GError **error);
/* One whose file says that it runs: wait for its process, if it is still there, or call @end at
 * once. */
void stasisd_job_adopt(StasisdJob *job, int dir_fd, const char *boot_id, StasisdJobLineFunc line,
                       StasisdJobEndFunc end, gpointer user_data);
/* Ask it to give up, as Ctrl-C does. */
void stasisd_job_abort(StasisdJob *job);
/* It has ended with wait status @status (-1: not known): what became of it. */
void stasisd_job_settle(StasisdJob *job, int dir_fd, int status);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisdJob, stasisd_job_free)

G_END_DECLS

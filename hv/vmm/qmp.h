/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A QMP client (protocol: QEMU's docs/interop/qmp-spec): one command at a time, events kept as
 * they come. The peer is untrusted: a line is at most 16 MiB, nesting is bounded, every wait has a
 * deadline. Used by one thread at a time. Over a socket of QEMU's, or lent by libvirtd
 * (vmm/domain.h).
 */
#pragma once

#include <gio/gio.h>
#include <json-glib/json-glib.h>
#include <sys/types.h>

#include "vmm/event-log.h"

G_BEGIN_DECLS

typedef struct _StasisQmp StasisQmp;

/* Connect to @path, read the greeting, negotiate capabilities. @timeout_ms bounds the whole of it;
 * a monitor that another client holds never greets (STASIS_ERROR_BUSY says so). */
StasisQmp *stasis_qmp_connect(const char *path, guint timeout_ms, GError **error);
/* The same; @cancellable ends the wait early. */
StasisQmp *stasis_qmp_connect_cancellable(const char *path, guint timeout_ms,
                                          GCancellable *cancellable, GError **error);
/* Talk over @fd, a connected stream socket (becomes the client's, also on failure); @path is for
 * messages only. */
StasisQmp *stasis_qmp_open_fd(int fd, const char *path, guint timeout_ms, GCancellable *cancellable,
                              GError **error);
void stasis_qmp_free(StasisQmp *qmp);

const char *stasis_qmp_get_version(StasisQmp *qmp); /* "7.2.22" */
/* The process that answers. Of a socket SO_PEERCRED names whoever called listen(), which need not
 * be QEMU (a manager that passed the socket on, the parent of a daemon), so it is checked against
 * who has the socket open. 0 when it can't be told. */
pid_t stasis_qmp_get_peer_pid(StasisQmp *qmp);
/* major * 10000 + minor * 100 + micro */
guint stasis_qmp_get_version_number(StasisQmp *qmp);

/*
 * Run @command. @arguments may be NULL and is not consumed; @pass_fd (or -1) travels with it by
 * SCM_RIGHTS. Returns the "return" member (any JSON type); a QMP error becomes STASIS_ERROR_FAILED
 * "<command>: <desc>". @timeout_ms 0 means 30 s. After a time-out the connection is unusable.
 */
JsonNode *stasis_qmp_execute(StasisQmp *qmp, const char *command, JsonObject *arguments,
                             int pass_fd, guint timeout_ms, GError **error);

/* A command given as a whole line of JSON (an object without "id"; a newline may end it), its
 * answer checked for an error and dropped. Allocates nothing unless it fails: for the pause. */
gboolean stasis_qmp_execute_line(StasisQmp *qmp, const char *line, guint timeout_ms,
                                 GError **error);

/* The text that HMP command @line prints. Free with g_free(). */
char *stasis_qmp_human(StasisQmp *qmp, const char *line, GError **error);

/* QEMU's own time of the last event @name since the connection began, in Unix microseconds; 0 if
 * there was none. Waits until @timeout_ms for one newer than @after_us; with 0, what has come by
 * now is heard. */
guint64 stasis_qmp_wait_event(StasisQmp *qmp, const char *name, guint64 after_us, guint timeout_ms);
/* Was the VM let go on since we had it stopped at @stopped_us, Unix microseconds? @noted_us is the
 * last RESUME of before, which is known by being the same, since the clock may have been set back;
 * one from before that is told of late is known by its time. */
gboolean stasis_qmp_was_resumed(StasisQmp *qmp, guint64 noted_us, guint64 stopped_us);
/* From now on all events go into @log (borrowed; NULL: none) as well. What is in the way of a pause
 * does not allocate: put a log on only while the VM is watched. */
void stasis_qmp_set_event_log(StasisQmp *qmp, StasisEventLog *log);
/* An event that QEMU sent before it answered a command may come so much later than the answer: how
 * long to wait before "there was none" is believed. 0 where they come in order. */
guint stasis_qmp_get_event_lag_ms(StasisQmp *qmp);

/* query-status: "running", "paused" … Free with g_free(). */
char *stasis_qmp_run_state(StasisQmp *qmp, GError **error);

/* Rises when the connection was lost and made again: events in between were missed, and QEMU has
 * forgotten descriptors that it was handed. */
guint stasis_qmp_get_generation(StasisQmp *qmp);
/* If it is known to be lost, make it again (where that can be). */
gboolean stasis_qmp_refresh(StasisQmp *qmp, GError **error);

/* How a process that has nothing of ours any more can let the VM go on (vmm/lifeline.h). */
typedef struct {
    int fd;                  /* a socket that understands "cont", or -1 */
    const char *const *argv; /* with fd -1: a program that does it, else NULL; lives as @qmp does */
} StasisQmpLegacy;

void stasis_qmp_get_legacy(StasisQmp *qmp, StasisQmpLegacy *ret);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisQmp, stasis_qmp_free)

G_END_DECLS

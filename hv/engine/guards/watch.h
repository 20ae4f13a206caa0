/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Watching a VM: watchers behind one ops table (watchers[] in watch.c), each looked at by turns, in
 * one thread, over a monitor that is the caller's. What QEMU tells meanwhile goes into a log.
 */
#pragma once

#include <stasis/watch.h>

#include "vmm/event-log.h"
#include "vmm/qmp.h"
#include "vmm/registry.h"

G_BEGIN_DECLS

typedef struct _StasisWatch StasisWatch;

/* What a watcher may know. */
typedef struct {
    const StasisRecord *record;
    StasisQmp *qmp; /* NULL when no watcher needs it */
    StasisEventLog *log;
    int pidfd;
    gboolean whole_console; /* what stands there by now counts, too */
    char *ended; /* set by crash: the end of QEMU that was asked for; NULL: it has not ended so */
    gboolean ending; /* … it has been, and the process is there yet */
    gint64 since_us; /* set by look() to tell when what it saw began; else that is now */
} StasisWatched;

typedef struct _StasisWatcherOps StasisWatcherOps;
struct _StasisWatcherOps {
    const char *name;
    const char *value;      /* how the value is called in messages, or NULL: takes none */
    gboolean value_needed;  /* else it may be left out */
    gboolean value_is_text; /* else seconds, 0.1 to 3600 */
    gboolean needs_monitor;
    gboolean of_end;   /* what it sees is that the VM has ended */
    const char *event; /* of QEMU's, that tells it, and the run state … */
    const char *state; /* … that a VM has afterwards; NULL, both or the latter: none */
    /* Begin; @seconds is 0 when no value was given. NULL with @error, or without: this VM has
     * nothing to look at. */
    gpointer (*open)(const StasisWatcherOps *ops, StasisWatched *vm, const char *text,
                     double seconds, GError **error);
    /* TRUE: seen, with *ret_detail (or NULL). Called often; looks as often as it needs to. */
    gboolean (*look)(gpointer watcher, StasisWatched *vm, char **ret_detail);
    void (*close)(gpointer watcher);
};

extern const StasisWatcherOps stasis_watch_panic, stasis_watch_watchdog, stasis_watch_reset,
    stasis_watch_crash, stasis_watch_end, stasis_watch_exit, stasis_watch_hang, stasis_watch_agent,
    stasis_watch_console, stasis_watch_last_words;

/* Does any of the words @on need the monitor? */
gboolean stasis_watch_needs_monitor(const char *const *on);
/* Is a word of that name among @on? */
gboolean stasis_watch_has(const char *const *on, const char *name);

/* Watch @record's VM for @on. @qmp (or NULL: what it would tell is not seen) is the caller's, who
 * goes on to use it; it must be there as long as the watch. With @whole_console what stands on the
 * console by now counts, too. */
StasisWatch *stasis_watch_new(const StasisRecord *record, StasisQmp *qmp, const char *const *on,
                              gboolean whole_console, GError **error);
void stasis_watch_free(StasisWatch *watch);
StasisEventLog *stasis_watch_get_log(StasisWatch *watch);

/* Look once, without waiting; NULL: there is nothing. */
StasisFailure *stasis_watch_look(StasisWatch *watch);
/* Until something is seen; NULL at @deadline_us (stasis_now_us()), when @wake_fd (or -1) can be
 * read, when it is cancelled, or at an end that is followed. Looks once at least. */
StasisFailure *stasis_watch_wait(StasisWatch *watch, guint64 deadline_us, int wake_fd,
                                 GCancellable *cancellable);

/* Have an end of QEMU that was asked for end stasis_watch_wait(), unless "exit" makes it a failure.
 */
void stasis_watch_follow_end(StasisWatch *watch);
/* How it ended so, for people; NULL: it has not, or nobody looked ("crash", or the above). */
const char *stasis_watch_get_end(const StasisWatch *watch);
/* It was told to end, and by the next looks it has, or has not. */
gboolean stasis_watch_is_ending(const StasisWatch *watch);

StasisFailure *stasis_failure_new(const char *kind, const char *detail);

typedef enum {
    STASIS_KEEP_NONE, /* it does what it would have done */
    STASIS_KEEP_PANICKED,
    STASIS_KEEP_ALL, /* also one that was shut down */
} StasisKeepEnded;

/* Have a QEMU whose guest panics, or shuts down, stand still instead of ending, so that it can be
 * put back. Failing is no harm. */
void stasis_watch_keep_ended(StasisQmp *qmp, const StasisRecord *record, StasisKeepEnded keep);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisWatch, stasis_watch_free)

G_END_DECLS

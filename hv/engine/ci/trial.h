/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One run of a test in a VM, until it is known how it came out: the test is a job of the guest's
 * agent, and beside it the VM is watched (engine/guards/watch.h). A VM that goes on from an image
 * in which the test runs already is followed from there.
 *
 * Without a test the VM is only watched, and has survived if nothing was seen in time.
 *
 * A thread of its own speaks to the agent, so that whoever has the VM may take checkpoints of it
 * meanwhile, over the same monitor. Used by one thread at a time.
 */
#pragma once

#include <gio/gio.h>
#include <stasis/ci.h>

#include "engine/guest/agent-job.h"
#include "engine/vm/session.h"
#include "vmm/event-log.h"

G_BEGIN_DECLS

typedef struct _StasisTrial StasisTrial;

typedef struct {
    StasisSession *session; /* of the VM, the caller's */
    const char *channel;    /* of its agent: path of the socket; NULL: there is none, nor a test */
    StasisJob job;          /* no argv: there is no test */
    guint64 timeout_us;     /* from now on; 0: none */
    const char *const *on;  /* what is a failure, beside panic and exit; or NULL */
    StasisJobOutputFunc output; /* from the trial's thread; or NULL */
    gpointer output_data;
} StasisTrialOptions;

/* Begin: the VM may still be paused. Borrows strings of @options until it is freed. */
StasisTrial *stasis_trial_new(const StasisTrialOptions *options, GError **error);
/* Ends the thread; what has not come yet of the test's output doesn't come any more. */
void stasis_trial_free(StasisTrial *trial);

/* Wait until the guest's agent has been sent what it must know first of all, as far as it is there:
 * a VM that runs before may have used random numbers that it was not to have. */
void stasis_trial_wait_told(StasisTrial *trial);
/* The test is known to run (it was started, or runs since before the image). */
gboolean stasis_trial_has_begun(StasisTrial *trial);

/* Look once, without waiting: TRUE when it is over, and how in *ret. */
gboolean stasis_trial_look(StasisTrial *trial, StasisOutcome *ret);
/* Wait a little, at most @ms, or until there may be something to see. */
void stasis_trial_wait(StasisTrial *trial, guint ms);
/* What the VM's QEMU told meanwhile; the trial's. */
StasisEventLog *stasis_trial_get_log(StasisTrial *trial);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisTrial, stasis_trial_free)

G_END_DECLS

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A dead man's switch: a small process that lets the VM go on if we die while it is stopped.
 *
 * It shares our connection to QEMU's monitor and does nothing but wait for our end; then, if the
 * switch is armed, it sends "cont". While we live it never touches the connection. Where libvirtd
 * has the monitor it becomes the program stasis-domain, which asks libvirtd for the same. What else
 * we leave behind, a program that it becomes at the end can clear away.
 */
#pragma once

#include <glib.h>

#include "vmm/qmp.h"

G_BEGIN_DECLS

typedef struct _StasisLifeline StasisLifeline;

StasisLifeline *stasis_lifeline_new(StasisQmp *qmp, GError **error);
/* The same; before it lets the VM go on it removes the file @mark (or NULL), which says that the VM
 * must not. */
StasisLifeline *stasis_lifeline_new_unmarking(StasisQmp *qmp, const char *mark, GError **error);
/* That; if we die while there is something to clear away, it becomes the program @sweeper (NULL: it
 * does not) once the VM runs. */
StasisLifeline *stasis_lifeline_new_sweeping(StasisQmp *qmp, const char *mark,
                                             const char *const *sweeper, GError **error);
/* Our death makes the process become the program @argv (argv[0] its path), which does what is to be
 * done; no mark, no "cont". */
StasisLifeline *stasis_lifeline_new_program(const char *const *argv, GError **error);
/* From now on our death makes the VM run, and Ctrl-Z waits (base/hold.h). No more than that; call
 * it before "stop" is sent. */
void stasis_lifeline_arm(StasisLifeline *lifeline);
void stasis_lifeline_disarm(StasisLifeline *lifeline);
/* Is there something to clear away if we die? One store. */
void stasis_lifeline_set_untidy(StasisLifeline *lifeline, gboolean untidy);
/* Let it act now: the way out when our own "cont" can't be sent any more. Waits for it.
 * Clearing away is ours, as long as we live. */
void stasis_lifeline_fire(StasisLifeline *lifeline);

/* Stop the VM, armed before. *ret_by_us is FALSE, and it is disarmed, when somebody else had
 * stopped it. On an error the VM may stand, by us: *ret_by_us is TRUE, and it stays armed. */
gboolean stasis_lifeline_stop(StasisLifeline *lifeline, StasisQmp *qmp, gboolean *ret_by_us,
                              GError **error);
/* Let it go on, and disarm. FALSE: that could not be said; then @lifeline has been fired. */
gboolean stasis_lifeline_resume(StasisLifeline *lifeline, StasisQmp *qmp, GError **error);

/* Ends the process and reaps it. */
void stasis_lifeline_free(StasisLifeline *lifeline);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisLifeline, stasis_lifeline_free)

G_END_DECLS

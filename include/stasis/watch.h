/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a VM can be watched for. Named by words:
 *
 *     panic              the guest says so: by pvpanic, or what else QEMU tells as GUEST_PANICKED;
 *                        or on its console (where that goes to a file) by Linux's last words
 *     hang[=SEC]         a virtual CPU makes no progress: with interrupts off it runs through the
 *                        same few states of its registers, or all stand halted with interrupts
 *                        off, for SEC seconds (default 2); or QEMU's monitor does not answer
 *     watchdog           a watchdog device was not fed
 *     reset              the guest was reset, other than by us
 *     crash              QEMU has ended, and nobody (guest, host, libvirt) had asked it to
 *     exit               any end: the guest has shut down, or QEMU has ended
 *     agent-lost[=SEC]   the agent in the guest does not answer for SEC seconds (default 5)
 *     log=REGEX          a line of the console (of the serial port's file) matches; Perl's syntax
 */
#pragma once

#include <glib.h>
#include <stasis/macros.h>

G_BEGIN_DECLS

/* What was seen. */
typedef struct {
    char *kind;      /* the word, without its value */
    char *detail;    /* one line: what was seen of it, or NULL */
    gint64 at_us;    /* Unix time at which we saw it */
    gint64 since_us; /* Unix time at which it began, as far as can be told: a hang is seen late */
} StasisFailure;

STASIS_API void stasis_failure_free(StasisFailure *failure);

/* Are these words (NULL-terminated) such? STASIS_ERROR_USAGE names the one that is not. */
STASIS_API gboolean stasis_watch_check(const char *const *on, GError **error);

/* "panic,hang=3,log=REGEX" as words: what follows "log=" is all REGEX, commas and all. Free with
 * g_strfreev(). */
STASIS_API char **stasis_watch_split(const char *text);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisFailure, stasis_failure_free)

G_END_DECLS

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A test in a machine that QEMU records, instruction by instruction (docs/devel/replay.rst of
 * QEMU), and the same execution again. Nothing is said to the guest from outside: what a host would
 * ask of the agent stands in the kernel's command line, and its answer comes over a serial port
 * into a file.
 */
#pragma once

#include <stasis/ci.h>

#include "engine/ci/ci-bundle.h"
#include "engine/vm/nursery.h"

G_BEGIN_DECLS

/* Files in its directory. */
#define STASIS_RECORDED_LOG "rr.bin"
#define STASIS_RECORDED_DISK "rr.qcow2" /* has the snapshot of its beginning */
#define STASIS_RECORDED_CONSOLE "console.log"
#define STASIS_RECORDED_ANSWER "answer"
/* The snapshot of its beginning. */
#define STASIS_RECORDED_BEGINNING "beginning"

/* The agent lets nothing that it executes run for longer. */
#define STASIS_RECORDED_MAX_US ((guint64)600 * 1000000)

typedef struct {
    const char *dir; /* absolute */
    StasisNursery *nursery;
    const StasisCiTest *test; /* with memory and append */
    const char *qemu;         /* or NULL */
    const char *kernel, *initrd;
    gboolean record; /* else replay what @dir has */
    /* With a replay, each or NULL: */
    GPtrArray *images; /* char *: keep images on the way (recorded-images.h), and these are their
                          names */
    const char *from;  /* the image to begin from; NULL: its beginning */
    const char *gdb;   /* the monitor's command for the gdbstub: it stands still there */
    void (*ready)(StasisVm *vm, gpointer user_data); /* then, once it does */
    gpointer ready_data;
    StasisOutputFunc output; /* or NULL */
    gpointer output_data;
    char **ret_qemu_version; /* or NULL; free with g_free() */
} StasisRecorded;

/* The kernel's command line for @test: @append, and what the agent is to do. NULL with
 * STASIS_ERROR_USAGE when it gets longer than a kernel takes. */
char *stasis_recorded_append(const char *append, const StasisCiTest *test, GError **error);

/* Run it until it is known how it came out; the machine is gone then, and its files are in the
 * directory. */
gboolean stasis_recorded_run(const StasisRecorded *recorded, StasisOutcome *ret_outcome,
                             GCancellable *cancellable, GError **error);

G_END_DECLS

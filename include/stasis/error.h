/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The error contract of libstasis, on one page.
 *
 * A function that can fail returns FALSE, NULL or -1 and sets @error; outputs named ret_* are then
 * left untouched. The message is one line: what failed, the witness, and what to do next; with
 * STASIS_ERROR_REFUSED each of these is a line of its own. Domains
 * other than STASIS_ERROR (G_IO_ERROR, G_FILE_ERROR) may pass through; stasis_error_exit_code()
 * knows them all.
 */
#pragma once

#include <glib.h>
#include <stasis/macros.h>

G_BEGIN_DECLS

/* One value for each reaction that a caller may have; the table in hv/base/error.c gives each its
 * name and its process exit code. */
typedef enum {
    STASIS_ERROR_FAILED,      /* anything else: exit 1 */
    STASIS_ERROR_USAGE,       /* an argument is wrong: exit 2 */
    STASIS_ERROR_UNSUPPORTED, /* this VM, host or QEMU can't do that, by name: exit 1 */
    STASIS_ERROR_BUSY,        /* another operation holds the VM: exit 1 */
    STASIS_ERROR_BUDGET,      /* the pause budget could not be kept; the VM runs on: exit 5 */
    STASIS_ERROR_NO_STORE,    /* the store does not exist or can't be used: exit 10 */
    STASIS_ERROR_LOCKED,      /* another writer holds the store: exit 11 */
    STASIS_ERROR_NOT_FOUND,   /* no such VM or image: exit 12 */
    STASIS_ERROR_CORRUPT,     /* an image or stream is malformed or damaged: exit 13 */
    STASIS_ERROR_CANCELLED,   /* the caller's GCancellable fired: exit 130 */
    STASIS_ERROR_UNSAVED,     /* would lose what no image has, and was not forced to: exit 6 */
    STASIS_ERROR_REFUSED,     /* a boundary of processes can't be taken as asked for: exit 4 */
    STASIS_ERROR_KEY,         /* a key of a sealed store is missing, or can't be used: exit 14 */
    STASIS_ERROR_OUTRUN, /* the guest wrote more than there was memory for; it runs on: exit 7 */
} StasisErrorCode;

#define STASIS_ERROR (stasis_error_quark())

STASIS_API GQuark stasis_error_quark(void);

/* The process exit code for @error (never 0); NULL counts as "failed". */
STASIS_API int stasis_error_exit_code(const GError *error);

/* A stable lower-case name for @error ("budget", "corrupt", …), for --json. Static string. */
STASIS_API const char *stasis_error_name(const GError *error);
/* The code of that name; STASIS_ERROR_FAILED for one that is not known, and NULL. */
STASIS_API StasisErrorCode stasis_error_from_name(const char *name);
/* The code that a command with that exit status has failed by; STASIS_ERROR_FAILED for any other.
 */
STASIS_API StasisErrorCode stasis_error_from_exit_code(int exit_code);

G_END_DECLS

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What works on this host, what is missing, and what to do about it. */
#pragma once

#include <glib.h>
#include <stasis/macros.h>

G_BEGIN_DECLS

typedef enum {
    STASIS_CHECK_OK,
    STASIS_CHECK_LIMITED, /* works, with a cost or a restriction */
    STASIS_CHECK_MISSING, /* something does not work until this is fixed */
} StasisCheckStatus;

typedef struct {
    char *name; /* "kernel", "kvm", "qemu", "userfaultfd", "privileges", "store" … */
    StasisCheckStatus status;
    char *found;  /* one line: what is there */
    char *advice; /* one line: what to do, or NULL when OK */
} StasisCheck;

STASIS_API void stasis_check_free(StasisCheck *check);

/* Probe this host; changes nothing on it. Element type: StasisCheck. Never fails as a whole. */
STASIS_API GPtrArray *stasis_doctor(const char *store_path);

G_END_DECLS

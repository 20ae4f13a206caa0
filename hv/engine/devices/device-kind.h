/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a guest's driver may notice when its device alone goes back: one table, by kind. */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

typedef enum {
    STASIS_DEVICE_MAY,   /* drivers stand it, as a rule */
    STASIS_DEVICE_FORCE, /* the guest is likely to fail: on demand only */
    STASIS_DEVICE_NEVER, /* no device */
} StasisDeviceRisk;

typedef struct {
    const char *kind;
    const char *const *patterns; /* of g_pattern_match_simple(), on what is behind the last "/" */
    StasisDeviceRisk risk;
    const char *notice; /* what the driver may see, and what helps; no full stop */
} StasisDeviceKind;

/* Never NULL: the last kind is that of all others. */
const StasisDeviceKind *stasis_device_kind_of(const char *name);

G_END_DECLS

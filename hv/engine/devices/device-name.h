/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Devices by the names that people type: QEMU's own, "0000:00:03.0/e1000"; or what is behind its
 * last "/", where that is one device's only; with "#N" behind it instance N, "cpu#1".
 */
#pragma once

#include "device/vmstate.h"

G_BEGIN_DECLS

/* The one section of @vmstate that @text means; STASIS_ERROR_NOT_FOUND when there is none,
 * STASIS_ERROR_USAGE, with the names, when there are several. @where: whose devices they are, for
 * the message. */
const StasisVmstateSection *stasis_device_find(StasisVmstate *vmstate, const char *text,
                                               const char *where, GError **error);

G_END_DECLS

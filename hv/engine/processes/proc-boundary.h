/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stasis/process.h>

G_BEGIN_DECLS

/* The part boundary.json of an image of processes (docs/format.md): who is in it, and why. */
GBytes *stasis_proc_boundary_to_json(const StasisGuestBoundary *boundary);

G_END_DECLS

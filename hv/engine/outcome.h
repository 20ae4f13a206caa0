/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stasis/ci.h>

G_BEGIN_DECLS

/* Fill in its name from its kind and number. */
void stasis_outcome_name(StasisOutcome *outcome);

G_END_DECLS

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stasis/ci.h>

G_BEGIN_DECLS

#define STASIS_N_OUTCOMES (STASIS_OUTCOME_SURVIVED + 1)

/* How a test came out that was ended by such a StasisFailure. */
StasisOutcomeKind stasis_outcome_kind(const char *failure);
/* Fill in its name from its kind and number. */
void stasis_outcome_name(StasisOutcome *outcome);

G_END_DECLS

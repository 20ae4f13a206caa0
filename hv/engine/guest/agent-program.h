/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The agent as it is put into guests. */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* Paths of all that is put there: the program, its unit and stasis-session. NULL with @error where
 * they are not all there. Free with g_strfreev(). */
char **stasis_agent_program_files(GError **error);

G_END_DECLS

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who belongs together, and why: boundary.json of an image of processes (docs/format.md), as the
 * page draws it. */
#pragma once

#include <json-glib/json-glib.h>

G_BEGIN_DECLS

#define STASIS_WEB_MAX_BOUNDARY (16u << 20)
/* More than that is no picture. */
#define STASIS_WEB_MAX_MEMBERS 400u
#define STASIS_WEB_MAX_EDGES 2000u

/*
 * {"members": [{"pid", "command", "via"}], "edges": [{"a", "b", "relation", "class", "place",
 * "object", "witness", "talked"}], "n_members", "n_edges"} of @len bytes, which a guest said:
 * untrusted. The numbers tell how many there were; what is beyond the limits is left out. "b" is
 * null for an end that is no process. STASIS_ERROR_CORRUPT.
 */
JsonObject *stasis_web_graph_parse(const char *text, gssize len, GError **error);

G_END_DECLS

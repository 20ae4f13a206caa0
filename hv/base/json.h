/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * JSON from untrusted sources: every access checks that the member is there and of the right
 * type, and names it if not (json-glib's own getters warn on the terminal instead). Errors are
 * STASIS_ERROR_CORRUPT "<what>: …" with the member's name.
 */
#pragma once

#include <json-glib/json-glib.h>

G_BEGIN_DECLS

/* Parse @len bytes; the top level must be an object, nested at most 32 deep. */
JsonObject *stasis_json_parse_object(const char *text, gssize len, GError **error);
/* At most 128 deep: of QEMU, which nests the files that a disk lies in, one in the other. */
JsonObject *stasis_json_parse_deep(const char *text, gssize len, GError **error);

/* Required members. Strings and objects stay owned by @object. */
gboolean stasis_json_string(JsonObject *object, const char *name, const char **ret, GError **error);
gboolean stasis_json_uint(JsonObject *object, const char *name, guint64 *ret, GError **error);
gboolean stasis_json_bool(JsonObject *object, const char *name, gboolean *ret, GError **error);
gboolean stasis_json_object(JsonObject *object, const char *name, JsonObject **ret, GError **error);
gboolean stasis_json_array(JsonObject *object, const char *name, JsonArray **ret, GError **error);
/* Element @i of @array, which must be an object or a string. */
gboolean stasis_json_object_at(JsonArray *array, guint i, JsonObject **ret, GError **error);
gboolean stasis_json_string_at(JsonArray *array, guint i, const char **ret, GError **error);
/* A required list of at most @max strings. Free with g_strfreev(). */
char **stasis_json_strings(JsonObject *object, const char *name, guint max, GError **error);

/* Optional members: the default when absent, null or of another type. */
const char *stasis_json_string_or(JsonObject *object, const char *name, const char *fallback);
guint64 stasis_json_uint_or(JsonObject *object, const char *name, guint64 fallback);
gboolean stasis_json_bool_or(JsonObject *object, const char *name, gboolean fallback);

/* One line, or indented for people when @pretty; without a final newline. Takes no ownership. */
char *stasis_json_to_text(JsonObject *object, gboolean pretty);

/* Members of ours. JSON of json-glib holds signed 64-bit integers: more becomes the most of those.
 * A text is made UTF-8, since it may come from a command line, QEMU or a guest; NULL is "". A list
 * that is NULL is left out. */
void stasis_json_set_uint(JsonObject *object, const char *name, guint64 value);
void stasis_json_set_string(JsonObject *object, const char *name, const char *value);
void stasis_json_set_strings(JsonObject *object, const char *name, const char *const *values);

G_END_DECLS

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/json.h"

#include <stasis/error.h>
#include <string.h>

#define MAX_DEPTH 32u
#define MAX_DEEP 128u

/* Digits after a minus sign that a gint64 surely holds; json-glib lets larger ones wrap around. */
#define MAX_NEGATIVE_DIGITS 18

/* json-glib's parser recurses, and takes more than JSON (comments, 'strings', hexadecimal):
 * whatever is not JSON's own is refused, and brackets are counted, before it may. */
static gboolean is_acceptable(const char *text, gsize len, guint max_depth)
{
    static const char allowed[] = " \t\r\n{}[],:\"+-.0123456789eEtrufalsn";
    guint depth = 0;
    for (gsize i = 0; i < len; i++) {
        if (text[i] == '\0' || strchr(allowed, text[i]) == NULL)
            return FALSE;
        if (text[i] == '"') {
            for (i++; i < len && text[i] != '"'; i++)
                i += text[i] == '\\';
        } else if (text[i] == '{' || text[i] == '[') {
            if (++depth > max_depth)
                return FALSE;
        } else if ((text[i] == '}' || text[i] == ']') && depth > 0) {
            depth--;
        } else if (text[i] == '-') {
            gsize digits = 0;
            while (i + 1 + digits < len && g_ascii_isdigit(text[i + 1 + digits]))
                digits++;
            if (digits > MAX_NEGATIVE_DIGITS)
                return FALSE;
        }
    }
    return TRUE;
}

static JsonObject *parse_object(const char *text, gssize len, guint max_depth, GError **error)
{
    gsize n = len < 0 ? strlen(text) : (gsize)len;
    if (!g_utf8_validate(text, (gssize)n, NULL) || !is_acceptable(text, n, max_depth)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                    "JSON: not UTF-8, not JSON, or nested more than %u deep", max_depth);
        return NULL;
    }
    g_autoptr(JsonParser) parser = json_parser_new_immutable();
    g_autoptr(GError) local = NULL;
    if (!json_parser_load_from_data(parser, text, (gssize)n, &local)) {
        /* One line, whatever the parser quotes. */
        g_strdelimit(local->message, "\n\r", ' ');
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "JSON: %s", local->message);
        return NULL;
    }
    JsonNode *root = json_parser_get_root(parser);
    if (root == NULL || !JSON_NODE_HOLDS_OBJECT(root)) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "JSON: not an object");
        return NULL;
    }
    return json_object_ref(json_node_get_object(root));
}

JsonObject *stasis_json_parse_object(const char *text, gssize len, GError **error)
{
    return parse_object(text, len, MAX_DEPTH, error);
}

JsonObject *stasis_json_parse_deep(const char *text, gssize len, GError **error)
{
    return parse_object(text, len, MAX_DEEP, error);
}

static gboolean wrong(GError **error, const char *name, const char *wanted)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "JSON: member \"%s\" is no %s", name,
                wanted);
    return FALSE;
}

static gboolean holds_value(JsonNode *node, GType type)
{
    return node != NULL && JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == type;
}

/* json-glib takes "\222" for a byte, so that valid JSON can yield invalid UTF-8. */
static gboolean holds_text(JsonNode *node)
{
    return holds_value(node, G_TYPE_STRING) &&
           g_utf8_validate(json_node_get_string(node), -1, NULL);
}

gboolean stasis_json_string(JsonObject *object, const char *name, const char **ret, GError **error)
{
    JsonNode *node = json_object_get_member(object, name);
    if (!holds_text(node))
        return wrong(error, name, "string");
    *ret = json_node_get_string(node);
    return TRUE;
}

gboolean stasis_json_uint(JsonObject *object, const char *name, guint64 *ret, GError **error)
{
    JsonNode *node = json_object_get_member(object, name);
    if (!holds_value(node, G_TYPE_INT64) || json_node_get_int(node) < 0)
        return wrong(error, name, "non-negative integer");
    *ret = (guint64)json_node_get_int(node);
    return TRUE;
}

gboolean stasis_json_bool(JsonObject *object, const char *name, gboolean *ret, GError **error)
{
    JsonNode *node = json_object_get_member(object, name);
    if (!holds_value(node, G_TYPE_BOOLEAN))
        return wrong(error, name, "boolean");
    *ret = json_node_get_boolean(node);
    return TRUE;
}

gboolean stasis_json_object(JsonObject *object, const char *name, JsonObject **ret, GError **error)
{
    JsonNode *node = json_object_get_member(object, name);
    if (node == NULL || !JSON_NODE_HOLDS_OBJECT(node))
        return wrong(error, name, "object");
    *ret = json_node_get_object(node);
    return TRUE;
}

gboolean stasis_json_array(JsonObject *object, const char *name, JsonArray **ret, GError **error)
{
    JsonNode *node = json_object_get_member(object, name);
    if (node == NULL || !JSON_NODE_HOLDS_ARRAY(node))
        return wrong(error, name, "array");
    *ret = json_node_get_array(node);
    return TRUE;
}

gboolean stasis_json_object_at(JsonArray *array, guint i, JsonObject **ret, GError **error)
{
    JsonNode *node = i < json_array_get_length(array) ? json_array_get_element(array, i) : NULL;
    if (node == NULL || !JSON_NODE_HOLDS_OBJECT(node))
        return wrong(error, "element", "object");
    *ret = json_node_get_object(node);
    return TRUE;
}

gboolean stasis_json_string_at(JsonArray *array, guint i, const char **ret, GError **error)
{
    JsonNode *node = i < json_array_get_length(array) ? json_array_get_element(array, i) : NULL;
    if (!holds_text(node))
        return wrong(error, "element", "string");
    *ret = json_node_get_string(node);
    return TRUE;
}

char **stasis_json_strings(JsonObject *object, const char *name, guint max, GError **error)
{
    JsonArray *array;
    if (!stasis_json_array(object, name, &array, error))
        return NULL;
    guint n = json_array_get_length(array);
    if (n > max) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                    "JSON: member \"%s\" has %u elements, more than %u", name, n, max);
        return NULL;
    }
    g_auto(GStrv) strings = g_new0(char *, (gsize)n + 1);
    for (guint i = 0; i < n; i++) {
        const char *text;
        if (!stasis_json_string_at(array, i, &text, NULL)) {
            wrong(error, name, "list of strings");
            return NULL;
        }
        strings[i] = g_strdup(text);
    }
    return g_steal_pointer(&strings);
}

const char *stasis_json_string_or(JsonObject *object, const char *name, const char *fallback)
{
    const char *value = fallback;
    stasis_json_string(object, name, &value, NULL);
    return value;
}

guint64 stasis_json_uint_or(JsonObject *object, const char *name, guint64 fallback)
{
    guint64 value = fallback;
    stasis_json_uint(object, name, &value, NULL);
    return value;
}

gboolean stasis_json_bool_or(JsonObject *object, const char *name, gboolean fallback)
{
    gboolean value = fallback;
    stasis_json_bool(object, name, &value, NULL);
    return value;
}

char *stasis_json_to_text(JsonObject *object, gboolean pretty)
{
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
    json_node_set_object(node, object);
    return json_to_string(node, pretty);
}

void stasis_json_set_uint(JsonObject *object, const char *name, guint64 value)
{
    json_object_set_int_member(object, name, (gint64)MIN(value, (guint64)G_MAXINT64));
}

void stasis_json_set_string(JsonObject *object, const char *name, const char *value)
{
    g_autofree char *valid = g_utf8_make_valid(value != NULL ? value : "", -1);
    json_object_set_string_member(object, name, valid);
}

void stasis_json_set_strings(JsonObject *object, const char *name, const char *const *values)
{
    if (values == NULL)
        return;
    JsonArray *array = json_array_new();
    for (; *values != NULL; values++) {
        g_autofree char *valid = g_utf8_make_valid(*values, -1);
        json_array_add_string_element(array, valid);
    }
    json_object_set_array_member(object, name, array);
}

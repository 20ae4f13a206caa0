/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* bundle.json: written, and read from whoever made it. */
#include <stasis/error.h>
#include <string.h>

#include "base/json.h"
#include "engine/guards/bundle-internal.h"

#define ID_CHARS 26u
#define ID_DIGITS "0123456789abcdefghjkmnpqrstvwxyz"
#define SHA256_CHARS 64u
#define NO_SHA256 "0000000000000000000000000000000000000000000000000000000000000000"

static void image_free(gpointer data)
{
    StasisBundleImage *image = data;
    g_free(image->id);
    g_free(image);
}

static void member_free(gpointer data)
{
    StasisBundleMember *member = data;
    g_free(member->name);
    g_free(member->sha256);
    g_free(member->link);
    g_free(member);
}

StasisBundleInfo *stasis_bundle_info_new(void)
{
    StasisBundleInfo *info = g_new0(StasisBundleInfo, 1);
    info->format = STASIS_BUNDLE_FORMAT;
    info->images = g_ptr_array_new_with_free_func(image_free);
    info->members = g_ptr_array_new_with_free_func(member_free);
    return info;
}

void stasis_bundle_info_free(StasisBundleInfo *info)
{
    if (info == NULL)
        return;
    g_free(info->kind);
    g_free(info->detail);
    g_free(info->domain);
    g_free(info->by);
    g_free(info->name);
    g_strfreev(info->command);
    g_strfreev(info->on);
    g_free(info->stasis_version);
    g_free(info->qemu_version);
    g_free(info->kernel);
    g_free(info->machine);
    g_ptr_array_unref(info->images);
    g_ptr_array_unref(info->members);
    g_free(info);
}

StasisBundleMember *stasis_bundle_member_new(const char *name, guint64 size_bytes, const char *link)
{
    StasisBundleMember *member = g_new0(StasisBundleMember, 1);
    member->name = g_strdup(name);
    member->size_bytes = link == NULL ? size_bytes : 0;
    member->link = g_strdup(link);
    return member;
}

gboolean stasis_bundle_corrupt(GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *message = g_strdup_vprintf(format, args);
    va_end(args);
    g_autofree char *printable = g_utf8_make_valid(message, -1);
    for (char *c = printable; *c != '\0'; c++)
        if (g_ascii_iscntrl(*c))
            *c = '?';
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, printable);
    return FALSE;
}

static gboolean is_id(const char *text, gsize n)
{
    return n == ID_CHARS && strspn(text, ID_DIGITS) >= ID_CHARS && text[0] <= '7';
}

gboolean stasis_bundle_split_name(const char *name, char ret_id[27], const char **ret_file)
{
    if (!g_str_has_prefix(name, STASIS_BUNDLE_IMAGES))
        return FALSE;
    const char *id = name + strlen(STASIS_BUNDLE_IMAGES), *slash = strchr(id, '/');
    if (slash == NULL || !is_id(id, (gsize)(slash - id)) || slash[1] == '\0' ||
        strchr(slash + 1, '/') != NULL)
        return FALSE;
    memcpy(ret_id, id, ID_CHARS);
    ret_id[ID_CHARS] = '\0';
    *ret_file = slash + 1;
    return TRUE;
}

/* ---- writing ---- */

static void set_text(JsonObject *object, const char *name, const char *text)
{
    if (text != NULL)
        stasis_json_set_string(object, name, text);
    else
        json_object_set_null_member(object, name);
}

static JsonObject *reason_to_json(const StasisBundleInfo *info)
{
    JsonObject *reason = json_object_new();
    set_text(reason, "kind", info->kind);
    set_text(reason, "detail", info->detail);
    json_object_set_int_member(reason, "at_us", info->at_us);
    stasis_json_set_strings(reason, "on", (const char *const *)info->on);
    return reason;
}

static JsonArray *images_to_json(const GPtrArray *images)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < images->len; i++) {
        const StasisBundleImage *image = images->pdata[i];
        JsonObject *object = json_object_new();
        json_object_set_string_member(object, "id", image->id);
        json_object_set_int_member(object, "created_us", image->created_us);
        json_array_add_object_element(array, object);
    }
    return array;
}

static JsonArray *members_to_json(const GPtrArray *members)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < members->len; i++) {
        const StasisBundleMember *member = members->pdata[i];
        JsonObject *object = json_object_new();
        json_object_set_string_member(object, "name", member->name);
        if (member->link != NULL) {
            json_object_set_string_member(object, "link", member->link);
        } else {
            stasis_json_set_uint(object, "size", member->size_bytes);
            json_object_set_string_member(object, "sha256",
                                          member->sha256 != NULL ? member->sha256 : NO_SHA256);
        }
        json_array_add_object_element(array, object);
    }
    return array;
}

static JsonObject *versions_to_json(const StasisBundleInfo *info)
{
    JsonObject *versions = json_object_new();
    set_text(versions, "stasis", info->stasis_version);
    set_text(versions, "qemu", info->qemu_version);
    set_text(versions, "kernel", info->kernel);
    return versions;
}

char *stasis_bundle_info_to_json(const StasisBundleInfo *info)
{
    g_autoptr(JsonObject) object = json_object_new();
    stasis_json_set_uint(object, "format", info->format);
    json_object_set_int_member(object, "created_us", info->created_us);
    json_object_set_object_member(object, "reason", reason_to_json(info));
    set_text(object, "domain", info->domain);
    if (info->by != NULL && info->name != NULL) {
        stasis_json_set_string(object, "by", info->by);
        stasis_json_set_string(object, "name", info->name);
    }
    stasis_json_set_strings(object, "command", (const char *const *)info->command);
    if (info->command == NULL)
        json_object_set_null_member(object, "command");
    json_object_set_object_member(object, "versions", versions_to_json(info));
    g_autoptr(JsonObject) machine =
        info->machine != NULL ? stasis_json_parse_object(info->machine, -1, NULL) : NULL;
    if (machine != NULL)
        json_object_set_object_member(object, "machine", g_steal_pointer(&machine));
    else
        json_object_set_null_member(object, "machine");
    json_object_set_array_member(object, "images", images_to_json(info->images));
    json_object_set_array_member(object, "members", members_to_json(info->members));
    g_autofree char *text = stasis_json_to_text(object, TRUE);
    return g_strconcat(text, "\n", NULL);
}

/* ---- reading ---- */

/* None, or null: *ret stays as it is. */
static gboolean parse_list(JsonObject *object, const char *name, char ***ret, GError **error)
{
    if (!json_object_has_member(object, name) || json_object_get_null_member(object, name))
        return TRUE;
    *ret = stasis_json_strings(object, name, /* max= */ G_MAXUINT, error);
    return *ret != NULL;
}

static gboolean parse_images(JsonObject *object, StasisBundleInfo *info, GError **error)
{
    JsonArray *array;
    if (!stasis_json_array(object, "images", &array, error))
        return FALSE;
    guint n = json_array_get_length(array);
    if (n > STASIS_BUNDLE_MAX_IMAGES)
        return stasis_bundle_corrupt(error, "it has %u images, more than %u", n,
                                     STASIS_BUNDLE_MAX_IMAGES);
    for (guint i = 0; i < n; i++) {
        JsonObject *item;
        const char *id;
        guint64 created_us;
        if (!stasis_json_object_at(array, i, &item, error) ||
            !stasis_json_string(item, "id", &id, error) ||
            !stasis_json_uint(item, "created_us", &created_us, error))
            return FALSE;
        if (!is_id(id, strlen(id)))
            return stasis_bundle_corrupt(error, "\"%.40s\" is no image's ID", id);
        StasisBundleImage *image = g_new0(StasisBundleImage, 1);
        image->id = g_strdup(id);
        image->created_us = (gint64)created_us;
        g_ptr_array_add(info->images, image);
    }
    return TRUE;
}

static gboolean is_sha256(const char *text)
{
    return strlen(text) == SHA256_CHARS && strspn(text, "0123456789abcdef") == SHA256_CHARS;
}

/* @seen: name → member, of those before. */
static gboolean parse_member(JsonObject *item, StasisBundleInfo *info, GHashTable *seen,
                             GError **error)
{
    const char *name, *link = stasis_json_string_or(item, "link", NULL), *sha256 = NULL;
    guint64 size = 0;
    if (!stasis_json_string(item, "name", &name, error))
        return FALSE;
    if (link == NULL && (!stasis_json_uint(item, "size", &size, error) ||
                         !stasis_json_string(item, "sha256", &sha256, error)))
        return FALSE;
    char id[27];
    const char *file;
    if (!stasis_tar_name_is_valid(name) || strcmp(name, STASIS_BUNDLE_HEAD) == 0 ||
        g_hash_table_contains(seen, name) ||
        (g_str_has_prefix(name, STASIS_BUNDLE_STORE) &&
         strcmp(name, STASIS_BUNDLE_STORE_FILE) != 0 && !stasis_bundle_split_name(name, id, &file)))
        return stasis_bundle_corrupt(error, "it lists a member \"%.100s\", or two of that name",
                                     name);
    if (sha256 != NULL && !is_sha256(sha256))
        return stasis_bundle_corrupt(error, "\"%.70s\" is no SHA-256", sha256);
    const StasisBundleMember *to = link != NULL ? g_hash_table_lookup(seen, link) : NULL;
    if (link != NULL && (to == NULL || to->link != NULL))
        return stasis_bundle_corrupt(error,
                                     "%.100s is a link to \"%.100s\", which is no file "
                                     "before it",
                                     name, link);
    StasisBundleMember *member = stasis_bundle_member_new(name, size, link);
    member->sha256 = g_strdup(sha256);
    g_ptr_array_add(info->members, member);
    g_hash_table_insert(seen, member->name, member);
    return TRUE;
}

static gboolean parse_members(JsonObject *object, StasisBundleInfo *info, GError **error)
{
    JsonArray *array;
    if (!stasis_json_array(object, "members", &array, error))
        return FALSE;
    guint n = json_array_get_length(array);
    if (n > STASIS_BUNDLE_MAX_MEMBERS)
        return stasis_bundle_corrupt(error, "it has %u members, more than %u", n,
                                     STASIS_BUNDLE_MAX_MEMBERS);
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; i < n; i++) {
        JsonObject *item;
        if (!stasis_json_object_at(array, i, &item, error) ||
            !parse_member(item, info, seen, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean parse_words(JsonObject *object, StasisBundleInfo *info, GError **error)
{
    JsonObject *reason, *versions;
    if (!stasis_json_object(object, "reason", &reason, error) ||
        !stasis_json_object(object, "versions", &versions, error) ||
        !parse_list(reason, "on", &info->on, error))
        return FALSE;
    info->created_us = (gint64)stasis_json_uint_or(object, "created_us", 0);
    info->kind = g_strdup(stasis_json_string_or(reason, "kind", NULL));
    info->detail = g_strdup(stasis_json_string_or(reason, "detail", NULL));
    info->at_us = (gint64)stasis_json_uint_or(reason, "at_us", 0);
    info->domain = g_strdup(stasis_json_string_or(object, "domain", NULL));
    info->by = g_strdup(stasis_json_string_or(object, "by", NULL));
    info->name = g_strdup(stasis_json_string_or(object, "name", NULL));
    info->stasis_version = g_strdup(stasis_json_string_or(versions, "stasis", NULL));
    info->qemu_version = g_strdup(stasis_json_string_or(versions, "qemu", NULL));
    info->kernel = g_strdup(stasis_json_string_or(versions, "kernel", NULL));
    JsonNode *machine = json_object_get_member(object, "machine");
    if (machine != NULL && JSON_NODE_HOLDS_OBJECT(machine))
        info->machine = stasis_json_to_text(json_node_get_object(machine), FALSE);
    return TRUE;
}

StasisBundleInfo *stasis_bundle_info_parse(const char *text, gsize len, GError **error)
{
    g_autoptr(JsonObject) object = stasis_json_parse_object(text, (gssize)len, error);
    g_autoptr(StasisBundleInfo) info = stasis_bundle_info_new();
    guint64 format;
    if (object == NULL || !stasis_json_uint(object, "format", &format, error))
        return NULL;
    if (format != STASIS_BUNDLE_FORMAT) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "it is of format %" G_GUINT64_FORMAT "; this program knows %u only", format,
                    STASIS_BUNDLE_FORMAT);
        return NULL;
    }
    gboolean ok = parse_words(object, info, error) &&
                  parse_list(object, "command", &info->command, error) &&
                  parse_images(object, info, error) && parse_members(object, info, error);
    return ok ? g_steal_pointer(&info) : NULL;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ListImages. A large store takes time to read, and the daemon's one thread is everybody's: so the
 * command reads it, in a process of its own, and says what it says to people. Images have no owner:
 * who may not read sees those that jobs of his have taken, as long as these are known.
 */
#include <stasis/error.h>
#include <string.h>

#include "base/json.h"
#include "daemon/bus-internal.h"

/* Of others than masters, at a time: one each, and in all. */
#define MAX_LISTINGS 4u
#define MAX_SECONDS 60u
/* A bus closes the connection of who sends more than 32 MiB (dbus-daemon's max_message_size), and
 * D-Bus has other paddings than ours. */
#define MAX_REPLY_BYTES (16u << 20)
/* It is parsed by the daemon's one thread. */
#define MAX_TEXT_BYTES (4u * MAX_REPLY_BYTES)

typedef struct {
    StasisdBus *bus;
    StasisdPeer *peer;
    GDBusMethodInvocation *invocation; /* borrowed until it is answered */
    GHashTable *own;                   /* IDs that alone are to be told, or NULL: all */
    GSubprocess *process;
    GCancellable *late;
    guint timer;
} Listing;

static void listing_free(Listing *listing)
{
    if (!stasisd_peer_is_master(listing->peer))
        g_hash_table_remove(listing->bus->listing_for, GUINT_TO_POINTER(listing->peer->uid));
    stasisd_peer_unref(listing->peer);
    g_clear_pointer(&listing->own, g_hash_table_unref);
    g_clear_handle_id(&listing->timer, g_source_remove);
    g_clear_object(&listing->process);
    g_clear_object(&listing->late);
    g_free(listing);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Listing, listing_free)

/* ---- whose they are ---- */

/* What came of a job that takes an image: its ID is that, or that of the one taken before. */
static void add_own(GHashTable *own, const StasisdJob *job)
{
    g_autoptr(JsonObject) result =
        job->result != NULL ? stasis_json_parse_object(job->result, -1, NULL) : NULL;
    const char *id = NULL;
    if (result != NULL &&
        (strcmp(job->kind, "checkpoint") == 0 || strcmp(job->kind, "policy") == 0))
        id = stasis_json_string_or(result, "id", NULL);
    else if (result != NULL && strcmp(job->kind, "rollback") == 0)
        id = stasis_json_string_or(result, "safety_id", NULL);
    if (id != NULL)
        g_hash_table_add(own, g_strdup(id));
}

/* NULL: he may see all. */
static GHashTable *find_own(const StasisdBus *bus, const StasisdPeer *peer)
{
    if (peer->may_read || stasisd_peer_is_master(peer))
        return NULL;
    GHashTable *own = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    const GPtrArray *jobs = stasisd_jobs_all(stasisd_service_jobs(bus->service));
    for (guint i = 0; i < jobs->len; i++) {
        const StasisdJob *job = jobs->pdata[i];
        if (job->owner == peer->uid)
            add_own(own, job);
    }
    return own;
}

/* ---- the answer ---- */

/* D-Bus has no null: what is not known is not there. */
static void drop_nulls(JsonNode *node)
{
    if (JSON_NODE_HOLDS_ARRAY(node)) {
        g_autoptr(GList) elements = json_array_get_elements(json_node_get_array(node));
        for (GList *one = elements; one != NULL; one = one->next)
            drop_nulls(one->data);
    } else if (JSON_NODE_HOLDS_OBJECT(node)) {
        JsonObject *object = json_node_get_object(node);
        g_autoptr(GList) names = json_object_get_members(object);
        for (GList *name = names; name != NULL; name = name->next) {
            JsonNode *member = json_object_get_member(object, name->data);
            if (JSON_NODE_HOLDS_NULL(member))
                json_object_remove_member(object, name->data);
            else
                drop_nulls(member);
        }
    }
}

static void set_too_many(GError **error)
{
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                        "there are more images than fit into a message: ask for one VM's");
}

static GVariant *to_reply(JsonArray *images, GHashTable *own, GError **error)
{
    GVariantBuilder all;
    g_variant_builder_init(&all, G_VARIANT_TYPE("aa{sv}"));
    for (guint i = 0; i < json_array_get_length(images); i++) {
        JsonNode *node = json_array_get_element(images, i);
        if (!JSON_NODE_HOLDS_OBJECT(node))
            continue;
        drop_nulls(node);
        JsonObject *image = json_node_get_object(node);
        if (own == NULL || g_hash_table_contains(own, stasis_json_string_or(image, "id", "")))
            g_variant_builder_add_value(&all, stasisd_to_variant(json_object_ref(image)));
    }
    g_autoptr(GVariant) reply = g_variant_ref_sink(g_variant_new("(aa{sv})", &all));
    if (g_variant_get_size(reply) <= MAX_REPLY_BYTES)
        return g_steal_pointer(&reply);
    set_too_many(error);
    return NULL;
}

/* The envelope of --json. */
static GVariant *read_envelope(const char *text, GHashTable *own, GError **error)
{
    g_autoptr(JsonObject) envelope = stasis_json_parse_object(text, -1, error);
    JsonObject *failure;
    JsonArray *images;
    if (envelope == NULL)
        return NULL;
    if (stasis_json_object(envelope, "error", &failure, NULL)) {
        g_set_error_literal(error, STASIS_ERROR,
                            stasis_error_from_name(stasis_json_string_or(failure, "code", "")),
                            stasis_json_string_or(failure, "message", ""));
        return NULL;
    }
    return stasis_json_array(envelope, "result", &images, error) ? to_reply(images, own, error)
                                                                 : NULL;
}

/* A store may hang (NFS), and its reader with it, whatever it is told. */
static gboolean on_late(gpointer data)
{
    Listing *listing = data;
    listing->timer = 0;
    g_subprocess_force_exit(listing->process);
    g_cancellable_cancel(listing->late);
    return G_SOURCE_REMOVE;
}

static gboolean too_much(const char *text, GError **error)
{
    if (strnlen(text, MAX_TEXT_BYTES + 1) <= MAX_TEXT_BYTES)
        return FALSE;
    set_too_many(error);
    return TRUE;
}

static void on_listed(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autoptr(Listing) listing = data;
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    g_autoptr(GVariant) reply = NULL;
    if (g_subprocess_communicate_utf8_finish(G_SUBPROCESS(source), result, &text, NULL, &error) &&
        !too_much(text, &error))
        reply = read_envelope(text, listing->own, &error);
    if (g_cancellable_is_cancelled(listing->late)) {
        g_clear_error(&error);
        g_clear_pointer(&reply, g_variant_unref);
        g_set_error(&error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "the store could not be read within %u s", MAX_SECONDS);
    }
    if (reply != NULL)
        g_dbus_method_invocation_return_value(listing->invocation, reply);
    else
        stasisd_bus_return_error(listing->invocation, error);
}

gboolean stasisd_bus_list_images(StasisdBus *bus, StasisdPeer *peer, const char *vm,
                                 GDBusMethodInvocation *invocation, GError **error)
{
    g_autoptr(GHashTable) own = find_own(bus, peer);
    gboolean master = stasisd_peer_is_master(peer);
    if (own != NULL && g_hash_table_size(own) == 0) {
        g_dbus_method_invocation_return_value(invocation, g_variant_new_parsed("(@aa{sv} [],)"));
        return TRUE;
    }
    if (!master && (g_hash_table_size(bus->listing_for) >= MAX_LISTINGS ||
                    g_hash_table_contains(bus->listing_for, GUINT_TO_POINTER(peer->uid)))) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                            "images are being listed already; try again");
        return FALSE;
    }
    g_autofree char *option = g_strconcat("--vm=", vm, NULL);
    const char *const argv[] = { stasisd_jobs_program(stasisd_service_jobs(bus->service)),
                                 "checkpoint-list", "--json", *vm != '\0' ? option : NULL, NULL };
    g_autoptr(GSubprocess) process = g_subprocess_newv(
        argv, G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_SILENCE, error);
    if (process == NULL)
        return FALSE;
    Listing *listing = g_new0(Listing, 1);
    *listing = (Listing){ .bus = bus,
                          .peer = stasisd_peer_ref(peer),
                          .invocation = invocation,
                          .own = g_steal_pointer(&own),
                          .process = g_object_ref(process),
                          .late = g_cancellable_new(),
                          .timer = g_timeout_add_seconds(MAX_SECONDS, on_late, listing) };
    if (!master)
        g_hash_table_add(bus->listing_for, GUINT_TO_POINTER(peer->uid));
    g_subprocess_communicate_utf8_async(process, NULL, listing->late, on_listed, listing);
    return TRUE;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What libvirt prints is a shell command, with the environment first:
 *
 *     LC_ALL=C … /usr/bin/qemu-system-x86_64 -name guest=vm,… -S -object '{"qom-type":"secret",…'
 *
 * It is meant to be read by people: it names files and descriptors that only a libvirtd that starts
 * this domain makes.
 */
#include "vmm/domain-native.h"

#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "vmm/cmdline.h"
#include "vmm/domain.h"
#include "vmm/libvirt-call.h"
#include "vmm/libvirt-load.h"

#define TIMEOUT_US (60 * G_USEC_PER_SEC)
#define LIBVIRT_SOCKETS "/var/lib/libvirt/qemu/"

/* ---- interfaces ---- */

/* The kinds of a domain's interfaces, in order: libvirt's netdev "hostnetN" is number N. */
typedef struct {
    guint depth;
    gboolean in_devices;
    GPtrArray *types;
} Interfaces;

static void on_element(GMarkupParseContext *context, const char *name, const char **keys,
                       const char **values, gpointer user_data, GError **error)
{
    Interfaces *seen = user_data;
    if (seen->depth++ == 1)
        seen->in_devices = strcmp(name, "devices") == 0;
    if (seen->depth != 3 || !seen->in_devices || strcmp(name, "interface") != 0)
        return;
    const char *type = "";
    for (guint i = 0; keys[i] != NULL; i++)
        if (strcmp(keys[i], "type") == 0)
            type = values[i];
    g_ptr_array_add(seen->types, g_strdup(type));
}

static void on_end(GMarkupParseContext *context, const char *name, gpointer user_data,
                   GError **error)
{
    ((Interfaces *)user_data)->depth--;
}

static GPtrArray *interface_types(const char *xml, GError **error)
{
    static const GMarkupParser parser = { .start_element = on_element, .end_element = on_end };
    g_autoptr(GPtrArray) types = g_ptr_array_new_with_free_func(g_free);
    Interfaces seen = { .types = types };
    g_autoptr(GMarkupParseContext) context = g_markup_parse_context_new(&parser, 0, &seen, NULL);
    g_autoptr(GError) local = NULL;
    if (g_markup_parse_context_parse(context, xml, -1, &local) &&
        g_markup_parse_context_end_parse(context, &local))
        return g_steal_pointer(&types);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "domain XML: %s", local->message);
    return NULL;
}

/* ---- options ---- */

static gboolean has(const StasisOption *option, const char *name, const char *key,
                    const char *implied, const char *value)
{
    if (!stasis_option_is(option, name) || option->value == NULL)
        return FALSE;
    g_autofree char *found = stasis_optlist_get(option->value, key, implied);
    return g_strcmp0(found, value) == 0;
}

/* Of libvirtd's own. */
static gboolean is_libvirtds(const StasisOption *option)
{
    return has(option, "mon", "chardev", "chardev", "charmonitor") ||
           has(option, "chardev", "id", NULL, "charmonitor") ||
           has(option, "object", "id", NULL, "masterKey0") || stasis_option_is(option, "S") ||
           stasis_option_is(option, "sandbox");
}

/* A socket where only a libvirtd makes the directory: a port with nothing behind it instead. */
static void free_socket(StasisOption *option)
{
    if (!stasis_option_is(option, "chardev") || option->value == NULL)
        return;
    g_autofree char *path = stasis_optlist_get(option->value, "path", NULL);
    g_autofree char *id = stasis_optlist_get(option->value, "id", NULL);
    if (path == NULL || id == NULL || !g_str_has_prefix(path, LIBVIRT_SOCKETS))
        return;
    g_autofree char *escaped = stasis_optlist_escape(id);
    g_free(option->value);
    option->value = g_strdup_printf("null,id=%s", escaped);
}

/* libvirt makes a tap of each interface here, and has no descriptor for it. The kind is to stay:
 * "user" has state of its own in the saved stream, and a tap carries the guest's offloads. */
static void unplug(StasisOption *option, const GPtrArray *types)
{
    if (!stasis_option_is(option, "netdev") || option->value == NULL)
        return;
    g_autofree char *id = stasis_optlist_get(option->value, "id", NULL);
    guint64 n;
    if (id == NULL || !g_str_has_prefix(id, "hostnet") ||
        !g_ascii_string_to_unsigned(id + strlen("hostnet"), 10, 0, G_MAXUINT, &n, NULL))
        return;
    gboolean user = n < types->len && strcmp(g_ptr_array_index(types, n), "user") == 0;
    g_free(option->value);
    option->value =
        g_strdup_printf(user ? "user,id=%s,restrict=on" : "tap,id=%s,script=no,downscript=no", id);
}

/* Another VM may have the display's port by then. */
static void free_display(StasisOption *option)
{
    if (!stasis_option_is(option, "vnc") || option->value == NULL ||
        strstr(option->value, ",to=") != NULL || strchr(option->value, ':') == NULL)
        return;
    g_autofree char *old = option->value;
    option->value = g_strconcat(old, ",to=99", NULL);
}

/* The words of the command, without the environment in front; NULL when there are none. */
static char **split(const char *native, GError **error)
{
    g_auto(GStrv) words = NULL;
    g_autofree char *line = g_strdup(native);
    g_strdelimit(g_strstrip(line), "\n", ' ');
    if (!g_shell_parse_argv(line, NULL, &words, error))
        return NULL;
    guint first = 0;
    while (words[first] != NULL && words[first][0] != '/')
        first++;
    if (words[first] != NULL)
        return g_strdupv(words + first);
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                        "libvirt's command line for the domain names no emulator");
    return NULL;
}

static char **edit(const char *native, const char *xml, GError **error)
{
    g_autoptr(GPtrArray) types = interface_types(xml, error);
    g_auto(GStrv) argv = types != NULL ? split(native, error) : NULL;
    if (argv == NULL)
        return NULL;
    g_autoptr(GPtrArray) options = stasis_cmdline_parse((const char *const *)argv);
    for (guint i = options->len; i-- > 0;) {
        StasisOption *option = g_ptr_array_index(options, i);
        if (is_libvirtds(option)) {
            g_ptr_array_remove_index(options, i);
            continue;
        }
        free_socket(option);
        unplug(option, types);
        free_display(option);
    }
    return stasis_cmdline_to_argv(argv[0], options);
}

/* ---- libvirt ---- */

/* call->text: the URI, a NUL, the XML. */
static int convert(StasisLibvirtCall *call)
{
    call->connection = stasis_virt->virConnectOpen(call->text);
    if (call->connection == NULL)
        return -1;
    const char *xml = call->text + strlen(call->text) + 1;
    call->result = stasis_virt->virConnectDomainXMLToNative(call->connection, "qemu-argv", xml, 0);
    return call->result != NULL ? 0 : -1;
}

char **stasis_domain_native_argv(const char *uri, const char *xml, GError **error)
{
    if (!stasis_domain_check_uri(uri, error) || !stasis_libvirt_init(error))
        return NULL;
    g_autoptr(StasisLibvirtCall) call = stasis_libvirt_call_new(convert, NULL, NULL);
    gsize uri_len = strlen(uri) + 1;
    call->text = g_malloc(uri_len + strlen(xml) + 1);
    memcpy(call->text, uri, uri_len);
    memcpy(call->text + uri_len, xml, strlen(xml) + 1);
    StasisCallEnd end = stasis_libvirt_call_run(call, stasis_now_us() + TIMEOUT_US);
    if (end == STASIS_CALL_OK)
        return edit(call->result, xml, error);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "%s does not say how QEMU is started for the domain: %s; give the command line "
                "behind \"--\" instead",
                uri, end == STASIS_CALL_FAILED ? call->message : "no answer in time");
    return NULL;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading QEMU's command line.
 *
 * What must be known of each option is only whether an argument follows it. Few options have none,
 * so those are listed, from the tables of QEMU 4 to 10 (qemu-options.hx); everything else that
 * begins with a dash takes one. A name that is missing here would swallow the option after it.
 */
#include "vmm/cmdline.h"

#include <math.h>
#include <string.h>

#include "base/json.h"

/* Sorted. */
static const char *const without_argument[] = {
    "S",
    "alt-grab",
    "async-teardown",
    "audio-help",
    "ctrl-grab",
    "curses",
    "daemonize",
    "enable-fips",
    "enable-hax",
    "enable-kvm",
    "enable-sync-profile",
    "full-screen",
    "h",
    "help",
    "jitdump",
    "mem-prealloc",
    "no-acpi",
    "no-fd-bootchk",
    "no-frame",
    "no-hpet",
    "no-kvm",
    "no-kvm-irqchip",
    "no-kvm-pit",
    "no-quit",
    "no-reboot",
    "no-shutdown",
    "no-user-config",
    "nodefaults",
    "nodefconfig",
    "nographic",
    "old-param",
    "only-migratable",
    "perfmap",
    "portrait",
    "preconfig",
    "s",
    "sdl",
    "semihosting",
    "singlestep",
    "snapshot",
    "usb",
    "version",
    "win2k-hack",
    "xen-attach",
    "xen-domid-restrict",
};

gboolean stasis_option_takes_argument(const char *name)
{
    for (gsize i = 0; i < G_N_ELEMENTS(without_argument); i++)
        if (strcmp(without_argument[i], name) == 0)
            return FALSE;
    return TRUE;
}

StasisOption *stasis_option_new(const char *name, const char *value)
{
    StasisOption *option = g_new0(StasisOption, 1);
    option->name = g_strdup(name);
    option->value = g_strdup(value);
    return option;
}

static void option_free(StasisOption *option)
{
    if (option == NULL)
        return;
    g_free(option->name);
    g_free(option->value);
    g_free(option);
}

gboolean stasis_option_is(const StasisOption *option, const char *name)
{
    return g_strcmp0(option->name, name) == 0;
}

GPtrArray *stasis_cmdline_parse(const char *const *argv)
{
    GPtrArray *options = g_ptr_array_new_with_free_func((GDestroyNotify)option_free);
    for (guint i = 1; argv[0] != NULL && argv[i] != NULL; i++) {
        const char *arg = argv[i];
        if (arg[0] != '-') {
            g_ptr_array_add(options, stasis_option_new(NULL, arg));
            continue;
        }
        const char *name = arg + (arg[1] == '-' ? 2 : 1);
        const char *value = NULL;
        if (stasis_option_takes_argument(name) && argv[i + 1] != NULL)
            value = argv[++i];
        g_ptr_array_add(options, stasis_option_new(name, value));
    }
    return options;
}

char **stasis_cmdline_to_argv(const char *program, const GPtrArray *options)
{
    GPtrArray *argv = g_ptr_array_new();
    g_ptr_array_add(argv, g_strdup(program));
    for (guint i = 0; i < options->len; i++) {
        const StasisOption *option = g_ptr_array_index(options, i);
        /* "---x" is option "-x" for QEMU, which has none, and "--x" is x. */
        if (option->name != NULL)
            g_ptr_array_add(argv,
                            g_strconcat(option->name[0] == '-' ? "--" : "-", option->name, NULL));
        if (option->value != NULL)
            g_ptr_array_add(argv, g_strdup(option->value));
    }
    g_ptr_array_add(argv, NULL);
    return (char **)g_ptr_array_free(argv, FALSE);
}

/* Take the next element of an option list: everything up to a single comma, ",," turned into one.
 * Advances @at; NULL at the end. */
static char *next_element(const char **at)
{
    if (**at == '\0')
        return NULL;
    GString *element = g_string_new(NULL);
    for (const char *p = *at;; p++) {
        if (*p == ',' && p[1] == ',') {
            p++;
        } else if (*p == ',' || *p == '\0') {
            *at = *p == ',' ? p + 1 : p;
            return g_string_free(element, FALSE);
        }
        g_string_append_c(element, *p);
    }
}

static char *json_value(const char *text, const char *key)
{
    g_autoptr(JsonObject) object = stasis_json_parse_object(text, -1, NULL);
    JsonNode *node = object != NULL ? json_object_get_member(object, key) : NULL;
    if (node == NULL || !JSON_NODE_HOLDS_VALUE(node))
        return NULL;
    if (json_node_get_value_type(node) == G_TYPE_BOOLEAN)
        return g_strdup(json_node_get_boolean(node) ? "on" : "off");
    if (json_node_get_value_type(node) == G_TYPE_STRING)
        return json_node_dup_string(node);
    return json_to_string(node, FALSE);
}

char *stasis_optlist_get(const char *list, const char *key, const char *implied_key)
{
    if (list[0] == '{')
        return json_value(list, key);
    char *found = NULL;
    const char *at = list;
    for (gboolean first = TRUE;; first = FALSE) {
        g_autofree char *element = next_element(&at);
        if (element == NULL)
            return found;
        char *equals = strchr(element, '=');
        const char *name = element, *value = "on";
        if (equals != NULL) {
            *equals = '\0';
            value = equals + 1;
        } else if (first && implied_key != NULL) {
            name = implied_key;
            value = element;
        }
        if (strcmp(name, key) == 0) {
            g_free(found);
            found = g_strdup(value);
        }
    }
}

char *stasis_optlist_escape(const char *text)
{
    GString *escaped = g_string_new(text);
    g_string_replace(escaped, ",", ",,", 0);
    return g_string_free(escaped, FALSE);
}

static gboolean suffix_shift(const char *suffix, guint default_shift, guint *ret)
{
    static const char letters[] = "BKMGTPE";
    if (suffix[0] == '\0') {
        *ret = default_shift;
        return TRUE;
    }
    const char *found = strchr(letters, g_ascii_toupper(suffix[0]));
    if (found == NULL || suffix[1] != '\0')
        return FALSE;
    *ret = 10 * (guint)(found - letters);
    return TRUE;
}

gboolean stasis_size_parse(const char *text, guint default_shift, guint64 *ret)
{
    char *end = NULL;
    guint shift;
    gboolean hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    if (!g_ascii_isdigit(text[0]))
        return FALSE;
    if (!hex && strpbrk(text, ".") != NULL) {
        double number = g_ascii_strtod(text, &end);
        if (!suffix_shift(end, default_shift, &shift) || number >= ldexp(1, 63 - (int)shift))
            return FALSE;
        *ret = (guint64)(number * ldexp(1, (int)shift));
        return TRUE;
    }
    guint64 number = g_ascii_strtoull(text, &end, hex ? 16 : 10);
    if (!suffix_shift(end, default_shift, &shift) || number > (guint64)G_MAXINT64 >> shift)
        return FALSE;
    *ret = number << shift;
    return TRUE;
}

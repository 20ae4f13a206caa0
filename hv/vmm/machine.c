/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The machine description: read from a running QEMU, written to and read from machine.json.
 *
 * The command line is the description: stock QEMU makes the same machine from the same line and the
 * same versioned machine type, and that is all it promises. machine.json comes with an image and
 * is not to be trusted, so every member is checked and bounded. Its command line will be run, so it
 * must name a QEMU; beyond that, restoring someone's image is running someone's QEMU options, and
 * is as safe as those are.
 */
#include "vmm/machine.h"

#include <stasis/error.h>
#include <string.h>

#include "base/json.h"
#include "vmm/registry.h"

#define MAX_JSON_BYTES (16u << 20)
#define MAX_ARGS 4096
#define MAX_ARG_BYTES (128u << 10) /* MAX_ARG_STRLEN, <linux/binfmts.h> */
#define MAX_VCPUS 8192
#define MAX_RANGES 65536
#define MAX_BLOCK_NAME 255 /* RAMBlock idstr */

void stasis_machine_free(StasisMachine *machine)
{
    if (machine == NULL)
        return;
    g_free(machine->name);
    g_strfreev(machine->argv);
    g_free(machine->cwd);
    g_free(machine->machine);
    g_free(machine->accel);
    g_free(machine->qemu_version);
    g_clear_pointer(&machine->layout, g_ptr_array_unref);
    g_free(machine);
}

/* ---- from a running QEMU ---- */

/* Where /proc/PID/@what leads, without the mark of a file that was replaced meanwhile. */
static char *read_link(pid_t pid, const char *what, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/%s", (int)pid, what);
    g_autofree char *target = g_file_read_link(path, error);
    if (target == NULL) {
        g_prefix_error(error, "QEMU (process %d): ", (int)pid);
        return NULL;
    }
    if (g_str_has_suffix(target, " (deleted)"))
        target[strlen(target) - strlen(" (deleted)")] = '\0';
    return g_steal_pointer(&target);
}

static char **read_argv(pid_t pid, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/cmdline", (int)pid);
    g_autofree char *text = NULL;
    gsize len;
    if (!g_file_get_contents(path, &text, &len, error))
        return NULL;
    g_autofree char *exe = read_link(pid, "exe", error);
    if (exe == NULL)
        return NULL;
    g_autoptr(GPtrArray) argv = g_ptr_array_new_with_free_func(g_free);
    for (const char *at = text; at < text + len; at += strlen(at) + 1)
        g_ptr_array_add(argv, g_strdup(argv->len == 0 ? exe : at));
    if (argv->len == 0 || argv->len > MAX_ARGS) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "%s: %u arguments; this is no QEMU's command line", path, argv->len);
        return NULL;
    }
    for (guint i = 0; i < argv->len; i++) {
        if (g_utf8_validate(g_ptr_array_index(argv, i), -1, NULL))
            continue;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "%s: argument %u is not UTF-8; rename that file", path, i);
        return NULL;
    }
    g_ptr_array_add(argv, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&argv), FALSE);
}

/* "pc-q35-7.2" of the running machine, also when it was started as "q35". */
static char *query_machine(StasisQmp *qmp, GError **error)
{
    g_autoptr(JsonObject) arguments = json_object_new();
    json_object_set_string_member(arguments, "path", "/machine");
    json_object_set_string_member(arguments, "property", "type");
    g_autoptr(JsonNode) node = stasis_qmp_execute(qmp, "qom-get", arguments, -1, 0, error);
    if (node == NULL)
        return NULL;
    if (!JSON_NODE_HOLDS_VALUE(node) || json_node_get_value_type(node) != G_TYPE_STRING) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "qom-get /machine type: no string");
        return NULL;
    }
    g_autofree char *type = json_node_dup_string(node);
    if (g_str_has_suffix(type, "-machine"))
        type[strlen(type) - strlen("-machine")] = '\0';
    return g_steal_pointer(&type);
}

static char *query_accel(StasisQmp *qmp, GError **error)
{
    gboolean enabled;
    g_autoptr(JsonNode) node = stasis_qmp_execute(qmp, "query-kvm", NULL, -1, 0, error);
    if (node == NULL)
        return NULL;
    JsonObject *kvm = JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
    if (kvm == NULL || !stasis_json_bool(kvm, "enabled", &enabled, NULL)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "query-kvm: no \"enabled\"");
        return NULL;
    }
    return g_strdup(enabled ? "kvm" : "tcg");
}

static gboolean query_vcpus(StasisQmp *qmp, guint *ret, GError **error)
{
    g_autoptr(JsonNode) node = stasis_qmp_execute(qmp, "query-cpus-fast", NULL, -1, 0, error);
    if (node == NULL)
        return FALSE;
    if (!JSON_NODE_HOLDS_ARRAY(node)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "query-cpus-fast: no array");
        return FALSE;
    }
    *ret = json_array_get_length(json_node_get_array(node));
    return TRUE;
}

StasisMachine *stasis_machine_from_running(const char *name, StasisQmp *qmp, pid_t pid,
                                           const StasisRam *ram, GError **error)
{
    g_autoptr(StasisMachine) machine = g_new0(StasisMachine, 1);
    machine->name = g_strdup(name);
    machine->qemu_version = g_strdup(stasis_qmp_get_version(qmp));
    machine->argv = read_argv(pid, error);
    if (machine->argv == NULL)
        return NULL;
    machine->cwd = read_link(pid, "cwd", error);
    if (machine->cwd == NULL)
        return NULL;
    machine->machine = query_machine(qmp, error);
    if (machine->machine == NULL)
        return NULL;
    machine->accel = query_accel(qmp, error);
    if (machine->accel == NULL || !query_vcpus(qmp, &machine->n_vcpus, error))
        return NULL;
    if (ram != NULL) {
        machine->layout = stasis_gpa_layout(qmp, ram, error);
        if (machine->layout == NULL)
            return NULL;
    }
    return g_steal_pointer(&machine);
}

/* ---- to JSON ---- */

static JsonArray *layout_to_json(const GPtrArray *layout)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < layout->len; i++) {
        const StasisGpaRange *range = g_ptr_array_index(layout, i);
        JsonObject *o = json_object_new();
        json_object_set_int_member(o, "gpa", (gint64)range->gpa);
        json_object_set_int_member(o, "size_bytes", (gint64)range->size_bytes);
        json_object_set_string_member(o, "block", range->block);
        json_object_set_int_member(o, "offset", (gint64)range->offset);
        json_object_set_boolean_member(o, "rom", range->rom);
        json_array_add_object_element(array, o);
    }
    return array;
}

GBytes *stasis_machine_to_json(const StasisMachine *machine)
{
    g_autoptr(JsonObject) o = json_object_new();
    json_object_set_string_member(o, "name", machine->name);
    stasis_json_set_strings(o, "argv", (const char *const *)machine->argv);
    json_object_set_string_member(o, "cwd", machine->cwd);
    json_object_set_string_member(o, "machine", machine->machine);
    json_object_set_string_member(o, "accel", machine->accel);
    json_object_set_string_member(o, "qemu_version", machine->qemu_version);
    json_object_set_int_member(o, "n_vcpus", machine->n_vcpus);
    if (machine->layout != NULL)
        json_object_set_array_member(o, "layout", layout_to_json(machine->layout));
    g_autofree char *text = stasis_json_to_text(o, TRUE);
    gsize len = strlen(text);
    return g_bytes_new_take(g_steal_pointer(&text), len);
}

/* ---- from JSON ---- */

static gboolean G_GNUC_PRINTF(2, 3) corrupt(GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *what = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "machine.json: %s", what);
    return FALSE;
}

/* argv[0] is an absolute path to something that calls itself a QEMU. */
static gboolean is_emulator(const char *path)
{
    g_autofree char *base = g_path_get_basename(path);
    return path[0] == '/' && (strstr(base, "qemu") != NULL || strcmp(base, "kvm") == 0);
}

/* json-glib checks the file to be UTF-8, but "\\222" in it becomes a bare byte. */
static gboolean is_text(const char *text, gsize max_bytes)
{
    return strlen(text) <= max_bytes && g_utf8_validate(text, -1, NULL);
}

static char **read_json_argv(JsonObject *o, GError **error)
{
    g_auto(GStrv) argv = stasis_json_strings(o, "argv", MAX_ARGS, error);
    if (argv == NULL) {
        g_prefix_error(error, "machine.json: ");
        return NULL;
    }
    for (guint i = 0; argv[i] != NULL; i++) {
        if (!is_text(argv[i], MAX_ARG_BYTES - 1)) {
            corrupt(error, "argv[%u] is too long or not UTF-8", i);
            return NULL;
        }
    }
    if (argv[0] == NULL) {
        corrupt(error, "argv is empty");
        return NULL;
    }
    if (!is_emulator(argv[0])) {
        corrupt(error, "argv[0] \"%.80s\" is no absolute path of a QEMU", argv[0]);
        return NULL;
    }
    return g_steal_pointer(&argv);
}

static gboolean read_range(JsonObject *o, StasisGpaRange *range, GError **error)
{
    const char *block;
    if (!stasis_json_uint(o, "gpa", &range->gpa, error) ||
        !stasis_json_uint(o, "size_bytes", &range->size_bytes, error) ||
        !stasis_json_string(o, "block", &block, error) ||
        !stasis_json_uint(o, "offset", &range->offset, error) ||
        !stasis_json_bool(o, "rom", &range->rom, error)) {
        g_prefix_error(error, "machine.json: layout: ");
        return FALSE;
    }
    if (block[0] == '\0' || !is_text(block, MAX_BLOCK_NAME) || range->size_bytes == 0)
        return corrupt(error, "layout: a range without size or block");
    /* Each is at most 2^63 - 1, so the sums don't wrap. */
    if (range->gpa + range->size_bytes > G_MAXINT64 ||
        range->offset + range->size_bytes > G_MAXINT64)
        return corrupt(error, "layout: a range beyond the address space");
    range->block = g_strdup(block);
    return TRUE;
}

static GPtrArray *read_json_layout(JsonArray *array, GError **error)
{
    g_autoptr(GPtrArray) layout =
        g_ptr_array_new_with_free_func((GDestroyNotify)stasis_gpa_range_free);
    guint n = json_array_get_length(array);
    guint64 end = 0;
    if (n > MAX_RANGES) {
        corrupt(error, "layout has %u ranges", n);
        return NULL;
    }
    for (guint i = 0; i < n; i++) {
        JsonObject *o;
        StasisGpaRange *range = g_new0(StasisGpaRange, 1);
        g_ptr_array_add(layout, range);
        if (!stasis_json_object_at(array, i, &o, error) || !read_range(o, range, error))
            return NULL;
        if (range->gpa < end) {
            corrupt(error, "layout: ranges overlap or are not in order");
            return NULL;
        }
        end = range->gpa + range->size_bytes;
    }
    return g_steal_pointer(&layout);
}

/* A short word such as a version: it is shown to people, so no control characters. */
static gboolean is_word(const char *text)
{
    static const char allowed[] = G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "._+-";
    gsize len = strlen(text);
    return len >= 1 && len <= 64 && strspn(text, allowed) == len;
}

static gboolean read_words(StasisMachine *machine, JsonObject *o, GError **error)
{
    const char *name, *cwd, *type, *accel, *version;
    guint64 n_vcpus;
    if (!stasis_json_string(o, "name", &name, error) ||
        !stasis_json_string(o, "cwd", &cwd, error) ||
        !stasis_json_string(o, "machine", &type, error) ||
        !stasis_json_string(o, "accel", &accel, error) ||
        !stasis_json_string(o, "qemu_version", &version, error) ||
        !stasis_json_uint(o, "n_vcpus", &n_vcpus, error)) {
        g_prefix_error(error, "machine.json: ");
        return FALSE;
    }
    g_autoptr(GError) local = NULL;
    if (!stasis_vm_name_check(name, &local))
        return corrupt(error, "%s", local->message);
    if (cwd[0] != '/' || !is_text(cwd, 4095))
        return corrupt(error, "cwd is no absolute path");
    if (!is_word(type) || !is_word(version))
        return corrupt(error, "machine or qemu_version is no plain word");
    if (strcmp(accel, "kvm") != 0 && strcmp(accel, "tcg") != 0)
        return corrupt(error, "accel is neither kvm nor tcg");
    if (n_vcpus > MAX_VCPUS)
        return corrupt(error, "n_vcpus is out of range");
    machine->name = g_strdup(name);
    machine->cwd = g_strdup(cwd);
    machine->machine = g_strdup(type);
    machine->accel = g_strdup(accel);
    machine->qemu_version = g_strdup(version);
    machine->n_vcpus = (guint)n_vcpus;
    return TRUE;
}

StasisMachine *stasis_machine_from_json(GBytes *json, GError **error)
{
    gsize len;
    const char *text = g_bytes_get_data(json, &len);
    if (text == NULL || len > MAX_JSON_BYTES) {
        corrupt(error, "%zu bytes", len);
        return NULL;
    }
    g_autoptr(JsonObject) o = stasis_json_parse_object(text, (gssize)len, error);
    g_autoptr(StasisMachine) machine = g_new0(StasisMachine, 1);
    if (o == NULL) {
        g_prefix_error(error, "machine.json: ");
        return NULL;
    }
    machine->argv = read_json_argv(o, error);
    if (machine->argv == NULL || !read_words(machine, o, error))
        return NULL;
    if (!json_object_has_member(o, "layout"))
        return g_steal_pointer(&machine);
    JsonArray *array;
    if (!stasis_json_array(o, "layout", &array, error)) {
        g_prefix_error(error, "machine.json: ");
        return NULL;
    }
    machine->layout = read_json_layout(array, error);
    return machine->layout != NULL ? g_steal_pointer(&machine) : NULL;
}

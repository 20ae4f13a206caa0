/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What makes a machine's memory impossible to follow.
 *
 * A device that writes guest memory from outside QEMU's and KVM's page tables leaves no trace in
 * any dirty log: VFIO and vDPA (the hardware does it), vhost-user (another process does).
 * Encrypted memory can't be read at all. Kernel vhost writes through QEMU's own address space and
 * is fine. All that is asked over QMP needs no privilege; QEMU's descriptors, which show a device
 * opened by something unknown to this table, are looked at where we may.
 *
 * A PCI device whose driver in the guest is suspended while memory is copied writes nothing: such
 * ones are let through when they are named. What QEMU calls non-migratable is not: its
 * xen-save-devices-state saves that device all the same, and 7.2 ends by it (a NULL of nvme.c).
 */
#include <stasis/error.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "vmm/pci.h"
#include "vmm/ram.h"

#define MAX_CHILDREN 65536

static const char why_hardware[] =
    "its hardware writes guest memory by itself, which can't be tracked";
static const char why_process[] = "another process writes guest memory, which can't be tracked";
static const char why_pinned[] =
    "the kernel writes guest memory for it past the page tables, which can't be tracked";
static const char why_encrypted[] = "guest memory is encrypted and can't be read";

/* QOM types, by how they begin. */
static const struct {
    const char *prefix;
    const char *why;
} bad_types[] = {
    { "vfio-", why_hardware },
    { "vhost-vdpa", why_hardware },
    { "vhost-user", why_process },
    { "cryptodev-vhost-user", why_process },
    { "vhost-scsi", why_pinned },
    { "x-vfio-user-server", why_process },
    { "memory-backend-epc", why_encrypted },
};

/* What QEMU has open, by how the link in /proc/PID/fd begins. */
static const struct {
    const char *prefix;
    const char *why;
} bad_links[] = {
    { "/dev/vfio/", why_hardware },       { "anon_inode:[vfio", why_hardware },
    { "/dev/iommu", why_hardware },       { "/dev/vhost-vdpa", why_hardware },
    { "/dev/sev", why_encrypted },        { "/dev/sgx_vepc", why_encrypted },
    { "anon_inode:[tdx", why_encrypted },
};

typedef struct {
    StasisQmp *qmp;
    const GPtrArray *suspended; /* of StasisPciDevice, or NULL */
    gboolean passed;            /* one of them was let through */
} Check;

static gboolean refuse(const char *what, const char *name, const char *why, GError **error)
{
    g_autofree char *shown = g_strescape(name, NULL);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "%s %.200s: %s; remove it from the machine to take checkpoints%s", what, shown, why,
                why == why_encrypted ? ""
                                     : ", or have the guest suspend it (checkpoint-create "
                                       "--guest-suspend)");
    return FALSE;
}

static gboolean is_suspended(Check *check, const char *qom_path)
{
    for (guint i = 0; check->suspended != NULL && i < check->suspended->len; i++) {
        const StasisPciDevice *device = check->suspended->pdata[i];
        if (strcmp(device->qom_path, qom_path) != 0)
            continue;
        check->passed = TRUE;
        return TRUE;
    }
    return FALSE;
}

/* The children and properties of the QOM object at @path; NULL with an error. */
static JsonNode *qom_list(StasisQmp *qmp, const char *path, JsonArray **ret_items, GError **error)
{
    g_autoptr(JsonObject) arguments = json_object_new();
    json_object_set_string_member(arguments, "path", path);
    g_autoptr(JsonNode) node = stasis_qmp_execute(qmp, "qom-list", arguments, -1, 0, error);
    if (node == NULL)
        return NULL;
    if (!JSON_NODE_HOLDS_ARRAY(node) ||
        json_array_get_length(json_node_get_array(node)) > MAX_CHILDREN) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "qom-list %s: not a list", path);
        return NULL;
    }
    *ret_items = json_node_get_array(node);
    return g_steal_pointer(&node);
}

/* "vfio-pci" of "child<vfio-pci>", or NULL for what is no child. Free with g_free(). */
static char *child_type(const char *type)
{
    if (!g_str_has_prefix(type, "child<") || !g_str_has_suffix(type, ">"))
        return NULL;
    return g_strndup(type + strlen("child<"), strlen(type) - strlen("child<>"));
}

static gboolean check_children(Check *check, const char *path, GError **error)
{
    JsonArray *items;
    g_autoptr(JsonNode) node = qom_list(check->qmp, path, &items, error);
    if (node == NULL)
        return FALSE;
    for (guint i = 0; i < json_array_get_length(items); i++) {
        JsonObject *item;
        const char *name, *type;
        if (!stasis_json_object_at(items, i, &item, error) ||
            !stasis_json_string(item, "name", &name, error) ||
            !stasis_json_string(item, "type", &type, error))
            return FALSE;
        g_autofree char *child = child_type(type);
        for (guint t = 0; child != NULL && t < G_N_ELEMENTS(bad_types); t++) {
            if (!g_str_has_prefix(child, bad_types[t].prefix))
                continue;
            g_autofree char *full = g_strdup_printf("%s/%s", path, name);
            if (is_suspended(check, full))
                continue;
            g_autofree char *what = g_strdup_printf("%s (%.80s)", name, child);
            g_autofree char *where = g_strdup_printf("%s/%s", path, what);
            return refuse("device", where, bad_types[t].why, error);
        }
    }
    return TRUE;
}

static gboolean has_property(JsonArray *items, const char *wanted)
{
    for (guint i = 0; i < json_array_get_length(items); i++) {
        JsonObject *item;
        if (stasis_json_object_at(items, i, &item, NULL) &&
            strcmp(stasis_json_string_or(item, "name", ""), wanted) == 0)
            return TRUE;
    }
    return FALSE;
}

/* Encryption is a property of the machine: a link to the object that does it, or a name. */
static gboolean check_encryption(StasisQmp *qmp, GError **error)
{
    static const char *const properties[] = { "confidential-guest-support", "memory-encryption" };
    JsonArray *items;
    g_autoptr(JsonNode) node = qom_list(qmp, "/machine", &items, error);
    if (node == NULL)
        return FALSE;
    for (guint i = 0; i < G_N_ELEMENTS(properties); i++) {
        if (!has_property(items, properties[i]))
            continue;
        g_autoptr(JsonObject) arguments = json_object_new();
        json_object_set_string_member(arguments, "path", "/machine");
        json_object_set_string_member(arguments, "property", properties[i]);
        g_autoptr(JsonNode) value = stasis_qmp_execute(qmp, "qom-get", arguments, -1, 0, error);
        if (value == NULL)
            return FALSE;
        const char *text = JSON_NODE_HOLDS_VALUE(value) ? json_node_get_string(value) : NULL;
        if (text != NULL && *text != '\0')
            return refuse("memory encryption", text, why_encrypted, error);
    }
    return TRUE;
}

/* Is @netdev that of a device that is suspended? */
static gboolean is_suspended_network(Check *check, const char *netdev)
{
    for (guint i = 0; check->suspended != NULL && i < check->suspended->len; i++) {
        const StasisPciDevice *device = check->suspended->pdata[i];
        g_autoptr(JsonObject) arguments = json_object_new();
        json_object_set_string_member(arguments, "path", device->qom_path);
        json_object_set_string_member(arguments, "property", "netdev");
        g_autoptr(JsonNode) value =
            stasis_qmp_execute(check->qmp, "qom-get", arguments, -1, 0, NULL);
        if (value != NULL && JSON_NODE_HOLDS_VALUE(value) &&
            g_strcmp0(json_node_get_string(value), netdev) == 0) {
            check->passed = TRUE;
            return TRUE;
        }
    }
    return FALSE;
}

/* Network back ends are no QOM objects; `info network` lists them: "id: index=0,type=TYPE,…". */
static gboolean check_network(Check *check, GError **error)
{
    g_autofree char *text = stasis_qmp_human(check->qmp, "info network", error);
    if (text == NULL)
        return FALSE;
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line != NULL; line++) {
        char *at = strstr(*line, ": index=");
        if (at == NULL)
            continue;
        const char *type = at + strlen(": index=");
        type += strspn(type, "-0123456789");
        gboolean user = g_str_has_prefix(type, ",type=vhost-user,");
        if (!user && !g_str_has_prefix(type, ",type=vhost-vdpa,"))
            continue;
        *at = '\0';
        const char *id = *line + strspn(*line, " \\");
        if (is_suspended_network(check, id))
            continue;
        g_autofree char *what = g_strdup_printf("%s (%s)", id, user ? "vhost-user" : "vhost-vdpa");
        return refuse("network back end", what, user ? why_process : why_hardware, error);
    }
    return TRUE;
}

/* QEMU's descriptors. Where we may not look, QMP's word stands alone. */
static gboolean check_descriptors(const Check *check, pid_t pid, GError **error)
{
    g_autofree char *dir_path = g_strdup_printf("/proc/%d/fd", (int)pid);
    g_autoptr(GDir) dir = g_dir_open(dir_path, 0, NULL);
    if (dir == NULL)
        return TRUE;
    for (const char *name = g_dir_read_name(dir); name != NULL; name = g_dir_read_name(dir)) {
        g_autofree char *path = g_build_filename(dir_path, name, NULL);
        char link[256];
        ssize_t n = readlink(path, link, sizeof link - 1);
        link[MAX(n, 0)] = '\0';
        for (guint i = 0; i < G_N_ELEMENTS(bad_links); i++) {
            /* All devices have been looked at: those that have these open are suspended. */
            gboolean passed = check->passed && bad_links[i].why == why_hardware;
            if (!passed && g_str_has_prefix(link, bad_links[i].prefix))
                return refuse("QEMU has open", link, bad_links[i].why, error);
        }
    }
    return TRUE;
}

/* A device that is suspended may say that it can't be migrated: VFIO and vhost do. */
static gboolean may_pass(const Check *check, const char *reason)
{
    static const char *const families[] = { "vfio", "vhost", "vdpa" };
    g_autofree char *low = g_ascii_strdown(reason, -1);
    for (guint i = 0; check->passed && i < G_N_ELEMENTS(families); i++)
        if (strstr(low, families[i]) != NULL)
            return !g_str_has_prefix(low, "non-migratable device");
    return FALSE;
}

/* Devices whose state QEMU can't save say so as blockers of migration. */
static gboolean check_blockers(const Check *check, GError **error)
{
    g_autoptr(JsonNode) answer =
        stasis_qmp_execute(check->qmp, "query-migrate", NULL, -1, 0, error);
    JsonArray *reasons = NULL;
    const char *reason;
    if (answer == NULL)
        return FALSE;
    if (!JSON_NODE_HOLDS_OBJECT(answer) ||
        !stasis_json_array(json_node_get_object(answer), "blocked-reasons", &reasons, NULL))
        return TRUE;
    for (guint i = 0; stasis_json_string_at(reasons, i, &reason, NULL); i++) {
        if (may_pass(check, reason))
            continue;
        g_autofree char *shown = g_strescape(reason, NULL);
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "QEMU can't save the state of this machine: %.300s", shown);
        return FALSE;
    }
    return TRUE;
}

gboolean stasis_vm_check_suspended(StasisQmp *qmp, pid_t pid, const GPtrArray *suspended,
                                   gboolean *ret_untracked, GError **error)
{
    static const char *const containers[] = {
        "/machine/peripheral",
        "/machine/peripheral-anon",
        "/machine/unattached",
        "/objects",
    };
    Check check = { qmp, suspended, FALSE };
    if (qmp != NULL) {
        for (guint i = 0; i < G_N_ELEMENTS(containers); i++) {
            if (!check_children(&check, containers[i], error))
                return FALSE;
        }
        if (!check_network(&check, error) || !check_encryption(qmp, error) ||
            !check_blockers(&check, error))
            return FALSE;
    }
    if (ret_untracked != NULL)
        *ret_untracked = check.passed;
    return pid <= 0 || check_descriptors(&check, pid, error);
}

gboolean stasis_vm_check_supported(StasisQmp *qmp, pid_t pid, GError **error)
{
    return stasis_vm_check_suspended(qmp, pid, NULL, NULL, error);
}

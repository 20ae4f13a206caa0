/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What of a command line belongs to the host, for a clone that runs beside its twins and maybe
 * beside the machine it comes from: each such thing is moved into the clone's own directory, cut
 * off, or refused by name where neither is safe.
 *
 *  - writable disks that are not in the image get a temporary overlay (snapshot=on); where there is
 *    none to be had (-blockdev), the clone is refused;
 *  - UNIX sockets that QEMU listens at, and files that it writes, move to the VM's directory;
 *  - TCP ports, pipes, host devices and outgoing connections are cut off: the guest's port stays,
 *    and nothing is at its other end;
 *  - monitors and debuggers of the old machine are dropped, displays go to sockets;
 *  - where QEMU is to be another user, it becomes that once all of this is open, in a sandbox.
 */
#include <stasis/error.h>
#include <string.h>

#include "vmm/cmdline-prepare.h"

typedef gboolean (*Handler)(StasisPrepare *p, StasisOption *option, GError **error);

static gboolean refuse(GError **error, const StasisOption *option, const char *why)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "can't clone: -%s %.200s: %s; restore can bring the image back as one VM",
                option->name, option->value != NULL ? option->value : "", why);
    return FALSE;
}

/* ---- what can't be cloned ---- */

static gboolean refuse_opaque(StasisPrepare *p, StasisOption *option, GError **error)
{
    return refuse(error, option, "it may name disks, networks and ports that clones can't share");
}

static gboolean refuse_tpm(StasisPrepare *p, StasisOption *option, GError **error)
{
    return refuse(error, option, "a TPM's state is not in the image");
}

static gboolean check_shared_directory(StasisPrepare *p, StasisOption *option, GError **error)
{
    g_autofree char *readonly = stasis_optlist_get(option->value, "readonly", "fsdriver");
    return g_strcmp0(readonly, "on") == 0 ||
           refuse(error, option, "clones would all write to that directory; make it readonly=on");
}

static gboolean check_device(StasisPrepare *p, StasisOption *option, GError **error)
{
    g_autofree char *driver = stasis_optlist_get(option->value, "driver", "driver");
    return driver == NULL || !g_str_has_prefix(driver, "vhost-vsock") ||
           refuse(error, option, "its context id can be one VM's only");
}

/* Memory in a file that others map is RAM of the image, and will be replaced, or it is a channel.
 */
static gboolean check_object(StasisPrepare *p, StasisOption *option, GError **error)
{
    g_autofree char *type = stasis_optlist_get(option->value, "qom-type", "qom-type");
    g_autofree char *id = stasis_optlist_get(option->value, "id", "qom-type");
    g_autofree char *share = stasis_optlist_get(option->value, "share", "qom-type");
    if (g_strcmp0(type, "memory-backend-file") != 0 || g_strcmp0(share, "on") != 0 ||
        (id != NULL && stasis_prepare_clone_block(p, id) != NULL))
        return TRUE;
    return refuse(error, option, "clones would share that memory with each other");
}

/* ---- disks ---- */

static gboolean is_read_only(const StasisOption *option)
{
    g_autofree char *readonly = stasis_optlist_get(option->value, "read-only", "driver");
    return g_strcmp0(readonly, "on") == 0;
}

/* Is it the layer below of such as only read? libvirt says so of the upper one alone. */
static gboolean is_below_read_only(const StasisPrepare *p, const StasisOption *option)
{
    g_autofree char *node = stasis_optlist_get(option->value, "node-name", "driver");
    guint n = 0;
    for (guint i = 0; node != NULL && i < p->options->len; i++) {
        const StasisOption *other = stasis_prepare_nth(p, i);
        if (other == option || !stasis_prepare_refers_to(other, node))
            continue;
        if (!stasis_option_is(other, "blockdev") || !is_read_only(other))
            return FALSE;
        n++;
    }
    return n > 0;
}

static gboolean check_blockdev(StasisPrepare *p, StasisOption *option, GError **error)
{
    g_autofree char *driver = stasis_optlist_get(option->value, "driver", "driver");
    return is_read_only(option) || is_below_read_only(p, option) ||
           g_strcmp0(driver, "null-co") == 0 || g_strcmp0(driver, "null-aio") == 0 ||
           stasis_prepare_has_own_disk(p, option) ||
           refuse(
               error, option,
               "clones would all write to it; take an image with its content (--disk copy), name "
               "the disk with -drive (a clone gets a temporary overlay) or make it read-only=on");
}

static gboolean overlay_drive(StasisPrepare *p, StasisOption *option, GError **error)
{
    static const char *const set[] = { "snapshot", "on", NULL };
    g_autofree char *media = stasis_optlist_get(option->value, "media", NULL);
    g_autofree char *readonly = stasis_optlist_get(option->value, "readonly", NULL);
    g_autofree char *also_readonly = stasis_optlist_get(option->value, "read-only", NULL);
    g_autofree char *driver = stasis_optlist_get(option->value, "driver", NULL);
    if (g_strcmp0(media, "cdrom") == 0 || g_strcmp0(readonly, "on") == 0 ||
        g_strcmp0(also_readonly, "on") == 0 ||
        (driver != NULL && g_str_has_prefix(driver, "null-")) ||
        stasis_prepare_has_own_disk(p, option))
        return TRUE;
    g_autofree char *value = stasis_optlist_edit(option->value, NULL, NULL, set);
    stasis_option_set(option, option->name, value);
    return TRUE;
}

static gboolean expand_drive(StasisOption *option)
{
    if (!stasis_prepare_expand_drive(option))
        return FALSE;
    static const char *const set[] = { "snapshot", "on", NULL };
    g_autofree char *value = stasis_optlist_edit(option->value, NULL, NULL, set);
    stasis_option_set(option, "drive", value);
    return TRUE;
}

/* ---- character devices ---- */

/* PATH of a file of the clone's own. Its name has the role and a number, to be short and unique. */
static char *own_path(const StasisPrepare *p, const char *role, guint number)
{
    g_autofree char *name = g_strdup_printf(STASIS_CLONE_FILE "%s-%u", role, number);
    return g_build_filename(p->wanted->runtime_dir, name, NULL);
}

static guint number_of(const StasisPrepare *p, const StasisOption *option)
{
    guint i = 0;
    g_ptr_array_find(p->options, option, &i);
    return i;
}

static char *cut_off(const StasisOption *option)
{
    g_autofree char *id = stasis_optlist_get(option->value, "id", "backend");
    g_autofree char *mux = stasis_optlist_get(option->value, "mux", "backend");
    const char *const set[] = { "id", id != NULL ? id : "", mux != NULL ? "mux" : NULL, mux, NULL };
    return stasis_optlist_edit("null", "backend", NULL, set);
}

static char *move_chardev(const StasisPrepare *p, const StasisOption *option, const char *role)
{
    static const char *const drop[] = { "logfile", "input-path", NULL };
    g_autofree char *path = own_path(p, role, number_of(p, option));
    const char *const set[] = { "path", path, NULL };
    return stasis_optlist_edit(option->value, "backend", drop, set);
}

static gboolean is_listening(const StasisOption *option)
{
    g_autofree char *server = stasis_optlist_get(option->value, "server", "backend");
    return server != NULL && strcmp(server, "off") != 0;
}

static gboolean own_chardev(StasisPrepare *p, StasisOption *option, GError **error)
{
    static const char *const harmless[] = { "null",    "vc",           "ringbuf",  "memory",
                                            "pty",     "stdio",        "mux",      "hub",
                                            "msmouse", "wctablet",     "spicevmc", "spiceport",
                                            "testdev", "qemu-vdagent", NULL };
    g_autofree char *backend = stasis_optlist_get(option->value, "backend", "backend");
    g_autofree char *path = stasis_optlist_get(option->value, "path", "backend");
    g_autofree char *value = NULL;
    gboolean ours = path != NULL && p->old_console != NULL && strcmp(path, p->old_console) == 0;
    if (backend == NULL || ours || g_strv_contains(harmless, backend))
        return TRUE;
    if (strcmp(backend, "file") == 0)
        value = move_chardev(p, option, "file");
    else if (strcmp(backend, "socket") == 0 && path != NULL && is_listening(option))
        value = move_chardev(p, option, "socket");
    else
        value = cut_off(option);
    stasis_option_set(option, option->name, value);
    return TRUE;
}

/* A short form that leads out of QEMU: file:, unix:, tcp:, a device node … */
static gboolean leads_out(const char *value)
{
    return value != NULL && !g_str_has_prefix(value, "chardev:") &&
           !g_str_has_prefix(value, "vc") && !g_str_has_prefix(value, "mon:stdio") &&
           (strchr(value, ':') != NULL || value[0] == '/');
}

/* A serial port's output goes to the console, as that of a terminal would. */
static gboolean own_serial(StasisPrepare *p, StasisOption *option, GError **error)
{
    if (leads_out(option->value))
        stasis_option_set(option, option->name, "stdio");
    return TRUE;
}

static gboolean own_port(StasisPrepare *p, StasisOption *option, GError **error)
{
    if (leads_out(option->value))
        stasis_option_set(option, option->name, "null");
    return TRUE;
}

static gboolean drop(StasisPrepare *p, StasisOption *option, GError **error)
{
    stasis_option_set(option, "", NULL); /* taken out below */
    return TRUE;
}

static gboolean no_monitor(StasisPrepare *p, StasisOption *option, GError **error)
{
    stasis_option_set(option, option->name, "none");
    return TRUE;
}

/* ---- displays ---- */

static gboolean own_vnc(StasisPrepare *p, StasisOption *option, GError **error)
{
    static const char *const drop_keys[] = { "to", "websocket", "reverse", NULL };
    g_autofree char *path = own_path(p, "vnc", number_of(p, option));
    g_autofree char *address = g_strconcat("unix:", path, NULL);
    const char *const set[] = { "vnc", address, NULL };
    g_autofree char *value = stasis_optlist_edit(option->value, "vnc", drop_keys, set);
    if (!g_str_has_prefix(option->value, "none"))
        stasis_option_set(option, option->name, value);
    return TRUE;
}

static gboolean own_spice(StasisPrepare *p, StasisOption *option, GError **error)
{
    static const char *const drop_keys[] = { "port", "tls-port", "ipv4", "ipv6", NULL };
    g_autofree char *path = own_path(p, "spice", number_of(p, option));
    const char *const set[] = { "unix", "on", "addr", path, NULL };
    g_autofree char *value = stasis_optlist_edit(option->value, NULL, drop_keys, set);
    stasis_option_set(option, option->name, value);
    return TRUE;
}

static gboolean own_display(StasisPrepare *p, StasisOption *option, GError **error)
{
    if (!g_str_has_prefix(option->value, "vnc"))
        return TRUE;
    stasis_option_set(option, "vnc", option->value);
    return own_vnc(p, option, error);
}

/* ---- all of it ---- */

static const struct {
    const char *name;
    Handler handler;
    gboolean takes_value;
} handlers[] = {
    { "readconfig", refuse_opaque, TRUE },
    { "set", refuse_opaque, TRUE },
    { "tpmdev", refuse_tpm, TRUE },
    { "fsdev", check_shared_directory, TRUE },
    { "virtfs", check_shared_directory, TRUE },
    { "device", check_device, TRUE },
    { "object", check_object, TRUE },
    { "blockdev", check_blockdev, TRUE },
    { "drive", overlay_drive, TRUE },
    { "chardev", own_chardev, TRUE },
    { "serial", own_serial, TRUE },
    { "parallel", own_port, TRUE },
    { "debugcon", own_port, TRUE },
    { "monitor", no_monitor, TRUE },
    { "qmp", drop, TRUE },
    { "qmp-pretty", drop, TRUE },
    { "gdb", drop, TRUE },
    { "s", drop, FALSE },
    { "D", drop, TRUE },
    { "mem-path", drop, TRUE },
    { "mem-prealloc", drop, FALSE },
    { "vnc", own_vnc, TRUE },
    { "spice", own_spice, TRUE },
    { "display", own_display, TRUE },
};

static gboolean handle(StasisPrepare *p, StasisOption *option, GError **error)
{
    if (option->value != NULL && expand_drive(option))
        return TRUE;
    for (gsize i = 0; i < G_N_ELEMENTS(handlers); i++)
        if (stasis_option_is(option, handlers[i].name))
            return (handlers[i].takes_value && option->value == NULL) ||
                   handlers[i].handler(p, option, error);
    return TRUE;
}

/* Privileges can't be given up where the sandbox forbids that, so that rule is left out; once QEMU
 * is nobody special there are none to be gained by the calls that it forbids. */
static void add_user(StasisPrepare *p)
{
    if (p->wanted->clone->user == NULL)
        return;
    stasis_prepare_add(p, "runas", p->wanted->clone->user);
    stasis_prepare_add(p, "sandbox", "on,obsolete=deny,spawn=deny,resourcecontrol=deny");
}

gboolean stasis_prepare_clone_host(StasisPrepare *p, GError **error)
{
    if (p->wanted->clone == NULL)
        return TRUE;
    for (guint i = 0; i < p->options->len; i++)
        if (!handle(p, g_ptr_array_index(p->options, i), error))
            return FALSE;
    for (guint i = p->options->len; i-- > 0;)
        if (stasis_option_is(stasis_prepare_nth(p, i), ""))
            g_ptr_array_remove_index(p->options, i);
    add_user(p);
    return TRUE;
}

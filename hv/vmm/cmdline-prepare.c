/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rewriting a QEMU command line for a start under our care.
 *
 * What argv says about the machine stays word for word: a device more or less, or another name of
 * the RAM block, and the saved state would not load. Only what concerns the process (monitor,
 * terminal, daemon, where it begins) is replaced. Invariant: preparing a prepared line for another
 * directory gives what preparing the original line would have given, so an image can be restored
 * any number of times; what we added is known by ids that begin with "stasis-", and by lying in
 * the directory that "stasis-qmp" names.
 */
#include <stasis/error.h>
#include <string.h>
#include <sys/un.h>

#include "vmm/cmdline-prepare.h"
#include "vmm/qmp-peer.h"
#include "vmm/shim-preload.h"

#define QMP_ID "stasis-qmp"
#define CONSOLE_FILE "console.log"

gboolean stasis_option_is_any(const StasisOption *option, const char *const *names)
{
    return option->name != NULL && g_strv_contains(names, option->name);
}

static gboolean is_machine(const StasisOption *option)
{
    return stasis_option_is_any(option, (const char *const[]){ "machine", "M", NULL }) &&
           option->value != NULL;
}

void stasis_option_set(StasisOption *option, const char *name, const char *value)
{
    char *new_name = g_strdup(name), *new_value = g_strdup(value);
    g_free(option->name);
    g_free(option->value);
    option->name = new_name;
    option->value = new_value;
}

void stasis_prepare_add(StasisPrepare *p, const char *name, const char *value)
{
    g_ptr_array_add(p->options, stasis_option_new(name, value));
}

char *stasis_prepare_machine_property(const StasisPrepare *p, const char *key)
{
    char *found = NULL;
    for (guint i = 0; i < p->options->len; i++) {
        char *value = is_machine(stasis_prepare_nth(p, i))
                          ? stasis_optlist_get(stasis_prepare_nth(p, i)->value, key, "type")
                          : NULL;
        if (value == NULL)
            continue;
        g_free(found);
        found = value;
    }
    return found;
}

gboolean stasis_prepare_is_stdio(const char *value)
{
    return value != NULL && (strcmp(value, "stdio") == 0 || strcmp(value, "mon:stdio") == 0);
}

/* -chardev …,id=@id: the option's place, or -1. */
static int find_chardev(const StasisPrepare *p, const char *id)
{
    for (guint i = 0; i < p->options->len; i++) {
        if (!stasis_option_is(stasis_prepare_nth(p, i), "chardev") ||
            stasis_prepare_nth(p, i)->value == NULL)
            continue;
        g_autofree char *found =
            stasis_optlist_get(stasis_prepare_nth(p, i)->value, "id", "backend");
        if (g_strcmp0(found, id) == 0)
            return (int)i;
    }
    return -1;
}

/* Our additions stand together at the end, "stasis-qmp" first: so an accelerator after it is ours
 * if it says no more than we do. */
static gboolean is_our_accel(const StasisOption *option)
{
    return stasis_option_is(option, "accel") &&
           (g_strcmp0(option->value, "kvm") == 0 || g_strcmp0(option->value, "tcg") == 0);
}

/* All of them: of two with one id, which QEMU does not take, the last is ours, as we add it behind
 * what there was. */
static gboolean drop_chardev(StasisPrepare *p, const char *id, char **ret_path)
{
    int at = find_chardev(p, id);
    if (at < 0)
        return FALSE;
    g_free(*ret_path);
    *ret_path = stasis_optlist_get(stasis_prepare_nth(p, (guint)at)->value, "path", "backend");
    g_ptr_array_remove_index(p->options, (guint)at);
    return TRUE;
}

static void drop_earlier_additions(StasisPrepare *p)
{
    g_autofree char *path = NULL, *unused = NULL;
    int qmp = find_chardev(p, QMP_ID);
    if (qmp < 0)
        return;
    for (guint i = p->options->len; i-- > (guint)qmp;)
        if (is_our_accel(stasis_prepare_nth(p, i)))
            g_ptr_array_remove_index(p->options, i);
    while (drop_chardev(p, QMP_ID, &path))
        ;
    if (path != NULL) {
        p->old_dir = g_path_get_dirname(path);
        p->old_console = g_build_filename(p->old_dir, CONSOLE_FILE, NULL);
    }
    for (guint i = p->options->len; i-- > 0;) {
        const StasisOption *option = stasis_prepare_nth(p, i);
        g_autofree char *of = stasis_option_is(option, "mon") && option->value != NULL
                                  ? stasis_optlist_get(option->value, "chardev", "chardev")
                                  : NULL;
        if (g_strcmp0(of, QMP_ID) == 0)
            g_ptr_array_remove_index(p->options, i);
    }
    while (drop_chardev(p, STASIS_CONSOLE_ID, &unused))
        ;
}

static gboolean listens_at_live_socket(const char *list)
{
    /* -qmp unix:PATH,… */
    g_autofree char *head = stasis_optlist_get(list, "head", "head");
    return head != NULL && g_str_has_prefix(head, "unix:") &&
           stasis_unix_is_listening(head + strlen("unix:"));
}

/* A monitor at a UNIX socket where another process (the twin) listens: QEMU would unlink that. */
static gboolean would_steal_monitor(const StasisOption *option)
{
    return stasis_option_is_any(option,
                                (const char *const[]){ "qmp", "qmp-pretty", "monitor", NULL }) &&
           option->value != NULL && listens_at_live_socket(option->value);
}

static gboolean must_go(const StasisPrepare *p, const StasisOption *option)
{
    static const char *const process[] = {
        "daemonize", "pidfile", "incoming", "loadvm", "S", NULL
    };
    if (stasis_option_is_any(option, process))
        return TRUE;
    if (stasis_option_is_any(option, (const char *const[]){ "qmp", "qmp-pretty", NULL }) &&
        stasis_prepare_is_stdio(option->value))
        return TRUE;
    return p->wanted->incoming && would_steal_monitor(option);
}

static void drop_what_cannot_stay(StasisPrepare *p)
{
    for (guint i = p->options->len; i-- > 0;)
        if (must_go(p, stasis_prepare_nth(p, i)))
            g_ptr_array_remove_index(p->options, i);
}

char *stasis_prepare_socket_path(const StasisPrepare *p, const char *name, GError **error)
{
    g_autofree char *path = g_build_filename(p->wanted->runtime_dir, name, NULL);
    if (strlen(path) < sizeof((struct sockaddr_un *)0)->sun_path)
        return g_steal_pointer(&path);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                "%s: longer than a socket's path may be (107 bytes); choose a shorter VM name "
                "or STASIS_RUNTIME_DIR",
                path);
    return NULL;
}

static gboolean add_qmp(StasisPrepare *p, StasisLaunch *launch, GError **error)
{
    launch->qmp_path = stasis_prepare_socket_path(p, "qmp.sock", error);
    if (launch->qmp_path == NULL)
        return FALSE;
    g_autofree char *path = stasis_optlist_escape(launch->qmp_path);
    g_autofree char *value =
        g_strdup_printf("socket,id=" QMP_ID ",path=%s,server=on,wait=off", path);
    stasis_prepare_add(p, "chardev", value);
    stasis_prepare_add(p, "mon", "chardev=" QMP_ID ",mode=control");
    return TRUE;
}

/* A last option that lacks its argument would take our first addition for it. */
static gboolean check_complete(const StasisPrepare *p, GError **error)
{
    const StasisOption *last =
        p->options->len > 0 ? stasis_prepare_nth(p, p->options->len - 1) : NULL;
    if (last == NULL || last->value != NULL || !stasis_option_takes_argument(last->name))
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                "-%s: the command line ends without its argument", last->name);
    return FALSE;
}

/* A second mapping of RAM would count against the limit for locked memory once more. */
static gboolean locks_memory(const StasisPrepare *p)
{
    for (guint i = 0; i < p->options->len; i++) {
        const StasisOption *option = stasis_prepare_nth(p, i);
        if (stasis_option_is_any(option, (const char *const[]){ "overcommit", "realtime", NULL }) &&
            option->value != NULL && strstr(option->value, "lock=o") != NULL)
            return TRUE;
    }
    return FALSE;
}

static void prepare_clear(StasisPrepare *p)
{
    g_clear_pointer(&p->options, g_ptr_array_unref);
    g_clear_pointer(&p->old_dir, g_free);
    g_clear_pointer(&p->old_console, g_free);
    g_clear_pointer(&p->console_path, g_free);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(StasisPrepare, prepare_clear)

StasisLaunch *stasis_launch_prepare(const char *const *argv, const StasisLaunchOptions *options,
                                    GError **error)
{
    if (argv[0] == NULL || argv[0][0] == '\0' || argv[0][0] == '-') {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "the command must begin with a QEMU system emulator, as qemu-system-x86_64");
        return NULL;
    }
    g_autoptr(StasisLaunch) launch = g_new0(StasisLaunch, 1);
    g_autofree char *console = g_build_filename(options->runtime_dir, CONSOLE_FILE, NULL);
    g_auto(StasisPrepare) p = { .program = argv[0], .wanted = options };
    p.options = stasis_cmdline_parse(argv);
    p.console_path = stasis_optlist_escape(console);
    if (!check_complete(&p, error))
        return NULL;
    drop_earlier_additions(&p);
    drop_what_cannot_stay(&p);
    stasis_prepare_unclone(&p);
    if (!stasis_prepare_disks(&p, error) || !stasis_prepare_clone_host(&p, error))
        return NULL;
    stasis_prepare_clone_net(&p);
    stasis_prepare_clone_identity(&p, launch);
    stasis_prepare_console(&p);
    stasis_prepare_ram(&p);
    stasis_prepare_clone_ram(&p, launch);
    if (!stasis_prepare_agent(&p, error) || !add_qmp(&p, launch, error) ||
        !stasis_prepare_accel(&p, launch, error))
        return NULL;
    stasis_prepare_console_backend(&p);
    stasis_prepare_add(&p, "S", NULL);
    if (options->incoming)
        stasis_prepare_add(&p, "incoming", "defer");
    launch->argv = stasis_cmdline_to_argv(p.program, p.options);
    if (!options->no_shim && strcmp(launch->accel, "kvm") == 0 && !locks_memory(&p))
        launch->shim_path = stasis_shim_find();
    if (p.console_used)
        launch->console_path = g_strdup(console);
    return g_steal_pointer(&launch);
}

void stasis_launch_free(StasisLaunch *launch)
{
    if (launch == NULL)
        return;
    g_strfreev(launch->argv);
    g_free(launch->qmp_path);
    g_free(launch->console_path);
    g_free(launch->accel);
    g_free(launch->accel_reason);
    g_free(launch->shim_path);
    g_free(launch->uuid);
    g_free(launch->generation_id);
    g_strfreev(launch->macs);
    g_clear_pointer(&launch->clone_ram, g_ptr_array_unref);
    g_free(launch);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Console and display of a QEMU in the background.
 *
 * It has no terminal and must open no window. The first serial port's output goes to a file unless
 * argv has another place for it; whatever argv connects to the terminal (stdio) goes to that file
 * too. No device is added or taken away: with -nodefaults and no -serial there is no port, and so
 * no console.
 */
#include <string.h>

#include "vmm/cmdline-prepare.h"

/* -chardev stdio,id=X[,…] → the console's file, under the id that argv refers to. */
static void move_chardev(StasisPrepare *p, StasisOption *option)
{
    g_autofree char *backend = stasis_optlist_get(option->value, "backend", "backend");
    g_autofree char *path = stasis_optlist_get(option->value, "path", "backend");
    g_autofree char *id = stasis_optlist_get(option->value, "id", "backend");
    g_autofree char *mux = stasis_optlist_get(option->value, "mux", "backend");
    gboolean ours = g_strcmp0(backend, "file") == 0 && path != NULL && p->old_console != NULL &&
                    strcmp(path, p->old_console) == 0;
    if (id == NULL || (!ours && g_strcmp0(backend, "stdio") != 0))
        return;
    g_autofree char *escaped_id = stasis_optlist_escape(id);
    g_autofree char *value =
        g_strdup_printf("file,id=%s,path=%s,append=on%s", escaped_id, p->console_path,
                        g_strcmp0(mux, "on") == 0 ? ",mux=on" : "");
    stasis_option_set(option, "chardev", value);
    p->console_used = TRUE;
}

/* Does -serial … or the like use the terminal, or our console of an earlier preparation? Then it
 * gets the console, or nothing if that is taken. */
static void move_stdio(StasisPrepare *p, StasisOption *option)
{
    static const char *const ports[] = { "serial", "debugcon", "parallel", "virtioconsole", NULL };
    if (stasis_option_is(option, "chardev") && option->value != NULL)
        move_chardev(p, option);
    if (stasis_option_is(option, "monitor") && stasis_prepare_is_stdio(option->value))
        stasis_option_set(option, "monitor", "none");
    if (stasis_option_is_any(option, (const char *const[]){ "display", "curses", NULL }) &&
        (option->value == NULL || g_str_has_prefix(option->value, "curses"))) {
        stasis_option_set(option, "display", "none");
    }
    if (!stasis_option_is_any(option, ports) ||
        (!stasis_prepare_is_stdio(option->value) &&
         g_strcmp0(option->value, "chardev:" STASIS_CONSOLE_ID) != 0))
        return;
    stasis_option_set(option, option->name,
                      p->console_used ? "null" : "chardev:" STASIS_CONSOLE_ID);
    p->console_used = TRUE;
}

/* Does argv itself decide what the first serial port is, or that there is none? (QEMU's own rule:
 * a -device isa-serial ends the default one.) */
static gboolean decides_serial(const StasisPrepare *p)
{
    for (guint i = 0; i < p->options->len; i++) {
        const StasisOption *option = stasis_prepare_nth(p, i);
        if (stasis_option_is_any(option, (const char *const[]){ "serial", "nodefaults", NULL }))
            return TRUE;
        if (!stasis_option_is(option, "device") || option->value == NULL)
            continue;
        g_autofree char *driver = stasis_optlist_get(option->value, "driver", "driver");
        if (g_strcmp0(driver, "isa-serial") == 0)
            return TRUE;
    }
    return FALSE;
}

/* -nographic is a terminal's mode; what the guest can see of it is the machine's property. */
static gboolean expand_nographic(StasisPrepare *p)
{
    gboolean found = FALSE;
    for (guint i = 0; i < p->options->len; i++) {
        StasisOption *option = g_ptr_array_index(p->options, i);
        if (!stasis_option_is(option, "nographic"))
            continue;
        stasis_option_set(option, "machine", "graphics=off");
        found = TRUE;
    }
    return found;
}

void stasis_prepare_console(StasisPrepare *p)
{
    static const char *const displays[] = { "display", "vnc", "spice", "sdl", NULL };
    gboolean nographic = expand_nographic(p), display = FALSE;
    for (guint i = 0; i < p->options->len; i++) {
        move_stdio(p, g_ptr_array_index(p->options, i));
        display |= !nographic && stasis_option_is_any(stasis_prepare_nth(p, i), displays);
    }
    if (!decides_serial(p)) {
        stasis_prepare_add(p, "serial", "chardev:" STASIS_CONSOLE_ID);
        p->console_used = TRUE;
    }
    if (!display)
        stasis_prepare_add(p, "display", "none");
}

void stasis_prepare_console_backend(StasisPrepare *p)
{
    for (guint i = 0; i < p->options->len; i++) {
        if (g_strcmp0(stasis_prepare_nth(p, i)->value, "chardev:" STASIS_CONSOLE_ID) != 0)
            continue;
        g_autofree char *value =
            g_strdup_printf("file,id=" STASIS_CONSOLE_ID ",path=%s,append=on", p->console_path);
        stasis_prepare_add(p, "chardev", value);
        return;
    }
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Main memory and accelerator of a prepared command line.
 *
 * RAM goes into a shared memfd under the very id that the machine gives its own RAM, so that the
 * RAM block is named as in an unprepared machine. Where argv decides about main memory itself, in
 * any way, it is left alone: any RAM can be tracked.
 */
#include <stasis/error.h>
#include <string.h>

#include "vmm/cmdline-prepare.h"

/* The id of the machine's own main RAM: a back end of that name gives the same RAM block. NULL for
 * a machine that we don't know. */
static const char *main_ram_id(const StasisPrepare *p)
{
    g_autofree char *program = g_path_get_basename(p->program);
    g_autofree char *type = stasis_prepare_machine_property(p, "type");
    if (strstr(program, "x86_64") == NULL && strstr(program, "i386") == NULL &&
        strstr(program, "kvm") == NULL)
        return NULL;
    if (type == NULL || strcmp(type, "pc") == 0 || strcmp(type, "q35") == 0 ||
        g_str_has_prefix(type, "pc-i440fx-") || g_str_has_prefix(type, "pc-q35-"))
        return "pc.ram";
    return strcmp(type, "microvm") == 0 ? "microvm.ram" : NULL;
}

/* Does argv say itself where main memory comes from, or in a way that we don't read? */
static gboolean decides_ram(const StasisPrepare *p, const char *ram_id)
{
    static const char *const properties[] = { "memory-backend", "memory.size", "memory-encryption",
                                              "confidential-guest-support" };
    for (guint i = 0; i < G_N_ELEMENTS(properties); i++) {
        g_autofree char *value = stasis_prepare_machine_property(p, properties[i]);
        if (value != NULL)
            return TRUE;
    }
    for (guint i = 0; i < p->options->len; i++) {
        const StasisOption *option = stasis_prepare_nth(p, i);
        if (stasis_option_is_any(option, (const char *const[]){ "mem-path", "readconfig", NULL }))
            return TRUE;
        const char *key = stasis_option_is(option, "numa")     ? "memdev"
                          : stasis_option_is(option, "object") ? "id"
                                                               : NULL;
        g_autofree char *value = key != NULL && option->value != NULL
                                     ? stasis_optlist_get(option->value, key, "type")
                                     : NULL;
        if (value != NULL && (key[0] == 'm' || strcmp(value, ram_id) == 0))
            return TRUE;
    }
    return FALSE;
}

/* Main memory's size as QEMU will read it from -m (128 MiB without). FALSE: leave it to QEMU. */
static gboolean main_ram_size(const StasisPrepare *p, guint64 *ret)
{
    guint64 size = 0;
    for (guint i = 0; i < p->options->len; i++) {
        if (!stasis_option_is(stasis_prepare_nth(p, i), "m") ||
            stasis_prepare_nth(p, i)->value == NULL)
            continue;
        g_autofree char *text = stasis_optlist_get(stasis_prepare_nth(p, i)->value, "size", "size");
        if (text != NULL && !stasis_size_parse(text, 20, &size))
            return FALSE;
    }
    size = (size + 8191) / 8192 * 8192;
    *ret = size != 0 ? size : (guint64)128 << 20;
    return TRUE;
}

void stasis_prepare_ram(StasisPrepare *p)
{
    const char *id = main_ram_id(p);
    guint64 size;
    if (id == NULL || decides_ram(p, id) || !main_ram_size(p, &size))
        return;
    /* Machine types before 4.1 would else name the RAM block "/objects/pc.ram". */
    g_autofree char *object =
        g_strdup_printf("memory-backend-memfd,id=%s,share=on,size=%" G_GUINT64_FORMAT
                        ",x-use-canonical-path-for-ramblock-id=off",
                        id, size);
    g_autofree char *machine = g_strdup_printf("memory-backend=%s", id);
    stasis_prepare_add(p, "object", object);
    stasis_prepare_add(p, "machine", machine);
}

static gboolean stasis_prepare_has(const StasisPrepare *p, const char *name)
{
    for (guint i = 0; i < p->options->len; i++)
        if (stasis_option_is(stasis_prepare_nth(p, i), name))
            return TRUE;
    return FALSE;
}

/* What argv asks for ("kvm", "kvm:tcg" …), or NULL. */
static char *asked_accel(const StasisPrepare *p)
{
    char *asked = stasis_prepare_machine_property(p, "accel");
    for (guint i = 0; i < p->options->len && asked == NULL; i++) {
        if (stasis_option_is(stasis_prepare_nth(p, i), "enable-kvm"))
            asked = g_strdup("kvm");
        else if (stasis_option_is(stasis_prepare_nth(p, i), "accel") &&
                 stasis_prepare_nth(p, i)->value != NULL)
            asked = stasis_optlist_get(stasis_prepare_nth(p, i)->value, "accel", "accel");
    }
    return asked;
}

/* An option that only one of them can run, or NULL. */
static const char *accel_by_need(const StasisPrepare *p, char **ret_reason)
{
    if (stasis_prepare_has(p, "icount")) {
        *ret_reason = g_strdup("tcg: -icount needs it");
        return "tcg";
    }
    for (guint i = 0; i < p->options->len; i++) {
        if (!stasis_option_is(stasis_prepare_nth(p, i), "cpu") ||
            stasis_prepare_nth(p, i)->value == NULL)
            continue;
        g_autofree char *model =
            stasis_optlist_get(stasis_prepare_nth(p, i)->value, "model", "model");
        if (g_strcmp0(model, "host") != 0)
            continue;
        *ret_reason = g_strdup("kvm: -cpu host needs it");
        return "kvm";
    }
    return NULL;
}

static const char *choose_accel(const StasisPrepare *p, char **ret_reason)
{
    const char *need = accel_by_need(p, ret_reason);
    if (need != NULL)
        return need;
    g_autofree char *reason = NULL;
    if (stasis_kvm_probe(&reason)) {
        *ret_reason = g_strdup("kvm: hardware virtualization works here");
        return "kvm";
    }
    *ret_reason = g_strdup_printf("tcg: %s", reason);
    return "tcg";
}

gboolean stasis_prepare_accel(StasisPrepare *p, StasisLaunch *launch, GError **error)
{
    const char *wanted = p->wanted->accel != NULL ? p->wanted->accel : "auto";
    if (!g_strv_contains((const char *const[]){ "auto", "kvm", "tcg", NULL }, wanted)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "accelerator \"%s\" is unknown; take auto, kvm or tcg", wanted);
        return FALSE;
    }
    g_autofree char *asked = asked_accel(p);
    if (asked != NULL) {
        launch->accel = g_strdup(g_str_has_prefix(asked, "kvm") ? "kvm" : "tcg");
        launch->accel_reason = g_strdup_printf("%s: as the command line asks", asked);
        return TRUE;
    }
    if (strcmp(wanted, "auto") == 0)
        wanted = choose_accel(p, &launch->accel_reason);
    else
        launch->accel_reason = g_strdup_printf("%s: as asked", wanted);
    launch->accel = g_strdup(wanted);
    stasis_prepare_add(p, "accel", wanted);
    return TRUE;
}

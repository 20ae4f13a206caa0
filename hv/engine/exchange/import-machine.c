/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The machine description of an imported image. A migration stream says which machine type it is of
 * and what devices it has, but not how to start that machine: the user does, or the domain's XML.
 */
#include <stasis/error.h>
#include <string.h>
#include <unistd.h>

#include "engine/exchange/import-internal.h"
#include "vmm/cmdline.h"
#include "vmm/domain-native.h"
#include "vmm/registry.h"

#define DEFAULT_URI "qemu:///system"
#define DEFAULT_NAME "imported"

gboolean stasis_import_machine_check(const StasisImportOptions *options, const StasisSaveHead *head,
                                     GError **error)
{
    if (options->name != NULL && !stasis_vm_name_check(options->name, error))
        return FALSE;
    if (head == NULL && options->argv == NULL) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                            "a migration stream does not say how to start its machine: give the "
                            "command line of the QEMU that it is from behind \"--\"");
        return FALSE;
    }
    if (options->argv == NULL)
        return TRUE;
    g_autofree char *program = g_find_program_in_path(options->argv[0]);
    if (program != NULL)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "%s: no such program", options->argv[0]);
    return FALSE;
}

static char **given_argv(const char *const *given)
{
    char **argv = g_strdupv((char **)given);
    g_autofree char *program = g_find_program_in_path(argv[0]);
    g_free(argv[0]);
    argv[0] = g_canonicalize_filename(program, NULL);
    return argv;
}

/* The last @key of option @name, "-name guest=vm" or "-accel kvm"; NULL when there is none. */
static char *find_word(const GPtrArray *line, const char *name, const char *key)
{
    char *found = NULL;
    for (guint i = 0; i < line->len; i++) {
        const StasisOption *option = g_ptr_array_index(line, i);
        char *value = stasis_option_is(option, name) && option->value != NULL
                          ? stasis_optlist_get(option->value, key, key)
                          : NULL;
        if (value != NULL) {
            g_free(found);
            found = value;
        }
    }
    return found;
}

static char *choose_name(const StasisImportOptions *options, const GPtrArray *line)
{
    g_autofree char *own = find_word(line, "name", "guest");
    if (options->name != NULL)
        return g_strdup(options->name);
    return g_strdup(own != NULL && stasis_vm_name_check(own, NULL) ? own : DEFAULT_NAME);
}

static guint count_sections(StasisVmstate *devices, const char *name)
{
    guint n = 0;
    for (guint i = 0; i < stasis_vmstate_get_n_sections(devices); i++)
        n += strcmp(stasis_vmstate_get_section(devices, i)->name, name) == 0;
    return n;
}

/* As the line says; else KVM's own clock tells that it was KVM. */
static const char *find_accel(StasisVmstate *devices, const GPtrArray *line)
{
    g_autofree char *accel = find_word(line, "accel", "accel");
    for (guint i = 0; accel == NULL && i < line->len; i++) {
        const StasisOption *option = g_ptr_array_index(line, i);
        if (stasis_option_is(option, "enable-kvm"))
            accel = g_strdup("kvm");
        else if (stasis_option_is(option, "machine") || stasis_option_is(option, "M"))
            accel = option->value != NULL ? stasis_optlist_get(option->value, "accel", NULL) : NULL;
    }
    gboolean kvm =
        accel != NULL ? g_str_has_prefix(accel, "kvm") : count_sections(devices, "kvmclock") > 0;
    return kvm ? "kvm" : "tcg";
}

StasisMachine *stasis_import_machine(const StasisImportOptions *options, const StasisSaveHead *head,
                                     StasisVmstate *devices, GError **error)
{
    const char *type = stasis_vmstate_get_machine(devices);
    if (type == NULL) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                            "the migration stream does not say what machine type it is of");
        return NULL;
    }
    g_autoptr(StasisMachine) machine = g_new0(StasisMachine, 1);
    const char *uri = options->connect != NULL ? options->connect : DEFAULT_URI;
    machine->argv = options->argv != NULL ? given_argv(options->argv)
                                          : stasis_domain_native_argv(uri, head->xml, error);
    if (machine->argv == NULL)
        return NULL;
    g_autoptr(GPtrArray) line = stasis_cmdline_parse((const char *const *)machine->argv);
    machine->name = choose_name(options, line);
    machine->cwd = options->argv != NULL ? g_get_current_dir() : g_strdup("/");
    machine->machine = g_strdup(type);
    machine->accel = g_strdup(find_accel(devices, line));
    machine->qemu_version = g_strdup("unknown");
    machine->n_vcpus = count_sections(devices, "cpu");
    /* The same checks as when it is read back. */
    g_autoptr(GBytes) json = stasis_machine_to_json(machine);
    g_autoptr(StasisMachine) again = stasis_machine_from_json(json, error);
    return again != NULL ? g_steal_pointer(&machine) : NULL;
}

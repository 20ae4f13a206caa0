/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which disks the agent is put into, and what stasis-files says of it. */
#include <stasis/agent-install.h>
#include <stasis/error.h>
#include <stasis/prepare.h>
#include <string.h>

#include "base/json.h"
#include "base/options.h"
#include "disk/in-use.h"
#include "engine/files/files-internal.h"
#include "engine/guest/agent-program.h"
#include "vmm/domain-xml.h"
#include "vmm/domain.h"
#include "vmm/libexec.h"

static void step_free(gpointer data)
{
    StasisAgentInstallStep *step = data;
    g_free(step->path);
    g_free(step);
}

void stasis_agent_install_free(StasisAgentInstall *install)
{
    if (install == NULL)
        return;
    g_free(install->system);
    g_clear_pointer(&install->steps, g_ptr_array_unref);
    g_strfreev(install->notes);
    g_free(install);
}

typedef struct {
    char *program, *unit, *session;
} Files;

static void files_clear(Files *files)
{
    g_free(files->program);
    g_free(files->unit);
    g_free(files->session);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Files, files_clear)

/* The program for the guest, and what lies beside it. */
static gboolean find_files(Files *ret, GError **error)
{
    ret->program = stasis_libexec_find("guest/stasis-agent", "STASIS_GUEST_AGENT");
    if (ret->program == NULL)
        ret->program = stasis_libexec_find("stasis-agent", "STASIS_GUEST_AGENT");
    g_autofree char *dir = ret->program != NULL ? g_path_get_dirname(ret->program) : g_strdup("");
    ret->unit = g_build_filename(dir, "stasis-agent.service", NULL);
    ret->session = g_build_filename(dir, "stasis-session", NULL);
    if (ret->program != NULL && g_file_test(ret->unit, G_FILE_TEST_IS_REGULAR) &&
        g_file_test(ret->session, G_FILE_TEST_IS_REGULAR))
        return TRUE;
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                        "stasis-agent, stasis-agent.service and stasis-session are not where the "
                        "library is: install stasis as a whole");
    return FALSE;
}

char **stasis_agent_program_files(GError **error)
{
    g_auto(Files) files = { NULL };
    char **paths = find_files(&files, error) ? g_new0(char *, 4) : NULL;
    if (paths == NULL)
        return NULL;
    paths[0] = g_steal_pointer(&files.program);
    paths[1] = g_steal_pointer(&files.unit);
    paths[2] = g_steal_pointer(&files.session);
    return paths;
}

static StasisAgentInstall *read_result(const char *text, GError **error)
{
    g_autoptr(JsonObject) root = stasis_json_parse_object(text, -1, error);
    JsonArray *steps;
    JsonObject *object;
    if (root == NULL || !stasis_json_array(root, "steps", &steps, error))
        return NULL;
    g_autoptr(StasisAgentInstall) install = g_new0(StasisAgentInstall, 1);
    install->steps = g_ptr_array_new_with_free_func(step_free);
    install->notes = g_new0(char *, 1);
    install->system = g_strdup(stasis_json_string_or(root, "system", ""));
    install->changed = stasis_json_bool_or(root, "changed", FALSE);
    for (guint i = 0; i < json_array_get_length(steps); i++) {
        if (!stasis_json_object_at(steps, i, &object, error))
            return NULL;
        StasisAgentInstallStep *step = g_new0(StasisAgentInstallStep, 1);
        step->path = g_strdup(stasis_json_string_or(object, "path", ""));
        step->changed = stasis_json_bool_or(object, "changed", FALSE);
        g_ptr_array_add(install->steps, step);
    }
    return g_steal_pointer(&install);
}

/* @disks: of "FORMAT:PATH"; taken. */
static StasisAgentInstall *write_to(GPtrArray *disks, const StasisAgentInstallOptions *options,
                                    GCancellable *cancellable, GError **error)
{
    g_auto(StasisFilesJob)
        job = { .writable = disks, .filesystem = options->filesystem, .cancellable = cancellable };
    g_auto(Files) files = { NULL };
    g_autofree char *text = NULL;
    for (guint i = 0; i < disks->len; i++) {
        const char *path = strchr(g_ptr_array_index(disks, i), ':') + 1;
        if (!stasis_disk_check_unused(path, error))
            return NULL;
    }
    if (!find_files(&files, error) ||
        !stasis_files_run(&job, -1, &text, error, "install", files.program, files.unit,
                          files.session, NULL))
        return NULL;
    return read_result(text, error);
}

StasisAgentInstall *stasis_agent_install_disk(const char *path,
                                              const StasisAgentInstallOptions *given,
                                              GCancellable *cancellable, GError **error)
{
    StasisAgentInstallOptions own = STASIS_AGENT_INSTALL_OPTIONS_INIT;
    const StasisAgentInstallOptions *options = stasis_own_options(&own, given, sizeof own);
    g_autofree char *full = g_canonicalize_filename(path, NULL);
    const char *format = options->format;
    if (!stasis_disk_check_unused(full, error))
        return NULL;
    if (format == NULL)
        format = stasis_disk_guess_format(full, error);
    if (format == NULL)
        return NULL;
    GPtrArray *disks = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(disks, g_strdup_printf("%s:%s", format, full));
    return write_to(disks, options, cancellable, error);
}

static GPtrArray *domain_disks(StasisDomain *domain, GError **error)
{
    g_autofree char *xml = stasis_domain_get_xml(domain, STASIS_DOMAIN_XML_PERSISTENT, error);
    g_autoptr(StasisDomainDoc) doc =
        xml != NULL ? stasis_domain_xml_parse(xml, strlen(xml), error) : NULL;
    g_autoptr(GPtrArray) disks = doc != NULL ? stasis_domain_xml_list_disks(doc, error) : NULL;
    if (disks != NULL && disks->len > 0)
        return g_steal_pointer(&disks);
    if (disks != NULL)
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                            "it has no disk that it writes to");
    g_prefix_error(error, "domain %s: ", stasis_domain_get_name(domain));
    return NULL;
}

/* The port, from the next start on. */
static gboolean add_channel(StasisAgentInstall *install, const char *uri, const char *name,
                            GError **error)
{
    StasisPrepareOptions options = STASIS_PREPARE_OPTIONS_INIT;
    options.apply = options.agent_only = TRUE;
    g_autoptr(StasisPreparation) done = stasis_prepare(uri, name, &options, error);
    if (done == NULL) {
        g_prefix_error(error, "the agent is installed, but the domain has no channel to it: ");
        return FALSE;
    }
    install->changed |= done->changed;
    g_strfreev(install->notes);
    install->notes = g_steal_pointer(&done->notes);
    return TRUE;
}

StasisAgentInstall *stasis_agent_install_domain(const char *uri, const char *name,
                                                const StasisAgentInstallOptions *given,
                                                GCancellable *cancellable, GError **error)
{
    StasisAgentInstallOptions own = STASIS_AGENT_INSTALL_OPTIONS_INIT;
    const StasisAgentInstallOptions *options = stasis_own_options(&own, given, sizeof own);
    g_autoptr(StasisDomain) domain = stasis_domain_open(uri, name, error);
    if (domain == NULL)
        return NULL;
    if (stasis_domain_is_active(domain)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                    "domain %s is running: its disks can't be written to from outside; shut it "
                    "down first (virsh shutdown)",
                    stasis_domain_get_name(domain));
        return NULL;
    }
    GPtrArray *disks = domain_disks(domain, error);
    g_autoptr(StasisAgentInstall) install =
        disks != NULL ? write_to(disks, options, cancellable, error) : NULL;
    if (install == NULL || !add_channel(install, uri, name, error))
        return NULL;
    return g_steal_pointer(&install);
}

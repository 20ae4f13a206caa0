/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * stasis-files (hv/files), run as a process: libguestfs and all that it pulls in stay out of the
 * library, and an appliance that hangs on a guest's broken file system is ended with it.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stasis/error.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"
#include "engine/files/files-internal.h"
#include "vmm/libexec.h"
#include "vmm/machine.h"

#define CHOICE 20 /* FILES_CHOICE */
#define REFUSED 21
#define MAX_SAID 2000u

void stasis_files_job_clear(StasisFilesJob *job)
{
    g_clear_pointer(&job->disks, g_ptr_array_unref);
    g_clear_pointer(&job->template, stasis_template_free);
    g_clear_pointer(&job->writable, g_ptr_array_unref);
    g_clear_pointer(&job->label, g_free);
}

static void add_disks(GPtrArray *argv, const char *option, const GPtrArray *disks)
{
    for (guint i = 0; disks != NULL && i < disks->len; i++) {
        g_ptr_array_add(argv, g_strdup(option));
        g_ptr_array_add(argv, g_strdup(g_ptr_array_index(disks, i)));
    }
}

/* Its command line, without the operation. */
static GPtrArray *command(const StasisFilesJob *job, GError **error)
{
    g_autofree char *program = stasis_libexec_find("stasis-files", "STASIS_FILES");
    if (program == NULL) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                            "stasis-files is not installed: build stasis where libguestfs-dev is");
        return NULL;
    }
    GPtrArray *argv = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(argv, g_steal_pointer(&program));
    if (!stasis_kvm_probe(NULL))
        g_ptr_array_add(argv, g_strdup("--tcg"));
    if (job->filesystem != NULL)
        g_ptr_array_add(argv, g_strconcat("--filesystem=", job->filesystem, NULL));
    if (job->label != NULL)
        g_ptr_array_add(argv, g_strconcat("--label=", job->label, NULL));
    add_disks(argv, "--disk", job->disks);
    add_disks(argv, "--writable", job->writable);
    return argv;
}

/* How it ended, as an error; @said is what it had to say. */
static gboolean check_end(GSubprocess *process, const char *said, GError **error)
{
    static const struct {
        int status;
        StasisErrorCode code;
    } codes[] = { { 2, STASIS_ERROR_USAGE },
                  { 12, STASIS_ERROR_NOT_FOUND },
                  { CHOICE, STASIS_ERROR_USAGE },
                  { REFUSED, STASIS_ERROR_UNSUPPORTED } };
    if (!g_subprocess_get_if_exited(process)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "stasis-files was ended by signal %d; its appliance did not start in time?",
                    g_subprocess_get_term_sig(process));
        return FALSE;
    }
    int status = g_subprocess_get_exit_status(process);
    if (status == 0)
        return TRUE;
    StasisErrorCode code = STASIS_ERROR_FAILED;
    for (guint i = 0; i < G_N_ELEMENTS(codes); i++)
        if (codes[i].status == status)
            code = codes[i].code;
    g_autofree char *line =
        g_utf8_make_valid(said != NULL ? said : "", MIN(strlen(said), MAX_SAID));
    g_strdelimit(g_strchomp(line), "\r\n", ' ');
    g_set_error_literal(error, STASIS_ERROR, code, *line != '\0' ? line : "stasis-files failed");
    return FALSE;
}

/* SIGTERM: libguestfs's recovery process sees to the appliance. */
static gboolean call_off(GSubprocess *process, GError **error)
{
    g_subprocess_send_signal(process, SIGTERM);
    g_subprocess_wait(process, NULL, NULL);
    return stasis_set_cancelled(error);
}

gboolean stasis_files_run(const StasisFilesJob *job, int fd, char **ret_text, GError **error,
                          const char *first, ...)
{
    g_autoptr(GPtrArray) words = g_ptr_array_new();
    va_list more;
    va_start(more, first);
    for (const char *word = first; word != NULL; word = va_arg(more, const char *))
        g_ptr_array_add(words, (char *)word);
    va_end(more);
    g_ptr_array_add(words, NULL);
    return stasis_files_run_words(job, fd, ret_text, (const char *const *)words->pdata, error);
}

gboolean stasis_files_run_words(const StasisFilesJob *job, int fd, char **ret_text,
                                const char *const *words, GError **error)
{
    g_autoptr(GPtrArray) argv = command(job, error);
    if (argv == NULL)
        return FALSE;
    for (const char *const *word = words; *word != NULL; word++)
        g_ptr_array_add(argv, g_strdup(*word));
    g_ptr_array_add(argv, NULL);
    g_autoptr(GSubprocessLauncher) launcher = g_subprocess_launcher_new(
        G_SUBPROCESS_FLAGS_STDERR_PIPE | (fd < 0 ? G_SUBPROCESS_FLAGS_STDOUT_PIPE : 0));
    if (fd >= 0)
        g_subprocess_launcher_take_stdout_fd(launcher, fcntl(fd, F_DUPFD_CLOEXEC, 3));
    g_autoptr(GSubprocess) process =
        g_subprocess_launcher_spawnv(launcher, (const char *const *)argv->pdata, error);
    g_autoptr(GBytes) out = NULL, said = NULL;
    if (process == NULL)
        return FALSE;
    if (!g_subprocess_communicate(process, NULL, job->cancellable, &out, &said, NULL))
        return call_off(process, error);
    g_autofree char *text = g_strndup(g_bytes_get_data(said, NULL), g_bytes_get_size(said));
    if (!check_end(process, text, error))
        return FALSE;
    if (ret_text != NULL)
        *ret_text = g_strndup(g_bytes_get_data(out, NULL), g_bytes_get_size(out));
    return TRUE;
}

static void leave_session(gpointer data)
{
    setsid();
}

gboolean stasis_files_serve(const StasisFilesJob *job, const char *dir, GError **error)
{
    g_autoptr(GPtrArray) argv = command(job, error);
    if (argv == NULL)
        return FALSE;
    g_ptr_array_add(argv, g_strdup("mount"));
    g_ptr_array_add(argv, g_strdup(dir));
    g_ptr_array_add(argv, NULL);
    /* Not the caller's terminal or working directory. */
    g_autoptr(GSubprocessLauncher) launcher =
        g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_PIPE);
    g_subprocess_launcher_set_child_setup(launcher, leave_session, NULL, NULL);
    g_subprocess_launcher_set_cwd(launcher, "/");
    g_autoptr(GSubprocess) process =
        g_subprocess_launcher_spawnv(launcher, (const char *const *)argv->pdata, error);
    if (process == NULL)
        return FALSE;
    char ready[8];
    gssize n = g_input_stream_read(g_subprocess_get_stdout_pipe(process), ready, sizeof ready,
                                   job->cancellable, NULL);
    if (n > 0)
        return TRUE;
    if (n < 0)
        return call_off(process, error);
    g_autoptr(GBytes) said = g_input_stream_read_bytes(g_subprocess_get_stderr_pipe(process),
                                                       MAX_SAID, job->cancellable, NULL);
    g_subprocess_wait(process, NULL, NULL);
    g_autofree char *words =
        said != NULL ? g_strndup(g_bytes_get_data(said, NULL), g_bytes_get_size(said)) : NULL;
    return check_end(process, words != NULL ? words : "", error);
}

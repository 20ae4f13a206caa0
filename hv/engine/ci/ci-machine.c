/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A plain machine: what a test needs and nothing that a test has to wait for. It stays there when
 * the guest panics, reboots or shuts down, so that an image and the reason can be had.
 */
#include "engine/ci/ci-machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stasis/agent-install.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/digest.h"
#include "base/fd.h"
#include "base/io.h"
#include "disk/in-use.h"
#include "engine/guest/agent-program.h"
#include "vmm/cmdline.h"

#define DEFAULT_QEMU "qemu-system-x86_64"
#define DEFAULT_MEMORY "512M"
#define DEFAULT_APPEND "console=ttyS0"
#define READ_BYTES ((gsize)256 * 1024)

/* Images of the machine are used from other directories, too. */
static void add_file(GPtrArray *argv, const char *option, const char *path)
{
    g_ptr_array_add(argv, g_strdup(option));
    g_ptr_array_add(argv, g_canonicalize_filename(path, NULL));
}

static void add(GPtrArray *argv, const char *option, const char *value)
{
    g_ptr_array_add(argv, g_strdup(option));
    if (value != NULL)
        g_ptr_array_add(argv, g_strdup(value));
}

/* Run qemu-img and return what it prints. */
static char *qemu_img(const char *const *argv, GError **error)
{
    g_autofree char *out = NULL, *err = NULL;
    int status;
    if (!g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &out, &err,
                      &status, error)) {
        g_prefix_error(error, "qemu-img (package qemu-utils): ");
        return NULL;
    }
    g_autoptr(GError) why = NULL;
    if (g_spawn_check_wait_status(status, &why))
        return g_steal_pointer(&out);
    g_strchomp(err);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "%s: %s", why->message, err);
    return NULL;
}

static char *make_overlay(const StasisCiOptions *options, const char *dir,
                          GCancellable *cancellable, GError **error)
{
    g_autofree char *image = g_canonicalize_filename(options->image, NULL);
    const char *format = options->image_format != NULL ? options->image_format
                                                       : stasis_disk_guess_format(image, error);
    g_autofree char *path = g_build_filename(dir, "disk.qcow2", NULL);
    const char *const argv[] = { "qemu-img", "create", "-q",   "-f", "qcow2", "-b",
                                 image,      "-F",     format, path, NULL };
    g_autofree char *said = format != NULL ? qemu_img(argv, error) : NULL;
    if (said == NULL)
        return NULL;
    if (!options->add_agent)
        return g_steal_pointer(&path);
    StasisAgentInstallOptions install = STASIS_AGENT_INSTALL_OPTIONS_INIT;
    install.format = "qcow2"; /* we made it: what it lies on is not the guest's word */
    g_autoptr(StasisAgentInstall) done =
        stasis_agent_install_disk(path, &install, cancellable, error);
    return done != NULL ? g_steal_pointer(&path) : NULL;
}

static gboolean add_disk(GPtrArray *argv, const StasisCiOptions *options, const char *dir,
                         GCancellable *cancellable, GError **error)
{
    g_autofree char *path = make_overlay(options, dir, cancellable, error);
    if (path == NULL)
        return FALSE;
    g_autofree char *escaped = stasis_optlist_escape(path);
    g_autofree char *drive =
        g_strdup_printf("file=%s,format=qcow2,if=virtio,id=disk,discard=unmap", escaped);
    add(argv, "-drive", drive);
    return TRUE;
}

char **stasis_ci_machine_argv(const StasisCiOptions *options, const char *dir,
                              GCancellable *cancellable, GError **error)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new_with_free_func(g_free);
    g_autofree char *n_vcpus = g_strdup_printf("%u", MAX(options->n_vcpus, 1));
    add(argv, options->qemu != NULL ? options->qemu : DEFAULT_QEMU, NULL);
    add(argv, "-m", options->memory != NULL ? options->memory : DEFAULT_MEMORY);
    add(argv, "-smp", n_vcpus);
    add(argv, "-display", "none");
    add(argv, "-vga", "none");
    add(argv, "-nic", "none");
    add(argv, "-device", "pvpanic");
    add(argv, "-action", "panic=pause,reboot=shutdown,shutdown=pause");
    if (options->kernel != NULL) {
        add_file(argv, "-kernel", options->kernel);
        add(argv, "-append", options->append != NULL ? options->append : DEFAULT_APPEND);
    }
    if (options->initrd != NULL)
        add_file(argv, "-initrd", options->initrd);
    if (options->image != NULL && !add_disk(argv, options, dir, cancellable, error))
        return NULL;
    for (guint i = 0; options->qemu_args != NULL && options->qemu_args[i] != NULL; i++)
        add(argv, options->qemu_args[i], NULL);
    g_ptr_array_add(argv, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&argv), FALSE);
}

/* ---- its name ---- */

static void sum_text(StasisHash *sum, const char *text)
{
    if (text != NULL)
        stasis_hash_add(sum, text, strlen(text));
    stasis_hash_add(sum, "", 1);
}

static void sum_path(StasisHash *sum, const char *path)
{
    g_autofree char *absolute = path != NULL ? g_canonicalize_filename(path, NULL) : NULL;
    sum_text(sum, absolute);
}

/* What is on the command line: where the files lie, too, as the machine's image names them. */
static void sum_machine(StasisHash *sum, const StasisCiOptions *options, const char *qemu)
{
    g_autofree char *shape = g_strdup_printf("%u %d", options->n_vcpus, options->add_agent);
    sum_text(sum, options->append);
    sum_text(sum, options->memory);
    sum_text(sum, options->accel);
    sum_text(sum, shape);
    if (options->image_format != NULL)
        sum_text(sum, options->image_format);
    for (guint i = 0; options->qemu_args != NULL && options->qemu_args[i] != NULL; i++)
        sum_text(sum, options->qemu_args[i]);
    sum_path(sum, qemu);
    sum_path(sum, options->kernel);
    sum_path(sum, options->initrd);
    sum_path(sum, options->image);
}

static gboolean sum_content(StasisHash *sum, int fd, const char *path, GError **error)
{
    g_autofree guint8 *bytes = g_malloc(READ_BYTES);
    ssize_t n;
    while ((n = read(fd, bytes, READ_BYTES)) > 0)
        stasis_hash_add(sum, bytes, (gsize)n);
    return n == 0 || stasis_set_errno(error, errno, "read %s", path);
}

/* By what is in it: a fresh checkout or build on a CI runner has other times, and the same bytes. A
 * large disk is not read each time. */
static gboolean sum_file(StasisHash *sum, const char *path, GError **error)
{
    struct stat st;
    if (path == NULL)
        return TRUE;
    stasis_autofd int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return stasis_set_errno(error, errno, "%s", path);
    gboolean large = !S_ISREG(st.st_mode) || st.st_size > STASIS_CI_MACHINE_MAX_READ;
    g_autofree char *state =
        large ? g_strdup_printf("%" G_GUINT64_FORMAT " %" G_GINT64_FORMAT ".%09ld",
                                (guint64)st.st_size, (gint64)st.st_mtim.tv_sec, st.st_mtim.tv_nsec)
              : g_strdup_printf("%" G_GUINT64_FORMAT, (guint64)st.st_size);
    sum_text(sum, state);
    return large || sum_content(sum, fd, path, error);
}

static gboolean says_on(const char *word, const char *key)
{
    g_autofree char *value = stasis_optlist_get(word, key, NULL);
    return g_strcmp0(value, "on") == 0 || g_strcmp0(value, "true") == 0;
}

/* Of a word for QEMU: one that names a file as the image of a drive that is read and not written,
 * as the test would make another machine by its own writing. What QEMU would find in no file
 * system, or where it would wait, is not opened. */
static gboolean sum_word(StasisHash *sum, const char *word, GError **error)
{
    static const char *const keys[] = { "file", "filename", "file.filename" };
    struct stat st;
    if (!says_on(word, "readonly") && !says_on(word, "read-only") && !says_on(word, "snapshot"))
        return TRUE;
    for (guint i = 0; i < G_N_ELEMENTS(keys); i++) {
        g_autofree char *named = stasis_optlist_get(word, keys[i], NULL);
        g_autofree char *path = named != NULL ? g_canonicalize_filename(named, "/") : NULL;
        if (path != NULL && stat(path, &st) == 0 && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)) &&
            !sum_file(sum, path, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean sum_words(StasisHash *sum, const char *const *words, GError **error)
{
    for (guint i = 0; words != NULL && words[i] != NULL; i++)
        if (!sum_word(sum, words[i], error))
            return FALSE;
    return TRUE;
}

/* Where it can't be had whoever puts it in will tell. */
static gboolean sum_agent(StasisHash *sum, gboolean is_added, GError **error)
{
    g_auto(GStrv) files = is_added ? stasis_agent_program_files(NULL) : NULL;
    for (char **file = files; file != NULL && *file != NULL; file++)
        if (access(*file, R_OK) == 0 && !sum_file(sum, *file, error))
            return FALSE;
    return TRUE;
}

char *stasis_ci_machine_key(const StasisCiOptions *options, GError **error)
{
    g_autoptr(StasisHash) machine = stasis_hash_new(), files = stasis_hash_new();
    char machine_hex[STASIS_DIGEST_HEX], files_hex[STASIS_DIGEST_HEX];
    g_autofree char *qemu =
        g_find_program_in_path(options->qemu != NULL ? options->qemu : DEFAULT_QEMU);
    sum_machine(machine, options, qemu);
    if (!sum_file(files, qemu, error) || !sum_file(files, options->kernel, error) ||
        !sum_file(files, options->initrd, error) || !sum_file(files, options->image, error) ||
        !sum_agent(files, options->add_agent, error) ||
        !sum_words(files, options->qemu_args, error) ||
        !stasis_hash_end_hex(machine, machine_hex, error) ||
        !stasis_hash_end_hex(files, files_hex, error))
        return NULL;
    return g_strdup_printf("%.*s-%.32s", STASIS_CI_MACHINE_DIGITS, machine_hex, files_hex);
}

gboolean stasis_ci_machine_is_other_state(const char *key, const char *of)
{
    return strncmp(key, of, STASIS_CI_MACHINE_DIGITS + 1) == 0 && strcmp(key, of) != 0;
}

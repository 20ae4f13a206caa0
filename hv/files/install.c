/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest agent into a system that is shut off: the program, its systemd unit, the link that
 * enables it, and stasis-session. Each is made aside and renamed, what is there already as it is to
 * be is left alone, and where something else is in its place, or the system is not one that we
 * know, nothing is done.
 */
#include <json-glib/json-glib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "files.h"

#define PROGRAM "/usr/local/sbin/stasis-agent"
#define SESSION "/usr/local/bin/stasis-session"
#define RESUME "/usr/local/bin/stasis-resume" /* the same program by another name */
#define UNIT_DIR "/etc/systemd/system"
#define UNIT UNIT_DIR "/stasis-agent.service"
#define LINK UNIT_DIR "/multi-user.target.wants/stasis-agent.service"
#define LABEL "security.selinux"

typedef struct {
    guestfs_h *g;
    JsonArray *steps;
    gboolean changed;
} Install;

/* One file to be put there. */
typedef struct {
    const char *path;
    int mode;
    const char *like; /* a directory that has the SELinux label it must have */
} Place;

static FilesStatus G_GNUC_PRINTF(1, 2) refuse(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return FILES_REFUSED;
}

static FilesStatus fail(Install *install, const char *path)
{
    return files_fail(install->g, FILES_FAILED, path);
}

static void did(Install *install, const char *path, gboolean changed)
{
    JsonObject *step = json_object_new();
    json_object_set_string_member(step, "path", path);
    json_object_set_boolean_member(step, "changed", changed);
    json_array_add_object_element(install->steps, step);
    install->changed |= changed;
}

/* ---- is it a system that we know? ---- */

static FilesStatus check_system(guestfs_h *g)
{
    static const char *const places[] = { "/usr/lib/systemd/systemd", "/lib/systemd/systemd" };
    const char *systemd = NULL;
    for (guint i = 0; i < G_N_ELEMENTS(places) && systemd == NULL; i++)
        if (guestfs_is_file_opts(g, places[i], GUESTFS_IS_FILE_OPTS_FOLLOWSYMLINKS, 1, -1) > 0)
            systemd = places[i];
    if (systemd == NULL)
        return refuse("the system on the disk has no systemd, the only way known to start the "
                      "agent; copy stasis-agent into the guest and have it started there");
    char *arch = guestfs_file_architecture(g, systemd);
    if (arch == NULL)
        return files_fail(g, FILES_REFUSED, systemd);
    FilesStatus status =
        strcmp(arch, "x86_64") == 0
            ? FILES_OK
            : refuse("the system on the disk is for %s, and the agent for x86_64", arch);
    free(arch);
    return status;
}

/* PRETTY_NAME of os-release(5), or "". */
static char *system_name(guestfs_h *g)
{
    char **lines = guestfs_grep(g, "^PRETTY_NAME=", "/etc/os-release");
    g_autofree char *name = g_strdup("");
    if (lines != NULL && lines[0] != NULL) {
        g_autofree char *value = g_strdup(strchr(lines[0], '=') + 1);
        g_autofree char *unquoted = g_shell_unquote(value, NULL);
        g_free(name);
        name = g_utf8_make_valid(unquoted != NULL ? unquoted : value, -1);
    }
    for (guint i = 0; lines != NULL && lines[i] != NULL; i++)
        free(lines[i]);
    free(lines);
    return g_steal_pointer(&name);
}

/* ---- files ---- */

/* What is at @path: its mode, 0 for nothing. */
static guint32 mode_of(guestfs_h *g, const char *path)
{
    if (guestfs_exists(g, path) <= 0 && guestfs_is_symlink(g, path) <= 0)
        return 0;
    struct guestfs_statns *st = guestfs_lstatns(g, path);
    guint32 mode = st != NULL ? (guint32)st->st_mode : 0;
    if (st != NULL)
        guestfs_free_statns(st);
    return mode;
}

static gboolean is_same(guestfs_h *g, const char *path, const char *content, gsize len)
{
    g_autofree char *wanted =
        g_compute_checksum_for_data(G_CHECKSUM_SHA256, (const guchar *)content, len);
    char *found = guestfs_checksum(g, "sha256", path);
    gboolean same = g_strcmp0(found, wanted) == 0;
    free(found);
    return same;
}

/* Where files are labelled an unlabelled program is not started. */
static gboolean label(guestfs_h *g, const char *path, const char *like)
{
    size_t len;
    char *value = guestfs_lgetxattr(g, like, LABEL, &len);
    gboolean ok = value == NULL || guestfs_lsetxattr(g, LABEL, value, (int)len, path) == 0;
    free(value);
    return ok;
}

static FilesStatus check_place(Install *install, const char *path, guint32 type)
{
    guint32 mode = mode_of(install->g, path);
    if (mode == 0 || (mode & S_IFMT) == type)
        return FILES_OK;
    return refuse("%s is there in the guest and is not what stasis would make of it; see what it "
                  "is, and remove it",
                  path);
}

static FilesStatus put_file(Install *install, const Place *place, const char *source)
{
    guestfs_h *g = install->g;
    g_autofree char *content = NULL;
    gsize len;
    g_autoptr(GError) error = NULL;
    if (!g_file_get_contents(source, &content, &len, &error)) {
        fprintf(stderr, "%s\n", error->message);
        return FILES_FAILED;
    }
    guint32 mode = mode_of(g, place->path);
    if (mode != 0 && (int)(mode & 07777) == place->mode && is_same(g, place->path, content, len)) {
        did(install, place->path, FALSE);
        return FILES_OK;
    }
    g_autofree char *dir = g_path_get_dirname(place->path);
    g_autofree char *aside = g_strconcat(place->path, ".stasis-new", NULL);
    if (guestfs_mkdir_p(g, dir) < 0 || guestfs_rm_f(g, aside) < 0 ||
        guestfs_upload(g, source, aside) < 0 || guestfs_chown(g, 0, 0, aside) < 0 ||
        guestfs_chmod(g, place->mode, aside) < 0 || !label(g, aside, place->like) ||
        guestfs_mv(g, aside, place->path) < 0)
        return fail(install, place->path);
    did(install, place->path, TRUE);
    return FILES_OK;
}

static FilesStatus put_link(Install *install, const char *path, const char *target,
                            const char *like)
{
    guestfs_h *g = install->g;
    g_autofree char *dir = g_path_get_dirname(path);
    gboolean is_there = mode_of(g, path) != 0;
    if (!is_there &&
        (guestfs_mkdir_p(g, dir) < 0 || guestfs_ln_s(g, target, path) < 0 || !label(g, path, like)))
        return fail(install, path);
    did(install, path, !is_there);
    return FILES_OK;
}

/* ---- the operation ---- */

/* On disk before we say so. */
static FilesStatus finish(Install *install, const char *name)
{
    if (guestfs_umount_all(install->g) < 0 || guestfs_shutdown(install->g) < 0)
        return fail(install, "closing the disk");
    g_autoptr(JsonObject) result = json_object_new();
    json_object_set_string_member(result, "system", name);
    json_object_set_boolean_member(result, "changed", install->changed);
    json_object_set_array_member(result, "steps", json_array_ref(install->steps));
    g_autoptr(JsonNode) node = json_node_init_object(json_node_alloc(), result);
    g_autofree char *text = json_to_string(node, FALSE);
    return puts(text) >= 0 && fflush(stdout) == 0 ? FILES_OK : FILES_FAILED;
}

FilesStatus files_install(guestfs_h *g, const FilesOptions *options, char **arguments)
{
    static const Place program = { PROGRAM, 0755, "/usr/sbin" }, unit = { UNIT, 0644, UNIT_DIR },
                       session = { SESSION, 0755, "/usr/sbin" };
    g_autoptr(JsonArray) steps = json_array_new();
    Install install = { .g = g, .steps = steps };
    FilesStatus status = options->writable != NULL ? check_system(g) : FILES_USAGE;
    if (status == FILES_OK)
        status = check_place(&install, PROGRAM, S_IFREG);
    if (status == FILES_OK)
        status = check_place(&install, UNIT, S_IFREG);
    if (status == FILES_OK)
        status = check_place(&install, SESSION, S_IFREG);
    if (status == FILES_OK)
        status = check_place(&install, RESUME, S_IFLNK);
    if (status == FILES_OK)
        status = check_place(&install, LINK, S_IFLNK);
    g_autofree char *name = system_name(g);
    if (status == FILES_OK)
        status = put_file(&install, &program, arguments[0]);
    if (status == FILES_OK)
        status = put_file(&install, &unit, arguments[1]);
    if (status == FILES_OK)
        status = put_file(&install, &session, arguments[2]);
    if (status == FILES_OK)
        status = put_link(&install, RESUME, "stasis-session", "/usr/sbin");
    if (status == FILES_OK) /* as `systemctl enable` does */
        status = put_link(&install, LINK, UNIT, UNIT_DIR);
    return status == FILES_OK ? finish(&install, name) : status;
}

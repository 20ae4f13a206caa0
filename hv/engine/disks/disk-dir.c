/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/disks/disk-dir.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"
#include "base/json.h"
#include "disk/freeze.h"
#include "vmm/registry.h"

#define MARK_FILE "vm.json"
#define MARK_ASIDE "." MARK_FILE "." /* … PID, while it is written */
#define MAX_MARK_BYTES 65536u
/* What mkdtemp(3) makes of ".XXXXXX". */
#define ENDING_BYTES 7u

int stasis_disk_dir_open(const char *path)
{
    return open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* ---- the mark ---- */

gboolean stasis_disk_dir_mark(int dir_fd, const StasisDiskDirMark *mark, GError **error)
{
    g_autoptr(JsonObject) object = json_object_new();
    stasis_json_set_string(object, "vm", mark->vm);
    json_object_set_int_member(object, "pid", mark->pid);
    json_object_set_int_member(object, "start_time", (gint64)mark->start_time);
    json_object_set_boolean_member(object, "temporary", mark->temporary);
    g_autofree char *text = stasis_json_to_text(object, TRUE);
    return stasis_write_file_at(dir_fd, MARK_FILE, text, strlen(text), !mark->temporary, error);
}

typedef enum { NO_MARK, UNREADABLE, MARKED } Marked;

/* @ret: of what the mark says, without the name. */
static Marked read_mark(int dir_fd, StasisDiskDirMark *ret)
{
    gsize len;
    guint64 pid;
    const char *vm;
    if (faccessat(dir_fd, MARK_FILE, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? NO_MARK : UNREADABLE;
    g_autofree char *text = stasis_read_file_at(dir_fd, MARK_FILE, MAX_MARK_BYTES, &len, NULL);
    g_autoptr(JsonObject) object =
        text != NULL ? stasis_json_parse_object(text, (gssize)len, NULL) : NULL;
    if (object == NULL || !stasis_json_string(object, "vm", &vm, NULL) ||
        !stasis_json_uint(object, "pid", &pid, NULL) || pid > G_MAXINT32 ||
        !stasis_json_uint(object, "start_time", &ret->start_time, NULL) ||
        !stasis_json_bool(object, "temporary", &ret->temporary, NULL))
        return UNREADABLE;
    ret->pid = (pid_t)pid;
    return MARKED;
}

gboolean stasis_disk_dir_is_marked(int dir_fd)
{
    StasisDiskDirMark mark;
    return read_mark(dir_fd, &mark) != NO_MARK;
}

/* ---- removing ---- */

/* disk-N.qcow2, disk-N.base, and overlays of the former (--disk overlay). */
static gboolean is_disk(const char *name)
{
    const char *digits = name + strlen("disk-");
    if (!g_str_has_prefix(name, "disk-") || !g_ascii_isdigit(*digits))
        return FALSE;
    const char *ending = digits + strspn(digits, G_CSET_DIGITS);
    if (strcmp(ending, ".qcow2") == 0 || strcmp(ending, ".base") == 0)
        return TRUE;
    return g_str_has_prefix(ending, ".qcow2") && stasis_disk_is_overlay_path(name) &&
           name + stasis_disk_overlay_stem(name) == ending + strlen(".qcow2");
}

static gboolean is_ours(const char *name)
{
    const char *pid = name + strlen(MARK_ASIDE);
    return is_disk(name) || strcmp(name, MARK_FILE) == 0 ||
           (g_str_has_prefix(name, MARK_ASIDE) && *pid != '\0' &&
            pid[strspn(pid, G_CSET_DIGITS)] == '\0');
}

/* The mark last: what is left when we are killed can be told to be ours. */
void stasis_disk_dir_remove(int dir_fd, const char *path)
{
    g_autofree char *listed = g_strdup_printf("/proc/self/fd/%d", dir_fd);
    g_autoptr(GDir) list = g_dir_open(listed, 0, NULL);
    for (const char *name; list != NULL && (name = g_dir_read_name(list)) != NULL;)
        if (is_ours(name) && strcmp(name, MARK_FILE) != 0)
            unlinkat(dir_fd, name, 0);
    unlinkat(dir_fd, MARK_FILE, 0);
    rmdir(path);
}

static gboolean has_our_name(const char *name)
{
    gsize len = strlen(name);
    if (len <= ENDING_BYTES || name[len - ENDING_BYTES] != '.')
        return FALSE;
    for (const char *c = name + len - ENDING_BYTES + 1; *c != '\0'; c++)
        if (!g_ascii_isalnum(*c))
            return FALSE;
    return TRUE;
}

/* Does nobody want it? Not if nobody can tell. */
static gboolean is_left(int dir_fd, gboolean own)
{
    struct stat st;
    StasisDiskDirMark mark;
    Marked marked = read_mark(dir_fd, &mark);
    if (marked == NO_MARK)
        return own;
    return marked == MARKED && mark.temporary && fstat(dir_fd, &st) == 0 &&
           st.st_uid == geteuid() && stasis_process_start_time(mark.pid) != mark.start_time;
}

void stasis_disk_dir_sweep(const char *parent, gboolean own)
{
    g_autoptr(GDir) list = g_dir_open(parent, 0, NULL);
    for (const char *name; list != NULL && (name = g_dir_read_name(list)) != NULL;) {
        if (!has_our_name(name))
            continue;
        g_autofree char *path = g_build_filename(parent, name, NULL);
        stasis_autofd int fd = stasis_disk_dir_open(path);
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0 && is_left(fd, own))
            stasis_disk_dir_remove(fd, path);
    }
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * VMs by name, in the runtime directory.
 *
 * It lies on a file system that a reboot empties, as it does the processes, so nothing is synced.
 * No process of ours has to run: what is known is in vm.json, and who is at work holds flock(2) on
 * the file "lock", which ends with the process; the PID in that file is for people only.
 */
#include "vmm/registry.h"

#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/io.h"
#include "base/json.h"
#include "base/tree.h"
#include "vmm/logs.h"

#define REMOVE_TRIES 100u
#define REMOVE_STEP_US 10000u
#define RECORD_FILE "vm.json"
#define LOCK_FILE "lock"
#define MAX_RECORD_BYTES (1u << 20)
#define MAX_NAME 64

void stasis_record_free(StasisRecord *record)
{
    if (record == NULL)
        return;
    g_free(record->name);
    g_free(record->qmp_path);
    g_free(record->uri);
    g_free(record->domain);
    g_free(record->uuid);
    g_free(record->console_path);
    g_free(record->accel_reason);
    g_free(record->disk_dir);
    g_strfreev(record->overlay_files);
    g_free(record->overlay_image);
    g_free(record->overlay_store);
    g_free(record->track_image);
    g_free(record->track_store);
    g_free(record);
}

char *stasis_runtime_dir(GError **error)
{
    const char *chosen = g_getenv("STASIS_RUNTIME_DIR"), *session = g_getenv("XDG_RUNTIME_DIR");
    g_autofree char *dir = NULL;
    if (chosen != NULL && chosen[0] != '\0')
        dir = g_canonicalize_filename(chosen, NULL);
    else if (geteuid() == 0)
        dir = g_strdup("/run/stasis");
    else if (session != NULL && session[0] == '/')
        dir = g_build_filename(session, "stasis", NULL);
    if (dir == NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "no runtime directory: set STASIS_RUNTIME_DIR (XDG_RUNTIME_DIR is not set)");
        return NULL;
    }
    struct stat st;
    if (g_mkdir_with_parents(dir, 0700) < 0 || stat(dir, &st) < 0) {
        stasis_set_errno(error, errno, "make runtime directory %s", dir);
        return NULL;
    }
    /* Whoever can write there can have us signal and trace a process of his choice. */
    if ((st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & (S_IWGRP | S_IWOTH))) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "runtime directory %s: others may write to it; chmod 700 it or choose another "
                    "with STASIS_RUNTIME_DIR",
                    dir);
        return NULL;
    }
    return g_steal_pointer(&dir);
}

gboolean stasis_vm_name_check(const char *name, GError **error)
{
    static const char allowed[] = G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "._-";
    gsize len = strlen(name);
    if (len >= 1 && len <= MAX_NAME && strspn(name, allowed) == len &&
        strchr(".-", name[0]) == NULL)
        return TRUE;
    g_autofree char *shown = g_strescape(name, NULL);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                "VM name \"%.80s\": must be 1 to %d of A-Z a-z 0-9 . _ - and not begin with . or -",
                shown, MAX_NAME);
    return FALSE;
}

char *stasis_vm_dir(const char *name, GError **error)
{
    if (!stasis_vm_name_check(name, error))
        return NULL;
    g_autofree char *runtime_dir = stasis_runtime_dir(error);
    return runtime_dir != NULL ? g_build_filename(runtime_dir, name, NULL) : NULL;
}

/* The VM's directory opened, made first when @create. -1 and −errno in *ret_errno, or -1 and
 * *ret_errno 0 with @error set. */
static int open_vm_dir(const char *name, gboolean create, int *ret_errno, GError **error)
{
    *ret_errno = 0;
    g_autofree char *path = stasis_vm_dir(name, error);
    if (path == NULL)
        return -1;
    if (create && mkdir(path, 0700) < 0 && errno != EEXIST) {
        stasis_set_errno(error, errno, "make %s", path);
        return -1;
    }
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0)
        return fd;
    *ret_errno = errno;
    if (errno == ENOENT)
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                    "no VM \"%s\" on this host; see stasis list", name);
    else
        stasis_set_errno(error, errno, "open %s", path);
    return -1;
}

static gboolean read_int(JsonObject *object, const char *name, guint64 max, guint64 *ret,
                         GError **error)
{
    if (!stasis_json_uint(object, name, ret, error))
        return FALSE;
    if (*ret <= max)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "JSON: \"%s\" is out of range", name);
    return FALSE;
}

static StasisRecord *parse_record(const char *name, JsonObject *o, GError **error)
{
    g_autoptr(StasisRecord) record = g_new0(StasisRecord, 1);
    const char *uri = stasis_json_string_or(o, "uri", NULL), *qmp_path = NULL, *domain = NULL,
               *uuid = NULL;
    guint64 pid, start_time;
    gboolean found = uri != NULL ? stasis_json_string(o, "domain", &domain, error) &&
                                       stasis_json_string(o, "uuid", &uuid, error)
                                 : stasis_json_string(o, "qmp_path", &qmp_path, error);
    if (!found || !read_int(o, "pid", G_MAXINT, &pid, error) ||
        !read_int(o, "start_time", G_MAXINT64, &start_time, error) ||
        !stasis_json_bool(o, "prepared", &record->prepared, error))
        return NULL;
    record->name = g_strdup(name);
    record->pid = (pid_t)pid;
    record->start_time = start_time;
    record->qmp_path = g_strdup(qmp_path);
    record->uri = g_strdup(uri);
    record->domain = g_strdup(domain);
    record->uuid = g_strdup(uuid);
    record->console_path = g_strdup(stasis_json_string_or(o, "console_path", NULL));
    record->accel_reason = g_strdup(stasis_json_string_or(o, "accel_reason", NULL));
    record->disk_dir = g_strdup(stasis_json_string_or(o, "disk_dir", NULL));
    record->disks_temporary = stasis_json_bool_or(o, "disks_temporary", FALSE);
    record->maker_pid = (pid_t)MIN(stasis_json_uint_or(o, "maker_pid", 0), (guint64)G_MAXINT);
    record->maker_start_time = stasis_json_uint_or(o, "maker_start_time", 0);
    record->reader_pid = (pid_t)MIN(stasis_json_uint_or(o, "reader_pid", 0), (guint64)G_MAXINT);
    record->reader_start_time = stasis_json_uint_or(o, "reader_start_time", 0);
    record->track_image = g_strdup(stasis_json_string_or(o, "track_image", NULL));
    record->track_store = g_strdup(stasis_json_string_or(o, "track_store", NULL));
    record->overlay_files = stasis_json_strings(o, "overlay_files", /* max= */ G_MAXUINT, NULL);
    record->overlay_image = g_strdup(stasis_json_string_or(o, "overlay_image", NULL));
    record->overlay_store = g_strdup(stasis_json_string_or(o, "overlay_store", NULL));
    record->track_token = g_ascii_strtoull(stasis_json_string_or(o, "track_token", "0"), NULL, 16);
    return g_steal_pointer(&record);
}

StasisRecord *stasis_record_load(const char *name, GError **error)
{
    int errnum;
    stasis_autofd int dir_fd = open_vm_dir(name, FALSE, &errnum, error);
    if (dir_fd < 0)
        return NULL;
    if (faccessat(dir_fd, RECORD_FILE, F_OK, 0) < 0 && errno == ENOENT) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                    "no VM \"%s\" on this host; see stasis list", name);
        return NULL;
    }
    gsize len;
    g_autofree char *text = stasis_read_file_at(dir_fd, RECORD_FILE, MAX_RECORD_BYTES, &len, error);
    g_autoptr(JsonObject) o =
        text != NULL ? stasis_json_parse_object(text, (gssize)len, error) : NULL;
    StasisRecord *record = o != NULL ? parse_record(name, o, error) : NULL;
    if (record == NULL)
        g_prefix_error(error, "VM \"%s\": " RECORD_FILE ": ", name);
    return record;
}

static void set_string(JsonObject *o, const char *name, const char *value)
{
    if (value != NULL)
        json_object_set_string_member(o, name, value);
}

gboolean stasis_record_save(const StasisRecord *record, GError **error)
{
    int errnum;
    stasis_autofd int dir_fd = open_vm_dir(record->name, TRUE, &errnum, error);
    if (dir_fd < 0)
        return FALSE;
    g_autoptr(JsonObject) o = json_object_new();
    set_string(o, "name", record->name);
    json_object_set_int_member(o, "pid", record->pid);
    json_object_set_int_member(o, "start_time", (gint64)record->start_time);
    set_string(o, "qmp_path", record->qmp_path);
    set_string(o, "uri", record->uri);
    set_string(o, "domain", record->domain);
    set_string(o, "uuid", record->uuid);
    set_string(o, "console_path", record->console_path);
    set_string(o, "accel_reason", record->accel_reason);
    json_object_set_boolean_member(o, "prepared", record->prepared);
    set_string(o, "disk_dir", record->disk_dir);
    json_object_set_boolean_member(o, "disks_temporary", record->disks_temporary);
    if (record->maker_pid != 0) {
        json_object_set_int_member(o, "maker_pid", record->maker_pid);
        json_object_set_int_member(o, "maker_start_time", (gint64)record->maker_start_time);
    }
    if (record->reader_pid != 0) {
        json_object_set_int_member(o, "reader_pid", record->reader_pid);
        json_object_set_int_member(o, "reader_start_time", (gint64)record->reader_start_time);
    }
    stasis_json_set_strings(o, "overlay_files", (const char *const *)record->overlay_files);
    set_string(o, "overlay_image", record->overlay_image);
    set_string(o, "overlay_store", record->overlay_store);
    set_string(o, "track_image", record->track_image);
    set_string(o, "track_store", record->track_store);
    g_autofree char *token = g_strdup_printf("%" G_GINT64_MODIFIER "x", record->track_token);
    set_string(o, "track_token", token);
    g_autofree char *text = stasis_json_to_text(o, TRUE);
    g_autoptr(GError) full = NULL;
    if (stasis_write_file_at(dir_fd, RECORD_FILE, text, strlen(text), FALSE, &full))
        return TRUE;
    /* Maybe because of what a guest wrote; then there is room now. */
    stasis_logs_bound(NULL);
    if (stasis_write_file_at(dir_fd, RECORD_FILE, text, strlen(text), FALSE, error))
        return TRUE;
    g_prefix_error(error, "VM \"%s\": ", record->name);
    return FALSE;
}

gboolean stasis_record_set_tracking(StasisRecord *record, const char *image, const char *store,
                                    guint64 token, GError **error)
{
    if (g_strcmp0(record->track_image, image) == 0 && g_strcmp0(record->track_store, store) == 0 &&
        record->track_token == token)
        return TRUE;
    g_autofree char *old_image = g_steal_pointer(&record->track_image);
    g_autofree char *old_store = g_steal_pointer(&record->track_store);
    record->track_image = g_strdup(image);
    record->track_store = g_strdup(store);
    record->track_token = token;
    return stasis_record_save(record, error);
}

gboolean stasis_record_is_alive(const StasisRecord *record)
{
    guint64 start_time = stasis_process_start_time(record->pid);
    return start_time != 0 && start_time == record->start_time;
}

gboolean stasis_record_is_orphan(const StasisRecord *record)
{
    return record->maker_pid != 0 &&
           stasis_process_start_time(record->maker_pid) != record->maker_start_time;
}

gboolean stasis_record_remove(const char *name, GError **error)
{
    g_autofree char *path = stasis_vm_dir(name, error);
    if (path == NULL)
        return FALSE;
    int errnum;
    g_autoptr(GError) local = NULL;
    stasis_autofd int dir_fd = open_vm_dir(name, FALSE, &errnum, &local);
    if (dir_fd < 0 && errnum == ENOENT)
        return TRUE;
    if (dir_fd < 0) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
    }
    /* The record first: whatever happens then, the VM is no longer listed. */
    unlinkat(dir_fd, RECORD_FILE, 0);
    int r = -ENOTEMPTY;
    /* A pager that is about to end may write how far it is, between the two. */
    for (guint tries = 0; r == -ENOTEMPTY && tries < REMOVE_TRIES; tries++) {
        if (tries > 0)
            g_usleep(REMOVE_STEP_US);
        r = stasis_empty_dir(dir_fd, 4);
        if (r == 0 && rmdir(path) < 0 && errno != ENOENT)
            r = -errno;
    }
    return r == 0 || stasis_set_errno(error, -r, "remove %s", path);
}

/* What agent-serve and proc-watch keep, unless one is at work: it has the lock. */
static void forget_state(const char *dir, const char *file)
{
    g_autofree char *path = g_build_filename(dir, file, NULL);
    g_autofree char *lock = g_strconcat(path, ".lock", NULL);
    stasis_autofd int fd = open(lock, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
        return;
    unlink(path);
    unlink(lock);
}

gboolean stasis_record_forget(const char *name, GError **error)
{
    static const char *const ours[] = { RECORD_FILE,     LOCK_FILE, "pager.lock", "pager.log",
                                        "rollback.json", "awaken",  "agent-heard" };
    g_autofree char *path = stasis_vm_dir(name, error);
    if (path == NULL)
        return FALSE;
    for (gsize i = 0; i < G_N_ELEMENTS(ours); i++) {
        g_autofree char *file = g_build_filename(path, ours[i], NULL);
        if (unlink(file) < 0 && errno != ENOENT)
            return stasis_set_errno(error, errno, "remove %s", file);
    }
    forget_state(path, "served");
    forget_state(path, "watched");
    rmdir(path);
    return TRUE;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

char **stasis_record_names(GError **error)
{
    g_autofree char *runtime_dir = stasis_runtime_dir(error);
    g_autoptr(GDir) dir = runtime_dir != NULL ? g_dir_open(runtime_dir, 0, error) : NULL;
    if (dir == NULL)
        return NULL;
    GPtrArray *names = g_ptr_array_new();
    for (const char *name; (name = g_dir_read_name(dir)) != NULL;) {
        g_autofree char *record = g_build_filename(runtime_dir, name, RECORD_FILE, NULL);
        if (stasis_vm_name_check(name, NULL) && g_file_test(record, G_FILE_TEST_IS_REGULAR))
            g_ptr_array_add(names, g_strdup(name));
    }
    g_ptr_array_sort(names, compare_names);
    g_ptr_array_add(names, NULL);
    return (char **)g_ptr_array_free(names, FALSE);
}

/* Is @fd still the file that the name leads to? (A remover may have unlinked it as we waited.) */
static gboolean is_current(int dir_fd, int fd)
{
    struct stat opened, named;
    return fstat(fd, &opened) == 0 && fstatat(dir_fd, LOCK_FILE, &named, 0) == 0 &&
           opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
}

static void set_busy(const char *name, int fd, GError **error)
{
    char holder[32] = { 0 };
    ssize_t n = pread(fd, holder, sizeof holder - 1, 0);
    holder[n > 0 ? strspn(holder, G_CSET_DIGITS) : 0] = '\0';
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                "VM \"%s\" is in use by process %s; wait for it to end, or end it", name,
                holder[0] != '\0' ? holder : "(unknown)");
}

int stasis_record_lock(const char *name, guint wait_ms, GError **error)
{
    guint64 deadline_us = stasis_now_us() + wait_ms * G_GUINT64_CONSTANT(1000);
    for (;;) {
        int errnum;
        stasis_autofd int dir_fd = open_vm_dir(name, TRUE, &errnum, error);
        if (dir_fd < 0)
            return -1;
        stasis_autofd int fd =
            openat(dir_fd, LOCK_FILE, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0 && errno == ENOENT) /* the directory was removed just now */
            continue;
        if (fd < 0) {
            stasis_set_errno(error, errno, "VM \"%s\": open its lock", name);
            return -1;
        }
        if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
            if (!is_current(dir_fd, fd))
                continue;
            char pid[16];
            int len = snprintf(pid, sizeof pid, "%d\n", (int)getpid());
            int r = ftruncate(fd, 0) < 0 ? -errno : stasis_pwrite_all(fd, pid, (size_t)len, 0);
            if (r == 0)
                return stasis_steal_fd(&fd);
            stasis_set_errno(error, -r, "VM \"%s\": write its lock", name);
            return -1;
        }
        if (stasis_now_us() >= deadline_us) {
            set_busy(name, fd, error);
            return -1;
        }
        g_usleep(10000);
    }
}

guint64 stasis_process_start_time(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", (int)pid);
    g_autofree char *stat = NULL;
    if (pid <= 0 || !g_file_get_contents(path, &stat, NULL, NULL))
        return 0;
    /* Field 2 is the name in parentheses and may hold anything; 3 is the state, 20 the number of
     * threads, 22 the time. A first thread that is a zombie beside others that still end has its
     * memory and its sockets. */
    const char *after = strrchr(stat, ')');
    char state;
    long n_threads;
    unsigned long long start_time;
    if (after == NULL || sscanf(after + 1,
                                " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s "
                                "%*s %ld %*s %llu",
                                &state, &n_threads, &start_time) != 3)
        return 0;
    return (state == 'Z' || state == 'X') && n_threads <= 1 ? 0 : start_time;
}

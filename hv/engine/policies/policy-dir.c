/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where policies are: a file each, named after the VM, written aside and renamed. */
#include <errno.h>
#include <stasis/error.h>
#include <stasis/policy.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/io.h"

#define SUFFIX ".json"
#define MAX_BYTES 65536

char *stasis_state_dir(GError **error)
{
    const char *chosen = g_getenv("STASIS_STATE_DIR");
    g_autofree char *dir = NULL;
    if (chosen != NULL && chosen[0] != '\0')
        dir = g_canonicalize_filename(chosen, NULL);
    else if (geteuid() == 0)
        dir = g_strdup("/var/lib/stasisd");
    else
        dir = g_build_filename(g_get_user_state_dir(), "stasis", NULL);
    struct stat st;
    if (g_mkdir_with_parents(dir, 0700) < 0 || stat(dir, &st) < 0) {
        stasis_set_errno(error, errno, "make state directory %s", dir);
        return NULL;
    }
    /* Whoever can write there has us write images where he wants them. */
    if ((st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & (S_IWGRP | S_IWOTH))) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "state directory %s: others may write to it; chmod 700 it or choose another "
                    "with STASIS_STATE_DIR",
                    dir);
        return NULL;
    }
    return g_steal_pointer(&dir);
}

/* A descriptor of its directory, or -1. */
static int open_policies(GError **error)
{
    g_autofree char *state = stasis_state_dir(error);
    if (state == NULL)
        return -1;
    g_autofree char *dir = g_build_filename(state, "policies", NULL);
    if (mkdir(dir, 0700) < 0 && errno != EEXIST) {
        stasis_set_errno(error, errno, "make %s", dir);
        return -1;
    }
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        stasis_set_errno(error, errno, "open %s", dir);
    return fd;
}

/* A domain's name may have a "/" in it. */
static char *file_of(const char *vm)
{
    g_autofree char *escaped = g_uri_escape_string(vm, NULL, FALSE);
    return g_strconcat("vm-", escaped, SUFFIX, NULL);
}

static StasisPolicy *read_file(int dir_fd, const char *name, GError **error)
{
    gsize len = 0;
    g_autofree char *text = stasis_read_file_at(dir_fd, name, MAX_BYTES, &len, error);
    StasisPolicy *policy = text != NULL ? stasis_policy_from_text(text, (gssize)len, error) : NULL;
    if (policy == NULL)
        g_prefix_error(error, "%s: ", name);
    return policy;
}

StasisPolicy *stasis_policy_load(const char *vm, GError **error)
{
    stasis_autofd int dir_fd = open_policies(error);
    if (dir_fd < 0)
        return NULL;
    g_autofree char *name = file_of(vm);
    if (faccessat(dir_fd, name, F_OK, 0) < 0 && errno == ENOENT) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                    "VM \"%s\" has no policy; see `stasis policy-list`", vm);
        return NULL;
    }
    return read_file(dir_fd, name, error);
}

gboolean stasis_policy_save(const StasisPolicy *policy, GError **error)
{
    stasis_autofd int dir_fd = stasis_policy_check(policy, error) ? open_policies(error) : -1;
    if (dir_fd < 0)
        return FALSE;
    g_autofree char *name = file_of(policy->vm), *text = stasis_policy_to_text(policy);
    return stasis_write_file_at(dir_fd, name, text, strlen(text), /* durable= */ TRUE, error);
}

gboolean stasis_policy_remove(const char *vm, GError **error)
{
    stasis_autofd int dir_fd = open_policies(error);
    if (dir_fd < 0)
        return FALSE;
    g_autofree char *name = file_of(vm);
    if (unlinkat(dir_fd, name, 0) < 0) {
        if (errno != ENOENT)
            return stasis_set_errno(error, errno, "remove the policy of VM \"%s\"", vm);
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                    "VM \"%s\" has no policy; see `stasis policy-list`", vm);
        return FALSE;
    }
    return fsync(dir_fd) == 0 || stasis_set_errno(error, errno, "sync the policies' directory");
}

static gint compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp((*(StasisPolicy *const *)a)->vm, (*(StasisPolicy *const *)b)->vm);
}

GPtrArray *stasis_policy_list(char ***ret_bad, GError **error)
{
    stasis_autofd int dir_fd = open_policies(error);
    if (dir_fd < 0)
        return NULL;
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", dir_fd);
    g_autoptr(GDir) dir = g_dir_open(path, 0, error);
    if (dir == NULL)
        return NULL;
    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func((GDestroyNotify)stasis_policy_free);
    g_autoptr(GStrvBuilder) bad = g_strv_builder_new();
    for (const char *name; (name = g_dir_read_name(dir)) != NULL;) {
        if (!g_str_has_prefix(name, "vm-") || !g_str_has_suffix(name, SUFFIX))
            continue;
        StasisPolicy *policy = read_file(dir_fd, name, NULL);
        if (policy != NULL)
            g_ptr_array_add(all, policy);
        else
            g_strv_builder_add(bad, name);
    }
    g_ptr_array_sort(all, compare_names);
    if (ret_bad != NULL)
        *ret_bad = g_strv_builder_end(bad);
    return g_steal_pointer(&all);
}

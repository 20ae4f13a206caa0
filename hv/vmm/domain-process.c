/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which process is a domain's QEMU? libvirt does not tell, and where it keeps its PID files depends
 * on how it was built and who runs it. So QEMU is given a descriptor with a name that nobody else
 * has: among the processes whose command line has the domain's UUID, the one that has it open is
 * meant. That there is one also shows that QEMU runs on this host.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "vmm/domain-internal.h"

#define FD_NAME "stasis-who"
#define MAX_CMDLINE (4u << 20)

static gboolean has_uuid(const char *pid, const char *uuid)
{
    g_autofree char *path = g_strdup_printf("/proc/%s/cmdline", pid);
    g_autofree char *text = NULL;
    gsize len;
    return g_file_get_contents(path, &text, &len, NULL) && len < MAX_CMDLINE &&
           memmem(text, len, uuid, strlen(uuid)) != NULL;
}

static gboolean has_open(const char *pid, const char *link)
{
    g_autofree char *dir_path = g_strdup_printf("/proc/%s/fd", pid);
    g_autoptr(GDir) dir = g_dir_open(dir_path, 0, NULL);
    for (const char *name; dir != NULL && (name = g_dir_read_name(dir)) != NULL;) {
        g_autofree char *path = g_build_filename(dir_path, name, NULL);
        g_autofree char *target = g_file_read_link(path, NULL);
        if (g_strcmp0(target, link) == 0)
            return TRUE;
    }
    return FALSE;
}

static pid_t search(const char *uuid, const char *link)
{
    g_autoptr(GDir) proc = g_dir_open("/proc", 0, NULL);
    g_autofree char *self = g_strdup_printf("%d", (int)getpid());
    for (const char *name; proc != NULL && (name = g_dir_read_name(proc)) != NULL;) {
        if (!g_ascii_isdigit(*name) || strcmp(name, self) == 0)
            continue;
        if (has_uuid(name, uuid) && has_open(name, link))
            return (pid_t)g_ascii_strtoll(name, NULL, 10);
    }
    return 0;
}

pid_t stasis_domain_find_process(StasisQmp *qmp, const char *uuid)
{
    g_autofree char *random = g_uuid_string_random();
    g_autofree char *name = g_strdup_printf("stasis-%s", random);
    g_autofree char *link = g_strdup_printf("/memfd:%s (deleted)", name);
    stasis_autofd int fd = memfd_create(name, MFD_CLOEXEC);
    g_autoptr(JsonObject) arguments = json_object_new();
    json_object_set_string_member(arguments, "fdname", FD_NAME);
    g_autoptr(JsonNode) given =
        fd >= 0 ? stasis_qmp_execute(qmp, "getfd", arguments, fd, 0, NULL) : NULL;
    if (given == NULL)
        return 0;
    pid_t pid = search(uuid, link);
    g_autoptr(JsonNode) closed = stasis_qmp_execute(qmp, "closefd", arguments, -1, 0, NULL);
    return pid;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who is at the other end of a monitor's socket.
 *
 * SO_PEERCRED gives the process that called listen(). When a manager opened the socket and handed
 * it to QEMU, that is the manager; when QEMU detached itself after listening, a parent that is
 * gone, and its PID may be another's by now. So the claim is checked: a process counts only if one
 * of its descriptors is a socket bound to the path the peer has, by /proc/net/unix. Descriptors of
 * other users' processes can be seen with CAP_SYS_PTRACE only; without it the claim is taken as is
 * as long as that process lives.
 */
#include "vmm/qmp-peer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/clock.h"
#include "base/fd.h"

#define ACCEPTS_CONNECTIONS 0x10000 /* __SO_ACCEPTCON, <linux/net.h> */

/* A path longer than sun_path is reached through a descriptor of its directory. */
static gboolean fill_address(struct sockaddr_un *address, const char *path, int *ret_dir_fd)
{
    *address = (struct sockaddr_un){ .sun_family = AF_UNIX };
    if (strlen(path) < sizeof address->sun_path) {
        strcpy(address->sun_path, path);
        return TRUE;
    }
    g_autofree char *dir = g_path_get_dirname(path);
    g_autofree char *base = g_path_get_basename(path);
    *ret_dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*ret_dir_fd < 0)
        return FALSE;
    int n = snprintf(address->sun_path, sizeof address->sun_path, "/proc/self/fd/%d/%s",
                     *ret_dir_fd, base);
    errno = ENAMETOOLONG;
    return n < (int)sizeof address->sun_path;
}

int stasis_qmp_socket_connect(const char *path, guint64 deadline_us, GCancellable *cancellable,
                              int *ret_error)
{
    struct sockaddr_un address;
    stasis_autofd int dir_fd = -1;
    stasis_autofd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || !fill_address(&address, path, &dir_fd)) {
        *ret_error = -errno;
        return -1;
    }
    for (;;) {
        if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
            return stasis_steal_fd(&fd);
        *ret_error = -errno;
        if (errno == EINTR)
            continue;
        /* EAGAIN: the queue of the listening socket is full; there is nothing to poll for. */
        if (errno != EAGAIN || stasis_now_us() >= deadline_us)
            return -1;
        if (cancellable != NULL && g_cancellable_is_cancelled(cancellable)) {
            *ret_error = -ECANCELED;
            return -1;
        }
        g_usleep(5000);
    }
}

/* A line of /proc/net/unix: Num RefCount Protocol Flags Type St Inode Path. Its path, or NULL. */
static const char *parse_socket(const char *line, guint64 *ret_inode, gboolean *ret_listening)
{
    unsigned flags;
    unsigned long long inode;
    int at = 0;
    if (sscanf(line, "%*s %*x %*x %x %*x %*x %llu %n", &flags, &inode, &at) != 2 || at == 0)
        return NULL;
    *ret_inode = inode;
    *ret_listening = (flags & ACCEPTS_CONNECTIONS) != 0;
    return line + at;
}

/* Inodes of the sockets bound to @path: of the listening ones only, or of all. */
static GArray *sockets_of(const char *path, gboolean listening)
{
    GArray *inodes = g_array_new(FALSE, FALSE, sizeof(guint64));
    g_autofree char *table = NULL;
    if (!g_file_get_contents("/proc/net/unix", &table, NULL, NULL))
        return inodes;
    for (char *save = NULL, *line = strtok_r(table, "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        guint64 inode = 0;
        gboolean listens = FALSE;
        const char *found = parse_socket(line, &inode, &listens);
        if (g_strcmp0(found, path) == 0 && (!listening || listens))
            g_array_append_val(inodes, inode);
    }
    return inodes;
}

gboolean stasis_unix_is_listening(const char *path)
{
    g_autoptr(GArray) inodes = sockets_of(path, TRUE);
    return inodes->len > 0;
}

/* Does @pid have one of these sockets open? -1: not allowed to look. */
static int has_socket(pid_t pid, const GArray *inodes)
{
    g_autofree char *dir_path = g_strdup_printf("/proc/%d/fd", (int)pid);
    g_autoptr(GDir) dir = g_dir_open(dir_path, 0, NULL);
    if (dir == NULL)
        return -1;
    for (const char *name; (name = g_dir_read_name(dir)) != NULL;) {
        g_autofree char *link = g_build_filename(dir_path, name, NULL);
        char target[64];
        unsigned long long inode;
        ssize_t n = readlink(link, target, sizeof target - 1);
        target[MAX(n, 0)] = '\0';
        if (sscanf(target, "socket:[%llu]", &inode) != 1)
            continue;
        for (guint i = 0; i < inodes->len; i++)
            if (g_array_index(inodes, guint64, i) == inode)
                return 1;
    }
    return 0;
}

char *stasis_unix_listening_path(pid_t pid, const char *suffix)
{
    g_autofree char *table = NULL;
    if (!g_file_get_contents("/proc/net/unix", &table, NULL, NULL))
        return NULL;
    for (char *save = NULL, *line = strtok_r(table, "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        guint64 inode = 0;
        gboolean listens = FALSE;
        const char *path = parse_socket(line, &inode, &listens);
        if (path == NULL || !listens || !g_str_has_suffix(path, suffix))
            continue;
        g_autoptr(GArray) inodes = g_array_new(FALSE, FALSE, sizeof(guint64));
        g_array_append_val(inodes, inode);
        if (has_socket(pid, inodes) == 1)
            return g_strdup(path);
    }
    return NULL;
}

/* The one process that has one of these sockets open; 0 when there is none, or more than one. */
static pid_t find_holder(const GArray *inodes)
{
    g_autoptr(GDir) proc = g_dir_open("/proc", 0, NULL);
    pid_t found = 0;
    for (const char *name; proc != NULL && (name = g_dir_read_name(proc)) != NULL;) {
        guint64 pid;
        if (!g_ascii_string_to_unsigned(name, 10, 1, G_MAXINT, &pid, NULL))
            continue;
        if (pid == (guint64)getpid() || has_socket((pid_t)pid, inodes) != 1)
            continue;
        if (found != 0)
            return 0;
        found = (pid_t)pid;
    }
    return found;
}

pid_t stasis_qmp_find_peer(int fd)
{
    struct ucred claim = { 0 };
    socklen_t len = sizeof claim;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &claim, &len) < 0)
        claim.pid = 0;
    gboolean lives = claim.pid > 0 && (kill(claim.pid, 0) == 0 || errno == EPERM);
    struct sockaddr_un peer = { 0 };
    len = sizeof peer - 1; /* keeps its last byte 0 */
    if (getpeername(fd, (struct sockaddr *)&peer, &len) < 0 || peer.sun_path[0] == '\0')
        return lives ? claim.pid : 0;
    g_autoptr(GArray) inodes = sockets_of(peer.sun_path, FALSE);
    if (inodes->len == 0)
        return lives ? claim.pid : 0;
    int holds = lives ? has_socket(claim.pid, inodes) : 0;
    if (holds == 1)
        return claim.pid;
    pid_t holder = find_holder(inodes);
    return holder != 0 ? holder : lives && holds < 0 ? claim.pid : 0;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU's NBD server. There is one in a process, and no command tells where it listens. Ours is
 * known by the name of its socket. That of somebody else is looked for among the UNIX sockets at
 * which QEMU listens and that are no character device's: an NBD server is the one that says so
 * first.
 *
 * Exports of disks with an iothread. A connection is closed in the thread in which its export is
 * served, when the other end of it has gone; and where that is not the main thread QEMU before 9.0
 * ends itself (nbd_blockdev_client_closed() asserts it; also in 7.2 with its security updates). Our
 * end goes when we are killed. So QEMU has a copy of our end, too, since before the first byte is
 * said: what it has open itself does not close, whatever becomes of us. Connections end when their
 * export is taken away, which QEMU does in its main thread; only then the copy is closed.
 */
#include "disk/nbd-server.h"

#include <errno.h>
#include <poll.h>
#include <stasis/error.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/io.h"
#include "base/json.h"
#include "disk/internal.h"
#include "disk/nbd-load.h"

#define OUR_SOCKET "stasis-nbd.sock"
#define FD_NAME "stasis-nbd"
/* Copies of our ends of connections in QEMU are numbered. */
#define KEPT_NAME "stasis-end-%u"
#define BACKLOG 64
#define HELLO_MS 500
static const char hello[] = "NBDMAGIC";

/* ---- sockets at which QEMU listens ---- */

/* Inode numbers (as text) of the sockets that @pid has open. */
static GHashTable *sockets_of(pid_t pid)
{
    GHashTable *inodes = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autofree char *dir_path = g_strdup_printf("/proc/%d/fd", (int)pid);
    g_autoptr(GDir) dir = g_dir_open(dir_path, 0, NULL);
    const char *name;
    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *path = g_build_filename(dir_path, name, NULL);
        char link[64];
        ssize_t n = readlink(path, link, sizeof link - 1);
        link[MAX(n, 0)] = '\0';
        if (!g_str_has_prefix(link, "socket:["))
            continue;
        link[strcspn(link, "]")] = '\0';
        g_hash_table_add(inodes, g_strdup(link + strlen("socket:[")));
    }
    return inodes;
}

/* Paths of UNIX sockets that @pid listens at. The table: proc_net(5). Free with g_strfreev(). */
static char **listening_paths(pid_t pid)
{
    g_autoptr(GHashTable) inodes = sockets_of(pid);
    g_autofree char *table = g_strdup_printf("/proc/%d/net/unix", (int)pid);
    g_autofree char *text = NULL;
    GPtrArray *paths = g_ptr_array_new();
    g_file_get_contents(table, &text, NULL, NULL);
    g_auto(GStrv) lines = g_strsplit(text != NULL ? text : "", "\n", -1);
    for (char **line = lines; *line != NULL; line++) {
        unsigned flags;
        char inode[32];
        int at = 0;
        if (sscanf(*line, "%*s %*s %*s %x %*s %*s %31s %n", &flags, inode, &at) == 2 && at > 0 &&
            (flags & 0x10000) != 0 && (*line)[at] == '/' && g_hash_table_contains(inodes, inode))
            g_ptr_array_add(paths, g_strdup(*line + at));
    }
    g_ptr_array_add(paths, NULL);
    return (char **)g_ptr_array_free(paths, FALSE);
}

static gboolean is_ours(const char *path)
{
    return g_str_has_suffix(path, "/" OUR_SOCKET);
}

static int connect_to(const char *path, int flags)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    if (g_strlcpy(address.sun_path, path, sizeof address.sun_path) >= sizeof address.sun_path)
        return -1;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        stasis_clear_fd(&fd);
    return fd;
}

static gboolean says_hello(const char *path)
{
    stasis_autofd int fd = connect_to(path, SOCK_NONBLOCK);
    struct pollfd wait = { .fd = fd, .events = POLLIN };
    char said[sizeof hello - 1];
    return fd >= 0 && poll(&wait, 1, HELLO_MS) == 1 &&
           recv(fd, said, sizeof said, MSG_WAITALL) == (ssize_t)sizeof said &&
           memcmp(said, hello, sizeof said) == 0;
}

/* Connecting to a character device's socket would take its one place. */
static gboolean is_chardev(JsonArray *chardevs, const char *path)
{
    for (guint i = 0; i < json_array_get_length(chardevs); i++) {
        JsonObject *chardev;
        if (stasis_json_object_at(chardevs, i, &chardev, NULL) &&
            strstr(stasis_json_string_or(chardev, "filename", ""), path) != NULL)
            return TRUE;
    }
    return FALSE;
}

static char *find_foreign(StasisQmp *qmp, pid_t pid)
{
    JsonArray *chardevs;
    g_auto(GStrv) paths = listening_paths(pid);
    g_autoptr(JsonNode) answer = stasis_disk_ask_list(qmp, "query-chardev", NULL, &chardevs, NULL);
    for (char **path = paths; answer != NULL && *path != NULL; path++)
        if (!is_chardev(chardevs, *path) && says_hello(*path))
            return g_strdup(*path);
    return NULL;
}

/* ---- the server ---- */

static int listen_at(const char *path, GError **error)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    if (g_strlcpy(address.sun_path, path, sizeof address.sun_path) >= sizeof address.sun_path) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "%s: too long for a socket", path);
        return -1;
    }
    unlink(path);
    stasis_autofd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        chmod(path, 0600) < 0 || listen(fd, BACKLOG) < 0) {
        stasis_set_errno(error, errno, "%s: make a socket", path);
        return -1;
    }
    return stasis_steal_fd(&fd);
}

static gboolean start(StasisNbdServer *server, GError **error)
{
    stasis_autofd int fd = listen_at(server->path, error);
    if (fd < 0)
        return FALSE;
    g_autoptr(JsonObject) name = stasis_disk_args("fdname", FD_NAME, NULL);
    g_autoptr(JsonNode) got = stasis_qmp_execute(server->qmp, "getfd", name, fd, 0, error);
    if (got == NULL)
        return FALSE;
    JsonObject *address = stasis_disk_args("type", "fd", NULL);
    json_object_set_object_member(address, "data", stasis_disk_args("str", FD_NAME, NULL));
    JsonObject *args = json_object_new();
    json_object_set_object_member(args, "addr", address);
    server->own = stasis_disk_run(server->qmp, "nbd-server-start", args, error);
    if (!server->own)
        stasis_disk_do(server->qmp, NULL, "closefd", "fdname", FD_NAME, NULL);
    return server->own;
}

StasisNbdServer *stasis_nbd_server_new(StasisQmp *qmp, pid_t pid, const char *dir, GError **error)
{
    g_autoptr(StasisNbdServer) server = g_new0(StasisNbdServer, 1);
    g_autoptr(GError) local = NULL;
    server->qmp = qmp;
    server->path = g_build_filename(dir, OUR_SOCKET, NULL);
    if (start(server, &local))
        return g_steal_pointer(&server);
    unlink(server->path);
    g_free(server->path);
    server->path =
        strstr(local->message, "already running") != NULL ? find_foreign(qmp, pid) : NULL;
    if (server->path != NULL)
        return g_steal_pointer(&server);
    g_propagate_prefixed_error(error, g_steal_pointer(&local),
                               "QEMU's NBD server, which disks are read through, is in use, and it "
                               "listens at no UNIX socket that can be found (nbd-server-stop ends "
                               "it; --disk none does without): ");
    return NULL;
}

/* Is no export of ours served any more? Then QEMU has closed its end of their connections. */
static gboolean exports_are_gone(StasisQmp *qmp)
{
    JsonArray *list;
    g_autoptr(JsonNode) answer =
        stasis_disk_ask_list(qmp, "query-block-exports", NULL, &list, NULL);
    if (answer == NULL)
        return FALSE;
    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonObject *item;
        if (!stasis_json_object_at(list, i, &item, NULL) ||
            (g_str_has_prefix(stasis_json_string_or(item, "id", ""), STASIS_DISK_PREFIX) &&
             !stasis_json_bool_or(item, "shutting-down", FALSE)))
            return FALSE;
    }
    return TRUE;
}

/* The copies of our ends; they stay as long as an export does. */
static void drop_kept(StasisQmp *qmp)
{
    gboolean more = exports_are_gone(qmp);
    for (guint i = 0; more; i++) {
        g_autofree char *name = g_strdup_printf(KEPT_NAME, i);
        more = stasis_disk_do(qmp, NULL, "closefd", "fdname", name, NULL);
    }
}

void stasis_nbd_server_free(StasisNbdServer *server)
{
    if (server == NULL)
        return;
    if (server->n_kept > 0)
        drop_kept(server->qmp);
    if (server->own) {
        stasis_disk_undo(server->qmp, NULL, "nbd-server-stop", NULL);
        unlink(server->path);
    }
    g_free(server->path);
    g_free(server);
}

void stasis_nbd_server_leave(StasisNbdServer *server)
{
    server->own = FALSE;
    stasis_nbd_server_free(server);
}

void stasis_nbd_server_sweep(StasisQmp *qmp, pid_t pid)
{
    drop_kept(qmp);
    g_auto(GStrv) paths = listening_paths(pid);
    for (char **path = paths; *path != NULL; path++) {
        if (!is_ours(*path))
            continue;
        stasis_disk_do(qmp, NULL, "nbd-server-stop", NULL);
        unlink(*path);
        return;
    }
}

static gboolean keep_open_in_qemu(StasisNbdServer *server, int fd, GError **error)
{
    g_autofree char *name = g_strdup_printf(KEPT_NAME, server->n_kept);
    g_autoptr(JsonObject) args = stasis_disk_args("fdname", name, NULL);
    g_autoptr(JsonNode) got = stasis_qmp_execute(server->qmp, "getfd", args, fd, 0, error);
    server->n_kept += got != NULL;
    return got != NULL;
}

gboolean stasis_nbd_server_connect(StasisNbdServer *server, struct nbd_handle *handle,
                                   gboolean keep_open, GError **error)
{
    stasis_autofd int fd = connect_to(server->path, 0);
    if (fd < 0)
        return stasis_set_errno(error, errno, "connect to QEMU's NBD server at %s", server->path);
    if (keep_open && !keep_open_in_qemu(server, fd, error))
        return FALSE;
    if (stasis_libnbd->nbd_connect_socket(handle, fd) == 0) {
        stasis_steal_fd(&fd);
        return TRUE;
    }
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "QEMU's NBD server at %s: %s",
                server->path, stasis_libnbd->nbd_get_error());
    stasis_steal_fd(&fd); /* the handle's, whatever became of it */
    return FALSE;
}

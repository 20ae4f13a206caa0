/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * POSIX message queues (mq_overview(7)) that several processes have open, each for itself or by
 * fork. CRIU does not know them: the agent makes the queue anew, with its messages, and hands it in
 * at restore. With a user outside there would be two queues: silently wrong. But a queue has a
 * name, and one end may be handed the queue that is still there: cuttable. One without a name can't
 * be handed in from outside: hard.
 *
 * Three things nobody can make anew, opaque: that a process is told when something comes
 * (mq_notify(3), which only the process itself can ask for); a queue of another IPC namespace than
 * that of the process, since it would be made in that one; and a queue that nobody has open, whose
 * descriptor is in flight.
 */
#include "scan/internal.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static const char *name(StasisScan *scan, const StasisUser *user)
{
    return stasis_scan_text(scan, "mqueue:%s[%llu]", user->fd->link,
                            (unsigned long long)user->key[1]);
}

/* ---- who is told ---- */

/* "QSIZE:129 NOTIFY:2 SIGNO:0 NOTIFY_PID:8260" (mq_overview(7)); 0: nobody. */
static pid_t notified(const StasisFd *fd)
{
    char path[64], text[256];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", fd->kcmp_pid, fd->kcmp_fd);
    int copy = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    ssize_t n = copy >= 0 ? read(copy, text, sizeof text - 1) : -1;
    if (copy >= 0)
        close(copy);
    text[n > 0 ? n : 0] = '\0';
    const char *pid = strstr(text, "NOTIFY_PID:");
    return pid != NULL ? atoi(pid + strlen("NOTIFY_PID:")) : 0;
}

static void refuse_notified(const StasisScanner *self, StasisScan *scan, const StasisUser *user)
{
    const char *object = name(scan, user);
    pid_t pid = notified(user->fd);
    int32_t process = pid > 0 ? stasis_scan_find(scan, pid) : -1;
    if (process < 0)
        return;
    stasis_edge_add(
        scan, &(StasisEdge){
                  .relation = self,
                  .a = process,
                  .b = process,
                  .class = STASIS_EDGE_OPAQUE,
                  .object = object,
                  .witness = stasis_scan_text(scan, "pid %d waits to be told of %s", pid, object),
                  .reason = "nobody can ask for it again that it is told by mq_notify" });
}

/* ---- which namespace ---- */

typedef struct {
    uint64_t ns, dev;
} Place;
typedef STASIS_ARRAY(Place) Places;

/* The device of the queues in the namespace that we are in, by a mount of them that nobody sees. */
static void visit(StasisScan *scan, int32_t process, void *data)
{
    struct stat st;
    int fs = (int)syscall(SYS_fsopen, "mqueue", FSOPEN_CLOEXEC);
    if (fs < 0)
        return;
    int fd = syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0
                 ? (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, 0)
                 : -1;
    close(fs);
    Place *place = fd >= 0 && fstat(fd, &st) == 0 ? STASIS_PUSH(scan, (Places *)data) : NULL;
    if (place != NULL)
        *place = (Place){ scan->processes.items[process].ns[STASIS_NS_IPC], st.st_dev };
    if (fd >= 0)
        close(fd);
}

static void check_place(const StasisScanner *self, StasisScan *scan, const Places *places,
                        const StasisFd *fd)
{
    uint64_t ns = scan->processes.items[fd->process].ns[STASIS_NS_IPC];
    for (size_t i = 0; i < places->n; i++)
        if (places->items[i].ns == ns && places->items[i].dev != fd->dev)
            stasis_edge_refuse_fd(self, scan, fd, "this queue is of another IPC namespace than it");
}

/* ---- all of it ---- */

static void link_one(const StasisScanner *self, StasisScan *scan, const StasisUser *users, size_t n)
{
    bool open = false;
    for (size_t i = 0; i < n; i++)
        open |= users[i].fd->carrier < 0;
    if (!open)
        stasis_edge_refuse_fd(self, scan, users[0].fd,
                              "only a descriptor in flight leads to this queue");
    refuse_notified(self, scan, users);
    bool nameless = users[0].fd->nlink == 0;
    stasis_users_link_one(self, scan, users, n, name(scan, users),
                          nameless ? STASIS_EDGE_HARD : STASIS_EDGE_CUTTABLE,
                          nameless ? "what one sends the other receives, and it has no name"
                                   : "what one sends the other receives");
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    StasisUsers users = { 0 };
    Places places = { 0 };
    for (size_t i = 0; i < scan->fds.n; i++)
        if (scan->fds.items[i].kind == STASIS_FD_MQUEUE)
            stasis_users_add_fd(scan, &users, scan->fds.items[i].dev, scan->fds.items[i].ino, 0,
                                &scan->fds.items[i]);
    if (users.n == 0)
        return;
    stasis_scan_enter_each(scan, STASIS_NS_IPC, CLONE_NEWIPC, visit, &places);
    for (size_t i = 0; i < users.n; i++)
        check_place(self, scan, &places, users.items[i].fd);
    stasis_users_sort(&users);
    for (size_t i = 0, n; i < users.n; i += n) {
        n = stasis_users_span(&users.items[i], users.n - i);
        link_one(self, scan, &users.items[i], n);
    }
}

const StasisScanner stasis_scan_mqueue = { "mqueue", "POSIX queues open in several processes",
                                           scan_it, STASIS_COUNTED_MQUEUE };

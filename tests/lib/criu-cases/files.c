/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files, their names and their locks. */
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "criu-cases.h"

int temporary(void)
{
    char path[] = "/tmp/case-XXXXXX";
    return mkstemp(path);
}

static int deleted(void)
{
    char path[] = "/tmp/case-XXXXXX";
    int fd = mkstemp(path);
    return unlink(path) == 0 ? fd : -1;
}

static int deleted_dir(void)
{
    mkdir("/tmp/case-dir", 0700);
    int fd = open("/tmp/case-dir", O_RDONLY | O_DIRECTORY);
    return rmdir("/tmp/case-dir") == 0 ? fd : -1;
}

static int tmpfile_unnamed(void)
{
    return open("/tmp", O_TMPFILE | O_RDWR, 0600);
}

static int lost_name(void)
{
    int fd = open("/tmp/case-a", O_RDWR | O_CREAT, 0600);
    unlink("/tmp/case-b");
    return link("/tmp/case-a", "/tmp/case-b") == 0 && unlink("/tmp/case-a") == 0 ? fd : -1;
}

static int on_mount(bool over)
{
    mkdir("/tmp/case-mnt", 0700);
    if (mount("case", "/tmp/case-mnt", "tmpfs", 0, NULL) < 0)
        return -1;
    int fd = open("/tmp/case-mnt/file", O_RDWR | O_CREAT, 0600);
    int r = over ? mount("case", "/tmp/case-mnt", "tmpfs", 0, NULL)
                 : umount2("/tmp/case-mnt", MNT_DETACH);
    return r == 0 ? fd : -1;
}

static int on_detached_mount(void)
{
    return on_mount(false);
}

static int on_overmounted_mount(void)
{
    return on_mount(true);
}

static int path_of(const char *path)
{
    return open(path, O_PATH | O_NOFOLLOW);
}

static int path_file(void)
{
    close(temporary());
    return path_of("/bin/busybox");
}

static int path_dir(void)
{
    return path_of("/tmp");
}

static int path_link(void)
{
    unlink("/tmp/case-link");
    return symlink("x", "/tmp/case-link") == 0 ? path_of("/tmp/case-link") : -1;
}

static int path_device(void)
{
    return path_of("/dev/kmsg");
}

static int path_serial(void)
{
    return path_of("/dev/ttyS0");
}

static int path_disk(void)
{
    mknod("/tmp/case-disk", S_IFBLK | 0600, 7 << 8);
    return path_of("/tmp/case-disk");
}

static int path_fifo(void)
{
    mkfifo("/tmp/case-fifo", 0600);
    return path_of("/tmp/case-fifo");
}

static int path_socket(void)
{
    unlink("/tmp/case-sock");
    close(bound_socket(SOCK_STREAM));
    return path_of("/tmp/case-sock");
}

static int lock_flock(void)
{
    int fd = temporary();
    return flock(fd, LOCK_EX) == 0 ? fd : -1;
}

static int lock_of(int command)
{
    struct flock lock = { .l_type = F_WRLCK };
    int fd = temporary();
    return fcntl(fd, command, &lock) == 0 ? fd : -1;
}

static int lock_posix(void)
{
    return lock_of(F_SETLK);
}

static int lock_description(void)
{
    return lock_of(F_OFD_SETLK);
}

static int lease(void)
{
    int fd = temporary();
    return fcntl(fd, F_SETLEASE, F_WRLCK) == 0 ? fd : -1;
}

static int deleted_cwd(void)
{
    mkdir("/tmp/case-cwd", 0700);
    return chdir("/tmp/case-cwd") == 0 && rmdir("/tmp/case-cwd") == 0 ? 0 : -1;
}

const Case cases_files[] = {
    CASE(temporary),
    CASE(deleted),
    CASE(deleted_dir),
    CASE(tmpfile_unnamed),
    CASE(lost_name),
    CASE(on_detached_mount),
    CASE(on_overmounted_mount),
    CASE(path_file),
    CASE(path_dir),
    CASE(path_link),
    CASE(path_device),
    CASE(path_serial),
    CASE(path_disk),
    CASE(path_fifo),
    CASE(path_socket),
    CASE(lock_flock),
    CASE(lock_posix),
    CASE(lock_description),
    CASE(lease),
    CASE(deleted_cwd),
    { NULL },
};

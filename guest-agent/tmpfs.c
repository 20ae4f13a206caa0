/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files on tmpfs that processes have open or mapped: POSIX shared memory and semaphores under
 * /dev/shm first of all. CRIU's image has no more of them than their names, and they are in no
 * other VM, nor in this one after a boot; so they go along in an archive beside it, which any tar
 * unpacks below "/". Files with no name any more are not meant: those CRIU has in its image.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "agent.h"
#include "agent/tar.h"

#define MAX_FILES 4096u
#define MAX_ROOMS 64u

/* ---- taking ---- */

typedef struct {
    struct {
        dev_t dev;
        ino_t ino;
    } seen[MAX_FILES];
    unsigned n;
    dev_t root_dev;
    int fd; /* the archive, or -1 as long as there is none */
    const char *path;
    uint64_t room;
    Answer *answer;
} Taking;

static bool on_tmpfs(const char *path)
{
    struct statfs fs;
    return statfs(path, &fs) == 0 && (unsigned long)fs.f_type == TMPFS_MAGIC;
}

static bool is_new(Taking *t, const struct stat *st)
{
    for (unsigned i = 0; i < t->n; i++)
        if (t->seen[i].dev == st->st_dev && t->seen[i].ino == st->st_ino)
            return false;
    if (t->n < MAX_FILES) {
        t->seen[t->n].dev = st->st_dev;
        t->seen[t->n++].ino = st->st_ino;
        return true;
    }
    answer_error(t->answer, STASIS_AGENT_FAILED, EFBIG, "more than %u files on tmpfs are open",
                 MAX_FILES);
    return false;
}

static bool copy_content(Taking *t, int from, uint64_t size)
{
    static uint8_t bytes[AGENT_PART_BYTES];
    static const uint8_t zeros[STASIS_TAR_BLOCK];
    for (uint64_t left = size; left > 0;) {
        size_t want = left < sizeof bytes ? (size_t)left : sizeof bytes;
        ssize_t n = read(from, bytes, want);
        if (n < 0 || (n == 0 && (errno = EIO)) || !write_all(t->fd, bytes, (size_t)n))
            return false;
        left -= (uint64_t)n;
    }
    return write_all(t->fd, zeros, stasis_tar_padding(size));
}

/* Begin an entry for @path; false, answered, when that can't be. */
static bool add_head(Taking *t, const char *path, StasisTarEntry *entry)
{
    uint8_t block[STASIS_TAR_BLOCK];
    size_t n = strlen(path + 1);
    if (n <= STASIS_TAR_MAX_NAME)
        memcpy(entry->name, path + 1, n);
    if (!stasis_tar_format(entry, block)) {
        answer_error(t->answer, STASIS_AGENT_FAILED, ENAMETOOLONG, "%.300s is open", path);
        return false;
    }
    if (entry->size + 2 * sizeof block > t->room) {
        answer_error(t->answer, STASIS_AGENT_FAILED, EFBIG, "%.300s is open: the image", path);
        return false;
    }
    t->room -= entry->size + 2 * sizeof block;
    if (t->fd < 0)
        t->fd = open(t->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (t->fd >= 0 && write_all(t->fd, block, sizeof block))
        return true;
    answer_error(t->answer, STASIS_AGENT_FAILED, errno, "write %s", t->path);
    return false;
}

static bool add_file(Taking *t, const char *path, const struct stat *st)
{
    bool fifo = S_ISFIFO(st->st_mode);
    StasisTarEntry entry = { .type = fifo ? STASIS_TAR_FIFO : STASIS_TAR_FILE,
                             .mode = st->st_mode & 07777,
                             .uid = st->st_uid,
                             .gid = st->st_gid,
                             .size = fifo ? 0 : (uint64_t)st->st_size,
                             .mtime_s = st->st_mtime > 0 ? (uint64_t)st->st_mtime : 0 };
    if (!add_head(t, path, &entry))
        return false;
    int from = fifo ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    bool added = fifo || (from >= 0 && copy_content(t, from, entry.size));
    int saved = errno;
    if (from >= 0)
        close(from);
    if (!added)
        answer_error(t->answer, STASIS_AGENT_FAILED, saved, "copy %.300s", path);
    return added;
}

static bool add_link(Taking *t, const char *path, const char *first)
{
    StasisTarEntry entry = { .type = STASIS_TAR_LINK, .mode = 0600 };
    if (strlen(first + 1) <= STASIS_TAR_MAX_LINK)
        memcpy(entry.link, first + 1, strlen(first + 1));
    return add_head(t, path, &entry);
}

/* By all names that it has in @dir: what a process has opened by one may have another by now (so
 * sem_open(3) makes semaphores), and CRIU has given such a file one more, by which it will find it
 * (--link-remap). */
static bool add_names(Taking *t, const char *dir, const struct stat *st)
{
    char path[4096], first[sizeof path] = "";
    struct stat named;
    bool ok = true;
    DIR *names = opendir(dir[0] != '\0' ? dir : "/");
    for (struct dirent *entry; ok && names != NULL && (entry = readdir(names)) != NULL;) {
        if (entry->d_ino != st->st_ino ||
            fstatat(dirfd(names), entry->d_name, &named, AT_SYMLINK_NOFOLLOW) < 0 ||
            named.st_dev != st->st_dev || named.st_ino != st->st_ino ||
            snprintf(path, sizeof path, "%s/%s", dir, entry->d_name) >= (int)sizeof path)
            continue;
        ok = first[0] == '\0' ? add_file(t, path, st) : add_link(t, path, first);
        if (first[0] == '\0')
            memcpy(first, path, sizeof first);
    }
    if (names != NULL)
        closedir(names);
    return ok;
}

/* A link in /proc/PID/fd or /proc/PID/map_files. False, answered, when it has gone wrong. */
static bool visit(Taking *t, int dir_fd, const char *link)
{
    char path[4096];
    struct stat st, there;
    ssize_t n = readlinkat(dir_fd, link, path, sizeof path - 1);
    if (n <= 0 || fstatat(dir_fd, link, &st, 0) < 0 || st.st_nlink == 0 ||
        (!S_ISREG(st.st_mode) && !S_ISFIFO(st.st_mode)))
        return true;
    path[n] = '\0';
    char *name = strrchr(path, '/');
    if (path[0] != '/' || name == NULL)
        return true;
    *name = '\0';
    const char *dir = path[0] != '\0' ? path : "/";
    /* That directory of ours, as it will be where it is unpacked: no other namespace's. And not the
     * system itself, if that is on a tmpfs. */
    if (stat(dir, &there) < 0 || there.st_dev != st.st_dev || there.st_dev == t->root_dev ||
        !on_tmpfs(dir))
        return true;
    return is_new(t, &st) ? add_names(t, path, &st) : !t->answer->ended;
}

static bool visit_all(Taking *t, int pid, const char *what)
{
    char path[64];
    bool ok = true;
    snprintf(path, sizeof path, "/proc/%d/%s", pid, what);
    DIR *dir = opendir(path);
    for (struct dirent *entry; ok && dir != NULL && (entry = readdir(dir)) != NULL;)
        ok = entry->d_name[0] == '.' || visit(t, dirfd(dir), entry->d_name);
    if (dir != NULL)
        closedir(dir);
    return ok;
}

bool tmpfs_take(const char *group, const char *archive, uint64_t limit, Answer *answer)
{
    static Taking t;
    static const uint8_t end[2 * STASIS_TAR_BLOCK];
    char path[1200];
    int pid;
    struct stat root;
    bool ok = true;
    if (stat("/", &root) < 0)
        return true;
    t = (Taking){
        .fd = -1, .root_dev = root.st_dev, .path = archive, .room = limit, .answer = answer
    };
    snprintf(path, sizeof path, "%s/cgroup.procs", group);
    FILE *procs = fopen(path, "re");
    while (ok && procs != NULL && fscanf(procs, "%d", &pid) == 1)
        ok = visit_all(&t, pid, "fd") && visit_all(&t, pid, "map_files");
    if (procs != NULL)
        fclose(procs);
    if (ok && t.fd >= 0 && !(ok = write_all(t.fd, end, sizeof end)))
        answer_error(answer, STASIS_AGENT_FAILED, errno, "write %s", archive);
    if (t.fd >= 0)
        close(t.fd);
    return ok;
}

/* ---- putting back ---- */

/* Directories on the way to @path. */
static void make_parents(const char *path)
{
    char dir[STASIS_TAR_MAX_NAME + 2];
    snprintf(dir, sizeof dir, "%s", path);
    for (char *at = dir + 1; (at = strchr(at, '/')) != NULL; *at++ = '/') {
        *at = '\0';
        mkdir(dir, 0755);
    }
}

static bool take_content(int from, int to, uint64_t size)
{
    static uint8_t bytes[AGENT_PART_BYTES];
    while (size > 0) {
        size_t want = size < sizeof bytes ? (size_t)size : sizeof bytes;
        ssize_t n = read(from, bytes, want);
        if (n < 0 || (n == 0 && (errno = EIO)) || !write_all(to, bytes, (size_t)n))
            return false;
        size -= (uint64_t)n;
    }
    return true;
}

/* A new file takes the old one's place: whoever has that open keeps it. */
static bool make_file(int archive, const StasisTarEntry *entry, const char *path)
{
    char aside[STASIS_TAR_MAX_NAME + 16];
    struct timespec times[2] = { { .tv_sec = (time_t)entry->mtime_s },
                                 { .tv_sec = (time_t)entry->mtime_s } };
    snprintf(aside, sizeof aside, "%s.stasis", path);
    unlink(aside);
    bool fifo = entry->type == STASIS_TAR_FIFO, made = !fifo || mkfifo(aside, 0600) == 0;
    int fd = fifo ? -1 : open(aside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    made = made && (fifo || (fd >= 0 && take_content(archive, fd, entry->size))) &&
           fchownat(AT_FDCWD, aside, entry->uid, entry->gid, AT_SYMLINK_NOFOLLOW) == 0 &&
           chmod(aside, entry->mode) == 0 &&
           utimensat(AT_FDCWD, aside, times, AT_SYMLINK_NOFOLLOW) == 0 && rename(aside, path) == 0;
    int saved = errno;
    if (fd >= 0)
        close(fd);
    if (!made)
        unlink(aside);
    errno = saved;
    return made;
}

static bool make_link(const StasisTarEntry *entry, const char *path)
{
    char first[STASIS_TAR_MAX_LINK + 2];
    snprintf(first, sizeof first, "/%s", entry->link);
    return (unlink(path) == 0 || errno == ENOENT) && link(first, path) == 0;
}

static void complain_no_tmpfs(const char *path, const char *dir, Answer *answer)
{
    answer_error(answer, STASIS_AGENT_STATE, 0,
                 "%s of the image was on a tmpfs, and %s is none here; mount one there", path, dir);
}

/* The room of a file system, as it will be when what the archive has up to there is written. */
typedef struct {
    dev_t dev;
    uint64_t left;
} Room;

typedef struct {
    Room rooms[MAX_ROOMS];
    unsigned n;
} Rooms;

/* Of @dir; NULL: it has no limit, or they are too many. */
static Room *find_room(Rooms *rooms, const char *dir)
{
    struct stat st;
    struct statfs fs;
    if (stat(dir, &st) < 0 || statfs(dir, &fs) < 0 || fs.f_blocks == 0)
        return NULL;
    for (unsigned i = 0; i < rooms->n; i++)
        if (rooms->rooms[i].dev == st.st_dev)
            return &rooms->rooms[i];
    if (rooms->n == MAX_ROOMS)
        return NULL;
    Room *room = &rooms->rooms[rooms->n++];
    *room = (Room){ st.st_dev, (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize };
    return room;
}

/* A new file is written beside the old one, which goes then, if nobody else has it. */
static bool take_room(Rooms *rooms, const StasisTarEntry *entry, const char *dir,
                      const struct stat *old, Answer *answer)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t need = (entry->size + page - 1) / page * page;
    Room *room = find_room(rooms, dir);
    if (room == NULL)
        return true;
    if (need > room->left) {
        answer_error(answer, STASIS_AGENT_STATE, 0,
                     "/%s of the image has %llu bytes, and beside what is there now %s has room "
                     "for %llu; make room, or mount it larger",
                     entry->name, (unsigned long long)entry->size, dir,
                     (unsigned long long)room->left);
        return false;
    }
    room->left -= need;
    if (old != NULL && S_ISREG(old->st_mode) && old->st_nlink == 1 && old->st_dev == room->dev)
        room->left += (uint64_t)old->st_blocks * 512;
    return true;
}

/* The directory of @path, or the nearest one above that is there. */
static void find_dir(const char *path, char *dir, size_t size)
{
    struct stat st;
    snprintf(dir, size, "%s", path);
    do
        *strrchr(dir, '/') = '\0';
    while (dir[0] != '\0' && stat(dir, &st) < 0);
    if (dir[0] == '\0')
        snprintf(dir, size, "/");
}

/* What can be known before anything is done. */
static bool look_at_entry(Rooms *rooms, const StasisTarEntry *entry, bool replace, Answer *answer)
{
    struct stat st;
    char path[STASIS_TAR_MAX_NAME + 2], dir[sizeof path];
    snprintf(path, sizeof path, "/%s", entry->name);
    bool there = lstat(path, &st) == 0;
    find_dir(path, dir, sizeof dir);
    if (there && !replace)
        answer_error(answer, STASIS_AGENT_STATE, 0,
                     "%s of the image is there already; remove it, or give --replace", path);
    else if (!on_tmpfs(dir))
        complain_no_tmpfs(path, dir, answer);
    else
        take_room(rooms, entry, dir, there ? &st : NULL, answer);
    return !answer->ended;
}

static unsigned n_put; /* entries */

/* Nothing but tmpfs is written to, whoever made the archive. */
static bool put_entry(int archive, const StasisTarEntry *entry, Answer *answer)
{
    char path[STASIS_TAR_MAX_NAME + 2], dir[sizeof path];
    snprintf(path, sizeof path, "/%s", entry->name);
    make_parents(path);
    find_dir(path, dir, sizeof dir);
    if (!on_tmpfs(dir))
        complain_no_tmpfs(path, dir, answer);
    else if (entry->type == STASIS_TAR_LINK ? !make_link(entry, path)
                                            : !make_file(archive, entry, path))
        answer_error(answer, STASIS_AGENT_FAILED, errno, "write %s", path);
    else
        n_put++;
    return !answer->ended;
}

static bool read_block(int fd, uint8_t *block)
{
    return read(fd, block, STASIS_TAR_BLOCK) == (ssize_t)STASIS_TAR_BLOCK;
}

bool tmpfs_put(const char *archive, bool replace, bool look_only, Answer *answer)
{
    uint8_t block[STASIS_TAR_BLOCK];
    StasisTarEntry entry;
    Rooms rooms = { .n = 0 };
    off_t at = 0;
    int fd = open(archive, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return true; /* there are none */
    bool good = read_block(fd, block);
    while (good && !stasis_tar_is_end(block)) {
        good = stasis_tar_parse(block, &entry);
        if (!good || !(look_only ? look_at_entry(&rooms, &entry, replace, answer)
                                 : put_entry(fd, &entry, answer)))
            break;
        at += (off_t)(STASIS_TAR_BLOCK + entry.size + stasis_tar_padding(entry.size));
        good = lseek(fd, at, SEEK_SET) == at && read_block(fd, block);
    }
    close(fd);
    if (!good)
        answer_error(answer, STASIS_AGENT_FAILED, 0,
                     "the image's files on tmpfs: no archive of ours, or a part of one");
    return !answer->ended;
}

void tmpfs_undo(const char *archive)
{
    uint8_t block[STASIS_TAR_BLOCK];
    StasisTarEntry entry;
    char path[STASIS_TAR_MAX_NAME + 2];
    int fd = open(archive, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    for (; n_put > 0 && read_block(fd, block) && stasis_tar_parse(block, &entry); n_put--) {
        snprintf(path, sizeof path, "/%s", entry.name);
        unlink(path);
        lseek(fd, (off_t)(entry.size + stasis_tar_padding(entry.size)), SEEK_CUR);
    }
    if (fd >= 0)
        close(fd);
}

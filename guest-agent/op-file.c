/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files of the guest, read, made and listed. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"

#define MAX_BYTES (16u << 20)
#define MODES 07777u

/* ---- file-read ---- */

static void read_file(int fd, uint64_t offset, uint64_t left, Answer *answer)
{
    static uint8_t bytes[AGENT_PART_BYTES];
    struct stat st = { 0 };
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        answer_error(answer, STASIS_AGENT_INVALID, S_ISDIR(st.st_mode) ? EISDIR : ENXIO,
                     "file-read: no regular file");
        return;
    }
    while (left > 0) {
        ssize_t n = pread(fd, bytes, left < sizeof bytes ? left : sizeof bytes, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            answer_error(answer, STASIS_AGENT_FAILED, errno, "file-read");
            return;
        }
        if (n == 0)
            break;
        stasis_field_put(&answer->fields, STASIS_AGENT_TAG_OUTPUT, bytes, (uint32_t)n);
        if (!answer_part(answer))
            return;
        offset += (uint64_t)n;
        left -= (uint64_t)n;
    }
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_SIZE, (uint64_t)st.st_size);
    answer_end(answer);
}

void op_file_read(const Request *request, Answer *answer)
{
    char path[4096];
    uint64_t offset = request_number(request, STASIS_AGENT_TAG_OFFSET, 0);
    uint64_t limit = request_number(request, STASIS_AGENT_TAG_LIMIT, MAX_BYTES);
    if (!request_text(request, STASIS_AGENT_TAG_PATH, path, sizeof path) || path[0] != '/' ||
        offset > INT64_MAX - MAX_BYTES) {
        answer_error(answer, STASIS_AGENT_INVALID, 0, "file-read: no absolute path, or no offset");
        return;
    }
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        answer_error(answer, STASIS_AGENT_FAILED, errno, "file-read %.400s", path);
        return;
    }
    read_file(fd, offset, limit < MAX_BYTES ? limit : MAX_BYTES, answer);
    close(fd);
}

/* ---- file-write ---- */

/* 0, or the error. */
static int make_directories(char *path, mode_t mode)
{
    struct stat st;
    for (char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        int r = mkdir(path, 0755);
        *slash = '/';
        if (r < 0 && errno != EEXIST)
            return errno;
    }
    if (mkdir(path, 0700) == 0)
        return chmod(path, mode) < 0 ? errno : 0;
    if (errno != EEXIST || stat(path, &st) < 0)
        return errno;
    return S_ISDIR(st.st_mode) ? 0 : ENOTDIR;
}

/* A file or link of that name goes: it may be another user's, who would have a hand in what is
 * written, or lead to something else. What is neither stays: it may be the guest's /dev/null. */
static int remove_old(const char *path)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : errno;
    if (S_ISDIR(st.st_mode))
        return EISDIR;
    if (!S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode))
        return EINVAL;
    return unlink(path) < 0 && errno != ENOENT ? errno : 0;
}

static int make_link(const char *path, const StasisField *target)
{
    char text[4096];
    if (!stasis_field_is_text(target, sizeof text - 1) || target->length == 0)
        return EINVAL;
    memcpy(text, target->value, target->length);
    text[target->length] = '\0';
    if (symlink(text, path) == 0)
        return 0;
    int error = errno == EEXIST ? remove_old(path) : errno;
    return error == 0 && symlink(text, path) < 0 ? errno : error;
}

static int write_bytes(int fd, uint64_t offset, const StasisField *bytes)
{
    for (uint32_t done = 0; done < bytes->length;) {
        ssize_t n = pwrite(fd, bytes->value + done, bytes->length - done, (off_t)(offset + done));
        if (n < 0 && errno != EINTR)
            return errno;
        done += n > 0 ? (uint32_t)n : 0;
    }
    return 0;
}

/* ESTALE: it does not end at @offset. */
static int write_file(int fd, uint64_t offset, mode_t mode, const StasisField *bytes)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return errno;
    if (!S_ISREG(st.st_mode))
        return EINVAL;
    if (offset != 0 && (uint64_t)st.st_size != offset)
        return ESTALE;
    if (offset == 0 && fchmod(fd, mode) < 0)
        return errno;
    return write_bytes(fd, offset, bytes);
}

/* A descriptor, or the negative error. */
static int open_file(const char *path, bool anew)
{
    int flags = O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW | (anew ? O_CREAT | O_EXCL : 0);
    int fd = open(path, flags, 0600);
    int error = fd < 0 ? errno : 0;
    if (!anew || error != EEXIST)
        return error != 0 ? -error : fd;
    error = remove_old(path);
    fd = error == 0 ? open(path, flags, 0600) : -1;
    return fd >= 0 ? fd : error != 0 ? -error : -errno;
}

static int make_file(const char *path, uint64_t offset, mode_t mode, const StasisField *bytes)
{
    int fd = open_file(path, offset == 0);
    if (fd < 0)
        return -fd;
    int error = write_file(fd, offset, mode, bytes);
    if (close(fd) < 0 && error == 0)
        error = errno;
    return error;
}

void op_file_write(const Request *request, Answer *answer)
{
    char path[4096], kind[16];
    StasisField bytes = { 0 };
    uint64_t offset = request_number(request, STASIS_AGENT_TAG_OFFSET, 0), size = 0;
    int error = EINVAL;
    if (!request_text(request, STASIS_AGENT_TAG_PATH, path, sizeof path) || path[0] != '/' ||
        !request_text(request, STASIS_AGENT_TAG_KIND, kind, sizeof kind) ||
        offset > INT64_MAX - STASIS_AGENT_MAX_PAYLOAD) {
        answer_error(answer, STASIS_AGENT_INVALID, 0,
                     "file-write: no absolute path, no kind, or no offset");
        return;
    }
    bool directory = strcmp(kind, "directory") == 0;
    mode_t mode =
        (mode_t)(request_number(request, STASIS_AGENT_TAG_MODE, directory ? 0755 : 0644) & MODES);
    stasis_field_find(request->fields, request->length, STASIS_AGENT_TAG_INPUT, &bytes);
    if (directory) {
        error = make_directories(path, mode);
    } else if (strcmp(kind, "link") == 0) {
        error = make_link(path, &bytes);
    } else if (strcmp(kind, "file") == 0) {
        error = make_file(path, offset, mode, &bytes);
        size = offset + bytes.length;
    }
    if (error != 0) {
        answer_error(answer, error == ESTALE ? STASIS_AGENT_STATE : STASIS_AGENT_FAILED, error,
                     "file-write %.400s", path);
        return;
    }
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_SIZE, size);
    answer_end(answer);
}

/* ---- file-list ---- */

static const char *kind_of(mode_t mode)
{
    return S_ISREG(mode) ? "file" : S_ISDIR(mode) ? "directory" : S_ISLNK(mode) ? "link" : "other";
}

static void put_stat(StasisFieldWriter *fields, const struct stat *st)
{
    stasis_field_put_text(fields, STASIS_AGENT_TAG_KIND, kind_of(st->st_mode));
    stasis_field_put_number(fields, STASIS_AGENT_TAG_MODE, st->st_mode & MODES);
    stasis_field_put_number(fields, STASIS_AGENT_TAG_SIZE, (uint64_t)st->st_size);
}

/* What is gone by now is left out. */
static bool put_entry(Answer *answer, int dir, const char *name)
{
    uint8_t room[8192];
    char target[4096];
    struct stat st;
    StasisFieldWriter record = { .payload = room, .room = sizeof room };
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return true;
    put_stat(&record, &st);
    stasis_field_put(&record, STASIS_AGENT_TAG_NAME, name, (uint32_t)strlen(name));
    ssize_t n = S_ISLNK(st.st_mode) ? readlinkat(dir, name, target, sizeof target) : 0;
    if (n > 0)
        stasis_field_put(&record, STASIS_AGENT_TAG_OUTPUT, target, (uint32_t)n);
    return answer_record(answer, STASIS_AGENT_TAG_ENTRY, &record);
}

/* False when nobody wants the answer any more, or it was given. */
static bool put_entries(Answer *answer, const char *path)
{
    DIR *dir = opendir(path);
    unsigned n = 0;
    bool ok = dir != NULL;
    if (!ok)
        answer_error(answer, STASIS_AGENT_FAILED, errno, "file-list %.400s", path);
    for (struct dirent *entry; ok && (entry = readdir(dir)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (++n > STASIS_AGENT_MAX_ENTRIES) {
            answer_error(answer, STASIS_AGENT_FAILED, EFBIG, "file-list %.400s", path);
            ok = false;
        } else {
            ok = put_entry(answer, dirfd(dir), entry->d_name);
        }
    }
    if (dir != NULL)
        closedir(dir);
    return ok;
}

void op_file_list(const Request *request, Answer *answer)
{
    char path[4096];
    struct stat st;
    if (!request_text(request, STASIS_AGENT_TAG_PATH, path, sizeof path) || path[0] != '/') {
        answer_error(answer, STASIS_AGENT_INVALID, 0, "file-list: no absolute path");
        return;
    }
    if (stat(path, &st) < 0) {
        answer_error(answer, STASIS_AGENT_FAILED, errno, "file-list %.400s", path);
        return;
    }
    if (S_ISDIR(st.st_mode) && !put_entries(answer, path))
        return;
    put_stat(&answer->fields, &st);
    answer_end(answer);
}

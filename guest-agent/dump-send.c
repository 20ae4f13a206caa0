/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The files of an image, on their way to the host: over the channel, each with its digest, or, from
 * a fork, by telling the host where in the guest's memory they lie (piece.c), from where it takes
 * them by itself at the speed of memory.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"

#define MAX_FILES 16384u

typedef struct {
    int dir_fd;
    bool in_memory;
    uint64_t limit, n_files, bytes;
} Sending;

/* What @fd holds, and the digest of that. */
static bool send_bytes(int fd, Answer *answer)
{
    static uint8_t bytes[AGENT_PART_BYTES];
    uint8_t digest[SHA256_DIGEST_SIZE];
    struct sha256_ctx sha;
    ssize_t n;
    sha256_init(&sha);
    while ((n = read(fd, bytes, sizeof bytes)) > 0) {
        sha256_update(&sha, (size_t)n, (const uint8_t *)bytes);
        stasis_field_put(&answer->fields, STASIS_AGENT_TAG_OUTPUT, bytes, (uint32_t)n);
        if (!answer_part(answer))
            return false;
    }
    if (n < 0)
        return false;
    sha256_digest(&sha, sizeof digest, digest);
    stasis_field_put(&answer->fields, STASIS_AGENT_TAG_DIGEST, digest, sizeof digest);
    return answer_part(answer);
}

static bool send_pieces(int fd, uint64_t size, Answer *answer)
{
    for (uint64_t at = 0; at < size; at += STASIS_AGENT_PIECE_BYTES)
        if (!piece_send(fd, at, size - at, answer))
            return false;
    return true;
}

static bool send_file(Sending *sending, int fd, const char *name, Answer *answer)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return false;
    uint64_t size = (uint64_t)st.st_size;
    if (sending->limit - sending->bytes < size) {
        answer_error(answer, STASIS_AGENT_FAILED, EFBIG, "the image");
        return false;
    }
    sending->n_files++;
    sending->bytes += size;
    stasis_field_put_text(&answer->fields, STASIS_AGENT_TAG_PATH, name);
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_SIZE, size);
    if (!answer_part(answer))
        return false;
    if (sending->in_memory && size > 0)
        return send_pieces(fd, size, answer);
    /* Then it is not needed any more, and may lie in memory. */
    return send_bytes(fd, answer) && unlinkat(sending->dir_fd, name, 0) == 0;
}

/* False when it has gone wrong, answered. */
static bool open_and_send(Sending *sending, const char *name, Answer *answer)
{
    int fd = openat(sending->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    bool ok = fd >= 0 && send_file(sending, fd, name, answer);
    if (!ok)
        answer_error(answer, STASIS_AGENT_FAILED, errno, "read %s of the image", name);
    if (fd >= 0)
        close(fd);
    return ok;
}

static bool is_sent(const struct dirent *entry)
{
    return entry->d_type == DT_REG && criu_file_name_is_valid(entry->d_name) &&
           strcmp(entry->d_name, "stasis.log") != 0;
}

bool dump_send_files(const DumpTree *tree, uint64_t limit, const char *path, bool in_memory,
                     Answer *answer)
{
    StasisFieldWriter *fields = &answer->fields;
    DIR *dir = opendir(path);
    bool ok = dir != NULL;
    Sending sending = { .dir_fd = ok ? dirfd(dir) : -1, .in_memory = in_memory, .limit = limit };
    for (struct dirent *entry; ok && (entry = readdir(dir)) != NULL;)
        if (is_sent(entry))
            ok = sending.n_files < MAX_FILES && open_and_send(&sending, entry->d_name, answer);
    if (dir != NULL)
        closedir(dir);
    if (!ok) {
        answer_error(answer, STASIS_AGENT_FAILED, 0, "the image could not be read");
        return false;
    }
    stasis_field_put_number(fields, STASIS_AGENT_TAG_PID, (uint64_t)tree->root);
    stasis_field_put_number(fields, STASIS_AGENT_TAG_N_FILES, sending.n_files);
    stasis_field_put_number(fields, STASIS_AGENT_TAG_SIZE, sending.bytes);
    stasis_field_put_number(fields, STASIS_AGENT_TAG_SHELL_JOB, tree->shell_job);
    stasis_field_put_number(fields, STASIS_AGENT_TAG_SESSION, tree->session);
    if (in_memory)
        stasis_field_put_text(fields, STASIS_AGENT_TAG_DIRECTORY, path);
    return true;
}

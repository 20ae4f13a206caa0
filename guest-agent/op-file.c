/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"

#define MAX_BYTES (16u << 20)

static void read_file(int fd, uint64_t offset, uint64_t left, Answer *answer)
{
    static uint8_t bytes[AGENT_PART_BYTES];
    struct stat st;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        answer_error(answer, STASIS_AGENT_INVALID, 0, "file-read: no regular file");
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

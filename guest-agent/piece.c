/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where a piece of a file lies in the guest's memory. The host sees that memory, so for what is in
 * the page cache the page frames (proc(5), /proc/PID/pagemap) are all that has to be said. The
 * kernel may move a page before the host has looked, so a checksum goes along; a piece that is not
 * what it was, or nowhere in memory, the host asks for by FILE_READ.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "agent.h"

#define PAGE_BYTES 4096u
#define MAX_PAGES (STASIS_AGENT_PIECE_BYTES / PAGE_BYTES)
#define PM_PRESENT ((uint64_t)1 << 63)
#define PM_FRAME (((uint64_t)1 << 55) - 1)

/* Frames of the pages at @address; false when one is not there, or may not be known. */
static bool read_frames(const void *address, uint32_t n, uint64_t *frames)
{
    size_t bytes = n * sizeof *frames;
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    bool ok = fd >= 0 &&
              pread(fd, frames, bytes, (off_t)((uintptr_t)address / PAGE_BYTES * sizeof *frames)) ==
                  (ssize_t)bytes;
    if (fd >= 0)
        close(fd);
    for (uint32_t i = 0; ok && i < n; i++) {
        ok = (frames[i] & PM_PRESENT) != 0 && (frames[i] & PM_FRAME) != 0;
        frames[i] &= PM_FRAME;
    }
    return ok;
}

/* The runs of @n frames with @bytes in them, as the host wants them; returns how many. */
static uint32_t join_frames(const uint64_t *frames, uint32_t n, uint32_t bytes,
                            StasisAgentRun *runs)
{
    uint32_t n_runs = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t address = frames[i] * PAGE_BYTES;
        uint32_t here = bytes < PAGE_BYTES ? bytes : PAGE_BYTES;
        bytes -= here;
        if (n_runs > 0 && runs[n_runs - 1].address + runs[n_runs - 1].bytes == address)
            runs[n_runs - 1].bytes += here;
        else
            runs[n_runs++] = (StasisAgentRun){ address, here };
    }
    return n_runs;
}

bool piece_send(int fd, uint64_t at, uint64_t left, Answer *answer)
{
    static uint64_t frames[MAX_PAGES];
    static StasisAgentRun runs[MAX_PAGES];
    uint32_t bytes = left < STASIS_AGENT_PIECE_BYTES ? (uint32_t)left : STASIS_AGENT_PIECE_BYTES;
    uint32_t n = (bytes + PAGE_BYTES - 1) / PAGE_BYTES, n_runs = 0;
    void *mapped = mmap(NULL, bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, (off_t)at);
    if (mapped == MAP_FAILED)
        return false;
    uint64_t checksum = XXH64(mapped, bytes, 0);
    if (read_frames(mapped, n, frames))
        n_runs = join_frames(frames, n, bytes, runs);
    munmap(mapped, bytes);
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_SIZE, bytes);
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_CHECKSUM, checksum);
    stasis_field_put(&answer->fields, STASIS_AGENT_TAG_RUNS, (const uint8_t *)runs,
                     n_runs * (uint32_t)sizeof *runs);
    return answer_part(answer);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest that lies: it has the agent's port, and does with each host what the first line that it
 * gets says: "hang", "garbage", "flood", "huge", "half", "endless" or "echo"; or with "proc-LIE" it
 * lies about processes (hostile-lies.c). With "im-LIE" it lies of the image of a process
 * (image_lies[]), with "re-LIE" when it is to restore one (lie_of_restoring()), and with "fi-LIE"
 * of files that are to be copied out (lie_of_files()). Static, for the Linux test guest.
 */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hostile-agent.h"

static int port = -1;
static uint8_t wire[STASIS_AGENT_MAX_WIRE];
uint8_t bytes[65536];
StasisFieldWriter part = { .payload = bytes, .room = STASIS_AGENT_MAX_PAYLOAD };
static uint8_t in[4096];
static ssize_t held; /* bytes of it that hang() has read for main() */
static bool gone;    /* the host whose bytes main() is looking at */

static bool has_order(ssize_t n)
{
    return memmem(in, (size_t)n, "MODE ", 5) != NULL;
}

static void open_port(void)
{
    DIR *dir = opendir("/sys/class/virtio-ports");
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        char path[512], name[128] = "";
        snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
        FILE *file = fopen(path, "r");
        if (file == NULL || fgets(name, sizeof name, file) == NULL)
            continue;
        fclose(file);
        snprintf(path, sizeof path, "/dev/%s", entry->d_name);
        if (strncmp(name, STASIS_AGENT_PORT, strlen(STASIS_AGENT_PORT)) == 0)
            port = open(path, O_RDWR); /* blocking: a write waits for the host */
    }
    if (dir != NULL)
        closedir(dir);
}

static int say(const void *data, size_t n)
{
    for (size_t done = 0; done < n && !gone;) {
        ssize_t taken = write(port, (const char *)data + done, n - done);
        if (taken <= 0)
            return 0;
        done += (size_t)taken;
    }
    return 1;
}

static void say_status(uint16_t status, uint8_t type, uint8_t flags, uint64_t id,
                       const void *payload, size_t n)
{
    StasisAgentFrame frame = { type, flags, status, id, payload, (uint32_t)n };
    say(wire, stasis_agent_frame_write(&frame, wire));
}

static void say_frame(uint8_t type, uint8_t flags, uint64_t id, const void *payload, size_t n)
{
    say_status(STASIS_AGENT_OK, type, flags, id, payload, n);
}

void send_part(uint64_t id, uint8_t flags)
{
    say_frame(STASIS_AGENT_ANSWER, flags, id, bytes, part.length);
    part.length = 0;
}

bool host_has_left(void)
{
    struct pollfd p = { .fd = port, .events = POLLIN };
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLIN)) != 0;
}

/* 5 MiB: more than the host takes, so that it has to give up by itself. */
static void misbehave(const char *mode, uint64_t id)
{
    for (unsigned i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(rand() >> 7);
    if (strcmp(mode, "garbage") == 0)
        for (unsigned i = 0; i < 80; i++)
            say(bytes, sizeof bytes);
    if (strcmp(mode, "huge") == 0) { /* one frame without an end */
        memset(bytes, 0xff, sizeof bytes);
        for (unsigned i = 0; i < 80; i++)
            say(bytes, sizeof bytes);
    }
    if (strcmp(mode, "flood") == 0)
        for (unsigned i = 0; i < 200000; i++)
            say_frame(STASIS_AGENT_ANSWER, 0, id + 1 + i, NULL, 0);
    if (strcmp(mode, "half") == 0) {
        StasisAgentFrame frame = { STASIS_AGENT_HELLO, 1, 0, id, bytes, 0 };
        say(wire, stasis_agent_frame_write(&frame, wire) / 2);
    }
}

/* ---- lies about an image: a true answer to each step, up to … ---- */

#define ROOT 10u

/* Until the host has gone, or another one says what to do. What was read before is lost then. */
static void hang(void)
{
    do
        held = read(port, in, sizeof in);
    while (held > 0 && !has_order(held));
    gone = true;
}

static void begin_file(uint64_t id, const char *name, uint64_t size)
{
    stasis_field_put_text(&part, STASIS_AGENT_TAG_PATH, name);
    stasis_field_put_number(&part, STASIS_AGENT_TAG_SIZE, size);
    send_part(id, 0);
}

static void put_bytes(uint64_t id, size_t n)
{
    static uint8_t zeros[32768];
    stasis_field_put(&part, STASIS_AGENT_TAG_OUTPUT, zeros, (uint32_t)n);
    send_part(id, 0);
}

/* An empty one: the SHA-256 of nothing. */
static void put_file(uint64_t id, const char *name)
{
    static const uint8_t nothing[32] = { 0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14,
                                         0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
                                         0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c,
                                         0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55 };
    begin_file(id, name, 0);
    stasis_field_put(&part, STASIS_AGENT_TAG_DIGEST, nothing, sizeof nothing);
    send_part(id, 0);
}

static void put_dumped(uint64_t id, uint64_t pid, uint64_t ppid, const char *name)
{
    stasis_field_put_number(&part, STASIS_AGENT_TAG_PID, pid);
    stasis_field_put_number(&part, STASIS_AGENT_TAG_PPID, ppid);
    stasis_field_put_text(&part, STASIS_AGENT_TAG_COMM, name);
    send_part(id, 0);
}

static void dump_hang(uint64_t id)
{
    begin_file(id, "pages-1.img", 1 << 20);
    put_bytes(id, 4096);
    hang();
}

static void dump_garbage(uint64_t id)
{
    misbehave("garbage", id);
}

/* More than it said, without an end. */
static void dump_flood(uint64_t id)
{
    begin_file(id, "pages-1.img", 100000);
    for (unsigned i = 0; i < 1000 && !host_has_left(); i++)
        put_bytes(id, 32768);
}

static void dump_outside(uint64_t id)
{
    put_file(id, "../outside");
}

static void dump_huge(uint64_t id)
{
    begin_file(id, "pages-1.img", UINT64_MAX - 1);
}

static void dump_end(uint64_t id, uint64_t root)
{
    put_file(id, "inventory.img");
    put_file(id, "pstree.img");
    stasis_field_put_number(&part, STASIS_AGENT_TAG_PID, root);
    stasis_field_put_number(&part, STASIS_AGENT_TAG_N_FILES, 2);
    stasis_field_put_number(&part, STASIS_AGENT_TAG_SIZE, 0);
    send_part(id, STASIS_AGENT_END);
}

/* Whole, as far as the host can know; only the words are evil. */
static void dump_words(uint64_t id)
{
    put_dumped(id, ROOT, 1, "\x1b[31mevil\n\xff");
    dump_end(id, ROOT);
}

/* A tree, but not the one that was asked for. */
static void dump_other(uint64_t id)
{
    put_dumped(id, ROOT, ROOT + 1, "asked for");
    put_dumped(id, ROOT + 1, 1, "another");
    dump_end(id, ROOT + 1);
}

static const struct {
    const char *mode;
    void (*dump)(uint64_t id);
} image_lies[] = {
    { "im-hang", dump_hang },       { "im-garbage", dump_garbage }, { "im-flood", dump_flood },
    { "im-outside", dump_outside }, { "im-huge", dump_huge },       { "im-words", dump_words },
    { "im-other", dump_other },
};

static void lie_of_image(const char *mode, const StasisAgentFrame *frame)
{
    uint64_t id = frame->id;
    switch (frame->code) {
    case STASIS_AGENT_OP_BOUNDARY:
        put_process(ROOT, strcmp(mode, "im-loop") == 0 ? ROOT + 1 : 1, -1, "root");
        if (strcmp(mode, "im-loop") == 0) /* each other's parents */
            put_process(ROOT + 1, ROOT, -1, "root");
        send_part(id, 0);
        stasis_field_put_number(&part, STASIS_AGENT_TAG_N_ROOTS,
                                1 + (strcmp(mode, "im-loop") == 0));
        stasis_field_put_number(&part, STASIS_AGENT_TAG_REFUSED, 0);
        break;
    case STASIS_AGENT_OP_PROC_CHECK:
        if (strcmp(mode, "im-check") == 0)
            hang();
        stasis_field_put_text(&part, STASIS_AGENT_TAG_CRIU, "\x1b[31m3.17");
        break;
    case STASIS_AGENT_OP_INFO:
        stasis_field_put_text(&part, STASIS_AGENT_TAG_KERNEL, "\x1b[31mLinux\n");
        break;
    case STASIS_AGENT_OP_PROC_FREEZE:
        if (strcmp(mode, "im-freeze") == 0)
            hang();
        stasis_field_put_number(&part, STASIS_AGENT_TAG_N_FROZEN,
                                strcmp(mode, "im-frozen") == 0 ? UINT64_MAX : 1);
        break;
    case STASIS_AGENT_OP_PROC_DUMP:
        for (unsigned i = 0; i < sizeof image_lies / sizeof *image_lies; i++)
            if (strcmp(mode, image_lies[i].mode) == 0)
                image_lies[i].dump(id);
        return;
    default:
        break;
    }
    send_part(id, STASIS_AGENT_END);
}

/* The host sends files, and wants them restored. */
static void lie_of_restoring(const char *mode, const StasisAgentFrame *frame)
{
    if (frame->code == STASIS_AGENT_OP_PROC_PUT && strcmp(mode, "re-hang") == 0)
        hang();
    if (frame->code == STASIS_AGENT_OP_PROC_PUT && strcmp(mode, "re-flood") == 0)
        for (unsigned i = 0; i < 200; i++)
            put_bytes(frame->id, 32768);
    if (frame->code == STASIS_AGENT_OP_PROC_RESTORE && strcmp(mode, "re-words") == 0) {
        stasis_field_put_text(&part, STASIS_AGENT_TAG_MESSAGE, "\x1b[31mevil\n\xff");
        say_status(STASIS_AGENT_FAILED, STASIS_AGENT_ANSWER, STASIS_AGENT_END, frame->id, bytes,
                   part.length);
        part.length = 0;
        return;
    }
    stasis_field_put_number(&part, STASIS_AGENT_TAG_PID, UINT64_MAX);
    send_part(frame->id, STASIS_AGENT_END);
}

/* ---- files ---- */

/* Sent when there is enough of it. */
static void put_entry(uint64_t id, const char *kind, const char *name)
{
    static uint8_t room[1024];
    StasisFieldWriter record = { .payload = room, .room = sizeof room };
    stasis_field_put_text(&record, STASIS_AGENT_TAG_KIND, kind);
    stasis_field_put_text(&record, STASIS_AGENT_TAG_NAME, name);
    stasis_field_put_text(&record, STASIS_AGENT_TAG_OUTPUT, "/etc");
    stasis_field_put(&part, STASIS_AGENT_TAG_ENTRY, room, record.length);
    if (part.length > 30000)
        send_part(id, 0);
}

/* All is a directory: of what is to lie elsewhere, of itself, of more than there can be, of a link
 * that is a directory as well, or of a file without an end. */
static void lie_of_files(const char *mode, const StasisAgentFrame *frame)
{
    const char *lie = mode + 3;
    uint64_t id = frame->id;
    if (frame->code == STASIS_AGENT_OP_FILE_READ)
        for (unsigned i = 0; i < 128 && !host_has_left(); i++) /* 4 MiB */
            put_bytes(id, 32768);
    if (frame->code == STASIS_AGENT_OP_FILE_LIST && strcmp(lie, "outside") == 0)
        put_entry(id, "file", "../outside");
    if (frame->code == STASIS_AGENT_OP_FILE_LIST && strcmp(lie, "deep") == 0)
        put_entry(id, "directory", "d");
    if (frame->code == STASIS_AGENT_OP_FILE_LIST && strcmp(lie, "wide") == 0) {
        char name[256];
        put_entry(id, "directory", "a");
        for (unsigned i = 0; i < 60000 && !host_has_left(); i++) { /* all to come after that */
            snprintf(name, sizeof name, "b%0250u", i);
            put_entry(id, "other", name);
        }
    }
    if (frame->code == STASIS_AGENT_OP_FILE_LIST && strcmp(lie, "list") == 0)
        for (unsigned i = 0; i < 100000 && !host_has_left(); i++)
            put_entry(id, "file", "f");
    if (frame->code == STASIS_AGENT_OP_FILE_LIST && strcmp(lie, "link") == 0) {
        put_entry(id, "link", "l");
        put_entry(id, "directory", "l");
    }
    if (frame->code == STASIS_AGENT_OP_FILE_LIST && strcmp(lie, "endless") == 0)
        put_entry(id, "file", "f");
    stasis_field_put_text(&part, STASIS_AGENT_TAG_KIND, "directory");
    stasis_field_put_number(&part, STASIS_AGENT_TAG_MODE, UINT64_MAX);
    send_part(id, STASIS_AGENT_END);
}

/* A true greeting, and then parts without end. */
static void answer(const char *mode, const StasisAgentFrame *frame)
{
    StasisFieldWriter fields = { .payload = bytes, .room = 1024 };
    bool of_image = strncmp(mode, "im-", 3) == 0, of_restoring = strncmp(mode, "re-", 3) == 0;
    bool of_files = strncmp(mode, "fi-", 3) == 0;
    bool lies = strncmp(mode, "proc-", 5) == 0 || of_image || of_restoring || of_files;
    if (lies && frame->type == STASIS_AGENT_REQUEST &&
        (of_image || of_restoring || of_files || frame->code != STASIS_AGENT_OP_INSTANT)) {
        if (of_image)
            lie_of_image(mode, frame);
        else if (of_restoring)
            lie_of_restoring(mode, frame);
        else if (of_files)
            lie_of_files(mode, frame);
        else
            lie_of_processes(mode, frame->id);
        return;
    }
    if (!lies && strcmp(mode, "endless") != 0 && strcmp(mode, "echo") != 0) {
        misbehave(mode, frame->id);
        return;
    }
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_VERSION, 1);
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_AGENT, "\x1b[31mevil\n");
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_KERNEL, "\xff\xfe");
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_OPERATION, "processes");
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_OPERATION, "boundary");
    if (frame->type == STASIS_AGENT_HELLO)
        say_frame(STASIS_AGENT_HELLO, STASIS_AGENT_END, frame->id, bytes, fields.length);
    else if (strcmp(mode, "echo") == 0)
        say_frame(STASIS_AGENT_ANSWER, STASIS_AGENT_END, frame->id, bytes, fields.length);
    else
        for (unsigned i = 0; i < 5000; i++)
            say_frame(STASIS_AGENT_ANSWER, 0, frame->id, bytes, fields.length);
}

int main(void)
{
    static StasisAgentDecoder decoder;
    char mode[16] = "hang";
    open_port();
    if (port < 0)
        return 1;
    for (;;) {
        ssize_t n = held > 0 ? held : read(port, in, sizeof in);
        held = 0;
        if (gone)
            stasis_agent_decoder_reset(&decoder);
        gone = false;
        if (n <= 0) { /* no host */
            poll(NULL, 0, 20);
            continue;
        }
        /* What the last host said may stand before it, and what the next one says behind it. */
        const uint8_t *line = memmem(in, (size_t)n, "MODE ", 5);
        const uint8_t *end = line != NULL ? memchr(line, '\n', (size_t)(in + n - line)) : NULL;
        size_t at = 0;
        if (end != NULL) {
            snprintf(mode, sizeof mode, "%.*s", (int)(end - line) - 5, line + 5);
            at = (size_t)(end - in) + 1;
            say(line, (size_t)(end - line) + 1); /* read; and a border, which is part of nothing */
            say("", 1);
        }
        while (at < (size_t)n && !gone) {
            StasisAgentFrame frame;
            bool whole;
            at += stasis_agent_decode(&decoder, in + at, (size_t)n - at, &frame, &whole);
            if (whole)
                answer(mode, &frame);
        }
    }
}

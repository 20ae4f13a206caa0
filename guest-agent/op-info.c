/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who is there: ping and info. */
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

void op_ping(const Request *request, Answer *answer)
{
    StasisField nonce;
    if (stasis_field_find(request->fields, request->length, STASIS_AGENT_TAG_NONCE, &nonce)) {
        if (nonce.length > 64) {
            answer_error(answer, STASIS_AGENT_INVALID, 0, "ping: a nonce of more than 64 bytes");
            return;
        }
        stasis_field_put(&answer->fields, STASIS_AGENT_TAG_NONCE, nonce.value, nonce.length);
    }
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_REALTIME, clock_ns(CLOCK_REALTIME));
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_MONOTONIC, clock_ns(CLOCK_MONOTONIC));
    answer_end(answer);
}

/* PRETTY_NAME="…" of os-release(5). */
static void system_name(char *buffer, size_t size)
{
    FILE *file = fopen("/etc/os-release", "re");
    char line[256];
    if (file == NULL)
        file = fopen("/usr/lib/os-release", "re");
    buffer[0] = '\0';
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        static const char key[] = "PRETTY_NAME=";
        if (strncmp(line, key, strlen(key)) != 0)
            continue;
        char *value = line + strlen(key);
        value += strspn(value, "\"'");
        value[strcspn(value, "\"'\n")] = '\0';
        snprintf(buffer, size, "%s", value);
    }
    if (file != NULL)
        fclose(file);
}

void machine_id(char buffer[33])
{
    char line[64];
    read_line("/etc/machine-id", line, sizeof line);
    bool good = strlen(line) == 32 && strspn(line, "0123456789abcdef") == 32;
    snprintf(buffer, 33, "%.32s", good ? line : "");
}

void op_info(const Request *request, Answer *answer)
{
    StasisFieldWriter *fields = &answer->fields;
    struct utsname names;
    char text[256];
    uname(&names);
    stasis_field_put_text(fields, STASIS_AGENT_TAG_AGENT, AGENT_VERSION);
    snprintf(text, sizeof text, "%s %s", names.sysname, names.release);
    stasis_field_put_text(fields, STASIS_AGENT_TAG_KERNEL, text);
    system_name(text, sizeof text);
    stasis_field_put_text(fields, STASIS_AGENT_TAG_SYSTEM, text);
    stasis_field_put_text(fields, STASIS_AGENT_TAG_HOSTNAME, names.nodename);
    machine_id(text);
    stasis_field_put_text(fields, STASIS_AGENT_TAG_MACHINE_ID, text);
    read_line("/proc/sys/kernel/random/boot_id", text, sizeof text);
    stasis_field_put_text(fields, STASIS_AGENT_TAG_BOOT_ID, text);
    stasis_field_put_number(fields, STASIS_AGENT_TAG_UPTIME, clock_ns(CLOCK_BOOTTIME));
    stasis_field_put_number(fields, STASIS_AGENT_TAG_REALTIME, clock_ns(CLOCK_REALTIME));
    instant_describe(answer);
    answer_end(answer);
}

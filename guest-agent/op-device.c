/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Devices at rest for an instant, and that they come back whatever happens: a keeper (keeper.h)
 * suspends and resumes them (suspend.c). In a VM that goes on from an image the instant's operation
 * has it resume them at once.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "agent.h"
#include "keeper.h"
#include "suspend.h"

#define LIMIT_MS 600000

typedef struct {
    unsigned n;
    SuspendWanted devices[SUSPEND_MAX_DEVICES];
} Wanted;

/* ---- the keeper ---- */

static Suspended *held[SUSPEND_MAX_DEVICES];

/* From the last, so that what lies behind another comes before it. The text gets a line for each
 * that did not come back as it should. */
static void resume_all(KeeperReport *report)
{
    unsigned n = report->n;
    size_t at = 0;
    report->n = 0;
    report->text[0] = '\0';
    while (n-- > 0) {
        if (suspend_resume(held[n], report->text + at, (unsigned)(sizeof report->text / 2 - at))) {
            report->n++;
            continue;
        }
        report->error_number = EIO;
        at = strlen(report->text);
        if (n > 0 && at + 128 < sizeof report->text / 2)
            at += (size_t)snprintf(report->text + at, 3, "; ");
    }
}

/* The text gets a line for each. */
static void suspend_all(const void *what, int64_t end_ms, KeeperReport *report)
{
    const Wanted *wanted = what;
    char why[512];
    uint64_t begun_ns = clock_ns(CLOCK_MONOTONIC);
    while (report->n < wanted->n) {
        size_t at = strlen(report->text);
        held[report->n] = suspend_device(&wanted->devices[report->n], end_ms, why, sizeof why,
                                         &report->error_number);
        if (held[report->n] == NULL) {
            int error_number = report->error_number;
            resume_all(report);
            report->error_number = error_number;
            snprintf(report->text, sizeof report->text, "%s", why);
            return;
        }
        suspend_describe(held[report->n++], report->text + at,
                         (unsigned)(sizeof report->text - at));
        if (report->n < wanted->n)
            strncat(report->text, "\n", sizeof report->text - strlen(report->text) - 1);
    }
    report->error_number = 0;
    report->held_ns = clock_ns(CLOCK_MONOTONIC) - begun_ns;
}

static const KeeperOps suspending = { "stasis-suspend", suspend_all, resume_all };
static Keeper suspender = { &suspending, -1 };

/* ---- in the agent ---- */

void device_resume_now(void)
{
    keeper_let_go_now(&suspender);
}

/* "1c.0/00.0" */
static bool path_is_valid(const char *path)
{
    return path[0] != '\0' && strspn(path, "0123456789abcdef./") == strlen(path) &&
           strstr(path, "..") == NULL && path[0] != '/';
}

static bool read_wanted(const Request *request, Wanted *wanted)
{
    StasisField field;
    for (uint32_t at = 0; stasis_field_next(request->fields, request->length, &at, &field);) {
        if (field.tag != STASIS_AGENT_TAG_PATH)
            continue;
        if (wanted->n == SUSPEND_MAX_DEVICES ||
            !stasis_field_is_text(&field, sizeof wanted->devices[0].path - 1))
            return false;
        char *path = wanted->devices[wanted->n++].path;
        memcpy(path, field.value, field.length);
        path[field.length] = '\0';
        if (!path_is_valid(path))
            return false;
    }
    char driver[sizeof wanted->devices[0].driver] = "";
    request_text(request, STASIS_AGENT_TAG_DRIVER, driver, sizeof driver);
    if (strchr(driver, '/') != NULL || driver[0] == '.')
        return false;
    for (unsigned i = 0; i < wanted->n; i++)
        strcpy(wanted->devices[i].driver, driver);
    return wanted->n > 0;
}

bool op_device_suspend_before(const Request *request, Answer *answer)
{
    Wanted wanted = { 0 };
    if (!read_wanted(request, &wanted))
        answer_error(answer, STASIS_AGENT_INVALID, 0, "device-suspend: no devices, or not so");
    else if (keeper_is_holding(&suspender))
        answer_error(answer, STASIS_AGENT_STATE, 0,
                     "device-suspend: some are suspended already; resume them first");
    else if (keeper_start(&suspender, &wanted, now_ms() + request_timeout(request, LIMIT_MS)))
        return true;
    else
        answer_error(answer, STASIS_AGENT_FAILED, errno, "device-suspend");
    return false;
}

void op_device_suspend(const Request *request, Answer *answer)
{
    static KeeperReport report;
    if (!keeper_get_report(&suspender, &report)) {
        answer_error(answer, STASIS_AGENT_FAILED, 0, "device-suspend: no process for it");
        return;
    }
    if (report.error_number != 0) {
        answer_error(answer,
                     report.error_number == ETIMEDOUT ? STASIS_AGENT_TIMEOUT : STASIS_AGENT_FAILED,
                     report.error_number, "device-suspend: %s", report.text);
        return;
    }
    stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_SUSPENDED_FOR, report.held_ns);
    char *rest = report.text, *line;
    while ((line = strsep(&rest, "\n")) != NULL)
        stasis_field_put_text(&answer->fields, STASIS_AGENT_TAG_DEVICE, line);
    answer_end(answer);
}

bool op_device_resume_before(const Request *request, Answer *answer)
{
    if (keeper_tell(&suspender))
        return true;
    answer_error(answer, STASIS_AGENT_STATE, 0, "device-resume: nothing is suspended (any more)");
    return false;
}

void op_device_resume(const Request *request, Answer *answer)
{
    static KeeperReport report;
    if (!keeper_get_report(&suspender, &report))
        answer_error(answer, STASIS_AGENT_STATE, 0,
                     "device-resume: they had resumed by themselves");
    else if (report.error_number != 0)
        answer_error(answer, STASIS_AGENT_FAILED, 0, "device-resume: %s", report.text);
    else
        stasis_field_put_number(&answer->fields, STASIS_AGENT_TAG_N_RESUMED, report.n);
    answer_end(answer);
}

bool device_resume_tell(void)
{
    return keeper_tell(&suspender);
}

bool device_resume_wait(unsigned *ret_n, char *text, size_t size)
{
    static KeeperReport report;
    bool ok = keeper_get_report(&suspender, &report) && report.error_number == 0;
    *ret_n = ok ? report.n : 0;
    snprintf(text, size, "%s", report.text);
    return ok;
}

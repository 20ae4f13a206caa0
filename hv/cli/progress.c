/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "progress.h"

#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "output.h"

#define CLEAR_LINE "\r\033[K"

CliProgress cli_progress_new(const CliCall *call)
{
    const char *asked = cli_text(call, "progress");
    CliProgress progress = { .style = CLI_PROGRESS_NONE };
    if (asked != NULL && strcmp(asked, "json") == 0)
        progress.style = CLI_PROGRESS_LINES;
    else if (asked != NULL && strcmp(asked, "none") == 0)
        progress.style = CLI_PROGRESS_NONE;
    else if (!call->json && !cli_flag(call, "quiet") && isatty(STDERR_FILENO))
        progress.style = CLI_PROGRESS_BAR;
    return progress;
}

static size_t terminal_columns(void)
{
    struct winsize size = { 0 };
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
        return 80;
    return size.ws_col;
}

static void draw_bar(CliProgress *self, const StasisProgress *now)
{
    char line[256], text[200];
    const double mib = 1024 * 1024;
    double seconds = (double)(g_get_monotonic_time() - self->phase_start_us) / 1e6;
    double rate = seconds > 0.2 ? (double)now->done_bytes / seconds : 0;
    int len = g_snprintf(text, sizeof text, "%-10s", self->phase);
    if (now->total_bytes > 0) {
        double share = MIN((double)now->done_bytes / (double)now->total_bytes, 1.0);
        char bar[21] = "....................";
        memset(bar, '#', (size_t)(share * 20));
        len += g_snprintf(text + len, sizeof text - len, " [%s] %3d%%  %.0f/%.0f MiB", bar,
                          (int)(share * 100), (double)now->done_bytes / mib,
                          (double)now->total_bytes / mib);
    } else {
        len +=
            g_snprintf(text + len, sizeof text - len, " %.0f MiB", (double)now->done_bytes / mib);
    }
    if (rate > 0) {
        len += g_snprintf(text + len, sizeof text - len, "  %.0f MiB/s", rate / mib);
        if (now->total_bytes > now->done_bytes)
            len += g_snprintf(text + len, sizeof text - len, "  %.0f s left",
                              (double)(now->total_bytes - now->done_bytes) / rate);
    }
    /* A line that wraps could not be cleared. */
    size_t columns = terminal_columns();
    if (len >= 0 && (size_t)len >= columns)
        text[columns - 1] = '\0';
    int n = g_snprintf(line, sizeof line, CLEAR_LINE "%s", text);
    if (cli_try_write(line, MIN((size_t)n, sizeof line - 1)))
        self->drawn = TRUE;
}

static void write_line(CliProgress *self, const StasisProgress *now)
{
    char line[256];
    int n = g_snprintf(line, sizeof line,
                       "{\"progress\":{\"phase\":\"%s\",\"done_bytes\":%" G_GUINT64_FORMAT
                       ",\"total_bytes\":%" G_GUINT64_FORMAT "}}\n",
                       self->phase, now->done_bytes, now->total_bytes);
    cli_try_write(line, MIN((size_t)n, sizeof line - 1));
}

void cli_progress_show(const StasisProgress *progress, gpointer user_data)
{
    CliProgress *self = user_data;
    if (self->style == CLI_PROGRESS_NONE)
        return;
    const char *phase = progress->phase != NULL ? progress->phase : "";
    if (strncmp(self->phase, phase, sizeof self->phase - 1) != 0 || self->phase_start_us == 0) {
        g_strlcpy(self->phase, phase, sizeof self->phase);
        /* It goes between quotes in JSON and onto a terminal. */
        g_strcanon(self->phase, G_CSET_a_2_z G_CSET_A_2_Z G_CSET_DIGITS " -./:,", '?');
        self->phase_start_us = g_get_monotonic_time();
    }
    if (self->style == CLI_PROGRESS_BAR)
        draw_bar(self, progress);
    else
        write_line(self, progress);
}

void cli_progress_end(CliProgress *progress)
{
    if (progress->drawn)
        cli_try_write(CLEAR_LINE, strlen(CLEAR_LINE));
    progress->drawn = FALSE;
}

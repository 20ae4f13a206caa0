/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

char *cli_printable(const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text != NULL ? text : "", -1);
    GString *out = g_string_sized_new(strlen(valid));
    for (const char *p = valid; *p != '\0'; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);
        if (g_unichar_isprint(c) || g_unichar_iszerowidth(c))
            g_string_append_unichar(out, c);
        else
            g_string_append_printf(out, c < 256 ? "\\x%02x" : "\\u%04x", (guint)c);
    }
    return g_string_free(out, FALSE);
}

static void print_stderr(const char *text)
{
    g_autofree char *shown = cli_printable(text);
    fprintf(stderr, "stasis: %s\n", shown);
}

void cli_note(const CliCall *call, const char *format, ...)
{
    if (call->json || cli_flag(call, "quiet"))
        return;
    va_list ap;
    va_start(ap, format);
    g_autofree char *text = g_strdup_vprintf(format, ap);
    va_end(ap);
    print_stderr(text);
}

void cli_try_note(const CliCall *call, const char *format, ...)
{
    if (call->json || cli_flag(call, "quiet"))
        return;
    va_list ap;
    va_start(ap, format);
    g_autofree char *text = g_strdup_vprintf(format, ap);
    va_end(ap);
    g_autofree char *shown = cli_printable(text);
    g_autofree char *line = g_strconcat("stasis: ", shown, "\n", NULL);
    cli_try_write(line, strlen(line));
}

gboolean cli_flush(CliCall *call)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return TRUE;
    if (call->unheard == 0)
        call->unheard = errno != 0 ? errno : EIO;
    g_cancellable_cancel(call->cancellable);
    return FALSE;
}

gboolean cli_print_line(CliCall *call, const char *text)
{
    puts(text);
    return cli_flush(call);
}

/* A pipe that can be written to has room for so much, and no more may be (pipe(7)). */
static gboolean has_room(size_t len)
{
    int queued = 0, size = fcntl(STDERR_FILENO, F_GETPIPE_SZ);
    if (len <= PIPE_BUF || size < 0)
        return TRUE;
    /* It counts in pages, and two lines are in one where they fit: each is half full at least. */
    return ioctl(STDERR_FILENO, FIONREAD, &queued) == 0 &&
           len + 2 * (size_t)queued + PIPE_BUF <= (size_t)size;
}

gboolean cli_try_write(const char *line, size_t len)
{
    struct pollfd pfd = { .fd = STDERR_FILENO, .events = POLLOUT };
    if (poll(&pfd, 1, 0) != 1 || !(pfd.revents & POLLOUT) || !has_room(len))
        return FALSE;
    return write(STDERR_FILENO, line, len) == (ssize_t)len;
}

void cli_report_object(JsonObject *object)
{
    g_autoptr(JsonNode) node = json_node_init_object(json_node_alloc(), object);
    g_autofree char *text = json_to_string(node, FALSE);
    g_autofree char *line = g_strconcat(text, "\n", NULL);
    cli_try_write(line, strlen(line));
}

char *cli_format_bytes(guint64 bytes)
{
    static const char *const units[] = { "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
    if (bytes < 1024)
        return g_strdup_printf("%" G_GUINT64_FORMAT " B", bytes);
    double number = (double)bytes / 1024;
    guint unit = 0;
    while (number >= 1023.95 && unit + 1 < G_N_ELEMENTS(units)) {
        number /= 1024;
        unit++;
    }
    return g_strdup_printf("%.1f %s", number, units[unit]);
}

char *cli_format_signed_bytes(gint64 bytes)
{
    g_autofree char *size = cli_format_bytes((guint64)ABS(bytes));
    return g_strconcat(bytes < 0 ? "-" : "", size, NULL);
}

char *cli_format_us(guint64 us)
{
    if (us < G_TIME_SPAN_SECOND)
        return g_strdup_printf("%.1f ms", (double)us / 1e3);
    return g_strdup_printf("%.2f s", (double)us / 1e6);
}

char *cli_format_time(gint64 unix_us)
{
    g_autoptr(GDateTime) utc = g_date_time_new_from_unix_utc(unix_us / G_TIME_SPAN_SECOND);
    g_autoptr(GDateTime) local = utc != NULL ? g_date_time_to_local(utc) : NULL;
    return local != NULL ? g_date_time_format(local, "%Y-%m-%d %H:%M:%S") : g_strdup("?");
}

void cli_json_set_string(JsonObject *object, const char *name, const char *text)
{
    g_autofree char *valid = text != NULL ? g_utf8_make_valid(text, -1) : NULL;
    if (valid != NULL)
        json_object_set_string_member(object, name, valid);
    else
        json_object_set_null_member(object, name);
}

void cli_json_set_uint(JsonObject *object, const char *name, guint64 number)
{
    json_object_set_int_member(object, name, (gint64)MIN(number, (guint64)G_MAXINT64));
}

void cli_take_object(CliCall *call, JsonObject *object)
{
    g_clear_pointer(&call->result, json_node_unref);
    call->result = json_node_init_object(json_node_alloc(), object);
    json_object_unref(object);
}

void cli_take_array(CliCall *call, JsonArray *array)
{
    g_clear_pointer(&call->result, json_node_unref);
    call->result = json_node_init_array(json_node_alloc(), array);
    json_array_unref(array);
}

/* A refusal has three lines; elsewhere the messages have one. */
static char *one_line(const char *message)
{
    g_auto(GStrv) lines = g_strsplit(message, "\n", -1);
    return g_strjoinv("; ", lines);
}

static void print_refusal(const GError *error)
{
    g_auto(GStrv) lines = g_strsplit(error->message, "\n", -1);
    for (char **line = lines; *line != NULL; line++)
        print_stderr(*line);
}

static void print_envelope(CliCall *call, const GError *error)
{
    JsonObject *envelope = json_object_new();
    json_object_set_int_member(envelope, "stasis", CLI_JSON_VERSION);
    cli_json_set_string(envelope, "command", call->command != NULL ? call->command->name : NULL);
    json_object_set_boolean_member(envelope, "ok", error == NULL);
    if (call->result != NULL)
        json_object_set_member(envelope, "result", g_steal_pointer(&call->result));
    else if (error == NULL)
        json_object_set_null_member(envelope, "result");
    if (error != NULL) {
        JsonObject *failure = json_object_new();
        cli_json_set_string(failure, "code", stasis_error_name(error));
        g_autofree char *message = one_line(error->message);
        cli_json_set_string(failure, "message", message);
        json_object_set_int_member(failure, "exit", stasis_error_exit_code(error));
        json_object_set_object_member(envelope, "error", failure);
    }
    g_autoptr(JsonNode) root = json_node_init_object(json_node_alloc(), envelope);
    json_object_unref(envelope);
    g_autofree char *text = json_to_string(root, TRUE);
    puts(text);
}

static void print_error(const CliCall *call, const GError *error)
{
    if (g_error_matches(error, STASIS_ERROR, STASIS_ERROR_REFUSED)) {
        print_refusal(error);
        return;
    }
    gboolean cancelled = g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
    print_stderr(cancelled ? "interrupted" : error->message);
    if (!g_error_matches(error, STASIS_ERROR, STASIS_ERROR_USAGE))
        return;
    if (call->command != NULL)
        fprintf(stderr, "see: stasis help %s\n", call->command->name);
    else
        fprintf(stderr, "see: stasis help\n");
}

int cli_finish(CliCall *call, const GError *error)
{
    /* Nobody called it off but we, for want of a reader. */
    gboolean ours = call->unheard != 0 && error != NULL && stasis_error_exit_code(error) == 130;
    if (ours)
        error = NULL;
    int exit_code = error != NULL ? stasis_error_exit_code(error) : call->exit_code;
    if (call->json)
        print_envelope(call, error);
    else if (error != NULL)
        print_error(call, error);
    /* A full disk or a closed pipe shows only here; a result that nobody got is a failure. */
    errno = call->unheard;
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "stasis: writing to standard output failed: %s\n",
                errno != 0 ? g_strerror(errno) : "an earlier write did not get through");
        return exit_code != 0 ? exit_code : 1;
    }
    return exit_code;
}

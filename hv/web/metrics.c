/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "web/metrics.h"

#include <stdarg.h>

const double stasis_histogram_bounds[STASIS_HISTOGRAM_BUCKETS] = {
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
};

void stasis_metrics_family(GString *out, const char *name, const char *type, const char *help)
{
    g_string_append_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void append_escaped(GString *out, const char *value)
{
    g_autofree char *valid = g_utf8_make_valid(value, -1);
    for (const char *p = valid; *p != '\0'; p++) {
        if (*p == '\n')
            g_string_append(out, "\\n");
        else if (*p == '"' || *p == '\\')
            g_string_append_printf(out, "\\%c", *p);
        else
            g_string_append_c(out, *p);
    }
}

/* With a point, whatever the locale; as short as gives the same number when it is read. */
static void append_value(GString *out, double value)
{
    char text[G_ASCII_DTOSTR_BUF_SIZE];
    g_ascii_formatd(text, sizeof(text), "%.15g", value);
    if (g_ascii_strtod(text, NULL) != value)
        g_ascii_dtostr(text, sizeof(text), value);
    g_string_append_printf(out, " %s\n", text);
}

static void begin_labels(GString *out, guint *n)
{
    g_string_append_c(out, (*n)++ == 0 ? '{' : ',');
}

void stasis_metrics_add(GString *out, const char *name, double value, ...)
{
    va_list ap;
    guint n = 0;
    g_string_append(out, name);
    va_start(ap, value);
    for (const char *label = va_arg(ap, const char *); label != NULL;
         label = va_arg(ap, const char *)) {
        begin_labels(out, &n);
        g_string_append_printf(out, "%s=\"", label);
        append_escaped(out, va_arg(ap, const char *));
        g_string_append_c(out, '"');
    }
    va_end(ap);
    if (n > 0)
        g_string_append_c(out, '}');
    append_value(out, value);
}

void stasis_histogram_observe(StasisHistogram *histogram, double seconds)
{
    guint i = 0;
    while (i < STASIS_HISTOGRAM_BUCKETS && seconds > stasis_histogram_bounds[i])
        i++;
    histogram->n[i]++;
    histogram->sum_seconds += seconds;
}

void stasis_metrics_add_histogram(GString *out, const char *name, const StasisHistogram *histogram,
                                  const char *vm)
{
    guint64 sum = 0;
    char bound[G_ASCII_DTOSTR_BUF_SIZE];
    g_autofree char *bucket = g_strconcat(name, "_bucket", NULL);
    g_autofree char *total = g_strconcat(name, "_sum", NULL);
    g_autofree char *count = g_strconcat(name, "_count", NULL);
    for (guint i = 0; i < STASIS_HISTOGRAM_BUCKETS; i++) {
        sum += histogram->n[i];
        g_ascii_formatd(bound, sizeof(bound), "%g", stasis_histogram_bounds[i]);
        stasis_metrics_add(out, bucket, (double)sum, "vm", vm, "le", bound, NULL);
    }
    sum += histogram->n[STASIS_HISTOGRAM_BUCKETS];
    stasis_metrics_add(out, bucket, (double)sum, "vm", vm, "le", "+Inf", NULL);
    stasis_metrics_add(out, total, histogram->sum_seconds, "vm", vm, NULL);
    stasis_metrics_add(out, count, (double)sum, "vm", vm, NULL);
}

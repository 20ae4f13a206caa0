/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Text for Prometheus: the exposition format 0.0.4
 * (https://prometheus.io/docs/instrumenting/exposition_formats/), names by its rules
 * (https://prometheus.io/docs/practices/naming/).
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

#define STASIS_METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* Begin a family of samples, which follow it: @type is "gauge", "counter" or "histogram". */
void stasis_metrics_family(GString *out, const char *name, const char *type, const char *help);
/* A sample of family @name: labels as pairs of name and value (any UTF-8), NULL behind them. */
void stasis_metrics_add(GString *out, const char *name, double value, ...) G_GNUC_NULL_TERMINATED;

/* Upper bounds, in seconds: 0.1 ms to 1 s, and more than that. */
#define STASIS_HISTOGRAM_BUCKETS 14u
extern const double stasis_histogram_bounds[STASIS_HISTOGRAM_BUCKETS];

typedef struct {
    guint64 n[STASIS_HISTOGRAM_BUCKETS + 1]; /* in each alone; the last: above all bounds */
    double sum_seconds;
} StasisHistogram;

void stasis_histogram_observe(StasisHistogram *histogram, double seconds);
/* Its samples, for VM @vm. */
void stasis_metrics_add_histogram(GString *out, const char *name, const StasisHistogram *histogram,
                                  const char *vm);

G_END_DECLS

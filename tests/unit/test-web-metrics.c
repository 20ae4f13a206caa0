/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: metrics are text as Prometheus reads it, whatever a VM is called and whatever the locale
 * is, and a histogram's buckets are cumulative. */
#include "web/metrics.h"

#include <locale.h>
#include <string.h>

static void test_escaping(void)
{
    static const struct {
        const char *vm, *text;
    } cases[] = {
        { "web", "m{vm=\"web\"} 1\n" },     { "", "m{vm=\"\"} 1\n" },
        { "a\"b", "m{vm=\"a\\\"b\"} 1\n" }, { "a\\b", "m{vm=\"a\\\\b\"} 1\n" },
        { "a\nb", "m{vm=\"a\\nb\"} 1\n" },  { "a\\nb\"}", "m{vm=\"a\\\\nb\\\"}\"} 1\n" },
        { "ü", "m{vm=\"ü\"} 1\n" },         { "\xff", "m{vm=\"\xef\xbf\xbd\"} 1\n" },
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GString) out = g_string_new(NULL);
        stasis_metrics_add(out, "m", 1, "vm", cases[i].vm, NULL);
        g_assert_cmpstr(out->str, ==, cases[i].text);
    }
}

static void test_numbers(void)
{
    static const struct {
        double value;
        const char *text;
    } cases[] = {
        { 0, "m 0\n" },
        { 0.00025, "m 0.00025\n" },
        { 1764172800.5, "m 1764172800.5\n" },
        { 123456789012345.0, "m 123456789012345\n" },
        { 1e300, "m 1e+300\n" },
    };
    g_autoptr(GString) exact = g_string_new(NULL);
    stasis_metrics_add(exact, "m", 1764172800.123457, NULL);
    g_assert_cmpfloat(g_ascii_strtod(exact->str + 2, NULL), ==, 1764172800.123457);
    /* One with a comma, where it is there. */
    setlocale(LC_ALL, "de_DE.UTF-8");
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GString) out = g_string_new(NULL);
        stasis_metrics_add(out, "m", cases[i].value, NULL);
        g_assert_cmpstr(out->str, ==, cases[i].text);
    }
}

static void test_family(void)
{
    g_autoptr(GString) out = g_string_new(NULL);
    stasis_metrics_family(out, "stasis_images", "gauge", "Images.");
    stasis_metrics_add(out, "stasis_images", 3, "kind", "vm", "vm", "web", NULL);
    g_assert_cmpstr(out->str, ==,
                    "# HELP stasis_images Images.\n# TYPE stasis_images gauge\n"
                    "stasis_images{kind=\"vm\",vm=\"web\"} 3\n");
}

static void test_histogram(void)
{
    g_autoptr(GString) out = g_string_new(NULL);
    StasisHistogram histogram = { 0 };
    g_assert_cmpfloat(stasis_histogram_bounds[0], ==, 0.0001);
    g_assert_cmpfloat(stasis_histogram_bounds[STASIS_HISTOGRAM_BUCKETS - 1], ==, 1.0);
    /* A bound is in its own bucket. */
    stasis_histogram_observe(&histogram, 0.0001);
    stasis_histogram_observe(&histogram, 0.0006);
    stasis_histogram_observe(&histogram, 0.0007);
    stasis_histogram_observe(&histogram, 1.5);
    g_assert_cmpfloat_with_epsilon(histogram.sum_seconds, 1.5014, 1e-9);
    histogram.sum_seconds = 1.5; /* that decimal has an end */
    stasis_metrics_add_histogram(out, "s", &histogram, "v");
    g_assert_true(g_str_has_prefix(out->str, "s_bucket{vm=\"v\",le=\"0.0001\"} 1\n"));
    g_assert_nonnull(strstr(out->str, "s_bucket{vm=\"v\",le=\"0.0005\"} 1\n"));
    g_assert_nonnull(strstr(out->str, "s_bucket{vm=\"v\",le=\"0.001\"} 3\n"));
    g_assert_nonnull(strstr(out->str, "s_bucket{vm=\"v\",le=\"1\"} 3\n"));
    g_assert_true(g_str_has_suffix(out->str, "s_bucket{vm=\"v\",le=\"+Inf\"} 4\n"
                                             "s_sum{vm=\"v\"} 1.5\n"
                                             "s_count{vm=\"v\"} 4\n"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/web/metrics/escaping", test_escaping);
    g_test_add_func("/web/metrics/numbers", test_numbers);
    g_test_add_func("/web/metrics/family", test_family);
    g_test_add_func("/web/metrics/histogram", test_histogram);
    return g_test_run();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How often a test failed from each image of a ring, over the time of the image: a picture that
 * needs nothing but itself. */
#include "ci.h"
#include "report-file.h"

#define WIDTH 720
#define HEIGHT 320
#define LEFT 60
#define RIGHT 20
#define TOP 50
#define BOTTOM 50

typedef struct {
    const StasisReplay *replay;
    gint64 first_us, span_us;
} Plot;

static const StasisReplayRuns *image(const Plot *plot, guint index)
{
    return g_ptr_array_index(plot->replay->images, index);
}

static int x_of(const Plot *plot, guint index)
{
    gint64 at_us = image(plot, index)->created_us - plot->first_us;
    return LEFT + (int)(at_us * (WIDTH - LEFT - RIGHT) / plot->span_us);
}

static int y_of(const StasisReplayRuns *runs)
{
    guint n = MAX(runs->n_runs - runs->n_unknown, 1);
    return HEIGHT - BOTTOM - (int)(runs->n_same * (HEIGHT - TOP - BOTTOM) / n);
}

static void add_axes(GString *svg, const Plot *plot)
{
    for (int percent = 0; percent <= 100; percent += 50) {
        int y = HEIGHT - BOTTOM - percent * (HEIGHT - TOP - BOTTOM) / 100;
        g_string_append_printf(svg,
                               "<line x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\" stroke=\"#ccc\"/>\n"
                               "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%d %%</text>\n",
                               LEFT, y, WIDTH - RIGHT, y, LEFT - 8, y + 4, percent);
    }
    for (guint i = 0; i < plot->replay->images->len; i++) {
        int x = x_of(plot, i);
        gint64 ms = (image(plot, i)->created_us - plot->first_us) / 1000;
        g_string_append_printf(svg,
                               "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%u</text>\n"
                               "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\" fill=\"#777\">"
                               "%d.%d s</text>\n",
                               x, HEIGHT - BOTTOM + 18, i + 1, x, HEIGHT - BOTTOM + 34,
                               (int)(ms / 1000), (int)(ms % 1000 / 100));
    }
}

/* Where it became inevitable, as a band. */
static void add_interval(GString *svg, const Plot *plot)
{
    gint index = plot->replay->inevitable;
    if (index < 0)
        return;
    gint open = plot->replay->open;
    int to = x_of(plot, (guint)index), from = open >= 0 ? x_of(plot, (guint)open) : LEFT;
    g_string_append_printf(svg,
                           "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"#fdd\"/>\n",
                           from, TOP, MAX(to - from, 2), HEIGHT - TOP - BOTTOM);
}

static void add_points(GString *svg, const Plot *plot)
{
    g_string_append(svg, "<polyline fill=\"none\" stroke=\"#a22\" stroke-width=\"2\" points=\"");
    for (guint i = 0; i < plot->replay->images->len; i++)
        g_string_append_printf(svg, "%d,%d ", x_of(plot, i), y_of(image(plot, i)));
    g_string_append(svg, "\"/>\n");
    for (guint i = 0; i < plot->replay->images->len; i++) {
        const StasisReplayRuns *runs = image(plot, i);
        g_string_append_printf(svg,
                               "<circle cx=\"%d\" cy=\"%d\" r=\"4\" fill=\"#a22\"><title>image %u, "
                               "%s: %u of %u failed</title></circle>\n",
                               x_of(plot, i), y_of(runs), i + 1, runs->id, runs->n_same,
                               runs->n_runs - runs->n_unknown);
    }
}

gboolean cli_write_bisect_svg(const char *path, const StasisReplay *replay, GError **error)
{
    guint n = replay->images->len;
    Plot plot = { .replay = replay };
    plot.first_us = image(&plot, 0)->created_us;
    plot.span_us = MAX(image(&plot, n - 1)->created_us - plot.first_us, 1);
    g_autoptr(GString) svg = g_string_new(NULL);
    g_string_append_printf(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
        "font-family=\"sans-serif\" font-size=\"12\">\n"
        "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n"
        "<text x=\"%d\" y=\"24\" font-size=\"14\">Runs that failed, by the image "
        "that they went on from</text>\n",
        WIDTH, HEIGHT, LEFT);
    add_interval(svg, &plot);
    add_axes(svg, &plot);
    add_points(svg, &plot);
    g_string_append(svg, "</svg>\n");
    return cli_write_report(path, svg->str, svg->len, error);
}

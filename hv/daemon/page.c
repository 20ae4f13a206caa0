/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/page.h"

#include <glib/gstdio.h>
#include <stasis/error.h>
#include <stasis/web.h>

/* Before it is begun anew. */
#define PAUSE_S 5
/* For it to be there at first, so that whoever has started us finds it. */
#define FIRST_S 5

struct _StasisdPage {
    char *web, *metrics, *state_dir, *url_path;
    GCancellable *cancellable;
    GThread *thread;
    GMutex mutex;
    GCond changed;
    gboolean tried, ready, ending;
    GError *failed; /* it can't be served as it was asked for */
};

static void on_ready(const char *url, G_GNUC_UNUSED const char *metrics, gpointer data)
{
    StasisdPage *page = data;
    g_autofree char *text = url != NULL ? g_strconcat(url, "\n", NULL) : NULL;
    g_autoptr(GError) local = NULL;
    if (text != NULL && !g_file_set_contents_full(page->url_path, text, -1,
                                                  G_FILE_SET_CONTENTS_CONSISTENT, 0600, &local))
        g_warning("%s", local->message);
    g_mutex_lock(&page->mutex);
    page->ready = TRUE;
    g_cond_signal(&page->changed);
    g_mutex_unlock(&page->mutex);
}

static gpointer serve(gpointer data)
{
    StasisdPage *page = data;
    StasisWebOptions options = STASIS_WEB_OPTIONS_INIT;
    options.listen = page->web != NULL ? page->web : "";
    options.metrics = page->metrics;
    options.state = page->state_dir;
    options.ready = on_ready;
    options.ready_data = page;
    g_mutex_lock(&page->mutex);
    while (!page->ending) {
        g_autoptr(GError) local = NULL;
        g_mutex_unlock(&page->mutex);
        gboolean ok = stasis_web_run(&options, page->cancellable, &local);
        g_mutex_lock(&page->mutex);
        if (!page->ready && g_error_matches(local, STASIS_ERROR, STASIS_ERROR_USAGE)) {
            page->failed = g_steal_pointer(&local);
            g_cond_signal(&page->changed);
            break;
        }
        if (!page->ending)
            g_warning("the page: %s; again in %d s", ok ? "it has ended" : local->message, PAUSE_S);
        page->tried = TRUE;
        g_cond_signal(&page->changed);
        gint64 until = g_get_monotonic_time() + PAUSE_S * G_TIME_SPAN_SECOND;
        while (!page->ending && g_cond_wait_until(&page->changed, &page->mutex, until))
            ;
    }
    g_mutex_unlock(&page->mutex);
    return NULL;
}

StasisdPage *stasisd_page_new(const char *web, const char *metrics, const char *state_dir,
                              GError **error)
{
    g_autoptr(StasisdPage) page = g_new0(StasisdPage, 1);
    page->web = g_strdup(web);
    page->metrics = g_strdup(metrics);
    page->state_dir = g_strdup(state_dir);
    page->url_path = g_build_filename(state_dir, "web.url", NULL);
    page->cancellable = g_cancellable_new();
    g_mutex_init(&page->mutex);
    g_cond_init(&page->changed);
    page->thread = g_thread_new("page", serve, page);
    g_mutex_lock(&page->mutex);
    gint64 until = g_get_monotonic_time() + FIRST_S * G_TIME_SPAN_SECOND;
    while (!page->ready && !page->tried && page->failed == NULL &&
           g_cond_wait_until(&page->changed, &page->mutex, until))
        ;
    g_autoptr(GError) failed = g_steal_pointer(&page->failed);
    g_mutex_unlock(&page->mutex);
    if (failed == NULL)
        return g_steal_pointer(&page);
    g_propagate_error(error, g_steal_pointer(&failed));
    return NULL;
}

void stasisd_page_free(StasisdPage *page)
{
    if (page == NULL)
        return;
    g_mutex_lock(&page->mutex);
    page->ending = TRUE;
    g_cond_signal(&page->changed);
    g_mutex_unlock(&page->mutex);
    g_cancellable_cancel(page->cancellable);
    g_thread_join(page->thread);
    g_unlink(page->url_path);
    g_clear_error(&page->failed);
    g_object_unref(page->cancellable);
    g_mutex_clear(&page->mutex);
    g_cond_clear(&page->changed);
    g_free(page->web);
    g_free(page->metrics);
    g_free(page->state_dir);
    g_free(page->url_path);
    g_free(page);
}

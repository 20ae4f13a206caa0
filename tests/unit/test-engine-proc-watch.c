/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: what a guest tells of its processes is taken when it makes sense and refused in one line
 * when it does not; and of the images that a watch has taken just those go whose reason is gone. */
#include <stasis/error.h>
#include <string.h>

#include "engine/processes/watch-images.h"
#include "engine/processes/watch-read.h"
#include "test-agent-part.h"

/* ---- words ---- */

static guint events(const char *a, const char *b, GError **error)
{
    const char *const words[] = { a, b, NULL };
    return stasis_process_events_from_words(words, error);
}

static void test_words(void)
{
    g_assert_cmpuint(events("fork,exec", "exit", NULL), ==,
                     STASIS_PROCESS_FORK | STASIS_PROCESS_EXEC | STASIS_PROCESS_EXIT);
    g_assert_cmpuint(events("sem", NULL, NULL), ==,
                     STASIS_PROCESS_SEM_CREATE | STASIS_PROCESS_SEM_REMOVE);
    g_assert_cmpuint(events("shm:create,mqueue:remove", NULL, NULL), ==,
                     STASIS_PROCESS_SHM_CREATE | STASIS_PROCESS_MQUEUE_REMOVE);
    g_assert_cmpuint(events("ipc", NULL, NULL), ==, events("mqueue,sem", "shm", NULL));
    g_assert_cmpuint(events("ipc:create", NULL, NULL), ==,
                     STASIS_PROCESS_MQUEUE_CREATE | STASIS_PROCESS_SEM_CREATE |
                         STASIS_PROCESS_SHM_CREATE);
    for (const char *const *bad =
             (const char *const[]){ "", "fork,", "ipcs", "ipc:", "ip", "fork:create",
                                    "sem:", "forks", "sem:created", "shm:creat", "exit,x", NULL };
         *bad != NULL; bad++) {
        g_autoptr(GError) error = NULL;
        g_assert_cmpuint(events(*bad, NULL, &error), ==, 0);
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
    }
    g_autoptr(GError) none = NULL;
    g_assert_cmpuint(events(NULL, NULL, &none), ==, 0);
    g_assert_error(none, STASIS_ERROR, STASIS_ERROR_USAGE);
}

/* ---- answers ---- */

static void put(TestPart *part, const char *kind, const char *what, guint64 pid, const char *text)
{
    guint8 room[512];
    StasisFieldWriter record = { .payload = room, .room = sizeof room };
    stasis_field_put_text(&record, STASIS_AGENT_TAG_KIND, kind);
    stasis_field_put_text(&record, STASIS_AGENT_TAG_WHAT, what);
    if (pid != 0)
        stasis_field_put_number(&record, STASIS_AGENT_TAG_PID, pid);
    stasis_field_put_number(&record, STASIS_AGENT_TAG_START, 7);
    stasis_field_put_number(&record, STASIS_AGENT_TAG_COUNT, 3);
    stasis_field_put_number(&record, STASIS_AGENT_TAG_OTHER, 12);
    stasis_field_put_text(&record, STASIS_AGENT_TAG_COMM, text);
    stasis_field_put_text(&record, STASIS_AGENT_TAG_OBJECT, text);
    stasis_field_put(&part->part, STASIS_AGENT_TAG_CHANGE, record.payload, record.length);
}

/* Who was started and is watched, beside what happened. */
static void test_new(void)
{
    g_autofree TestPart *part = test_part_new();
    g_autoptr(StasisWatchReader) reader = stasis_watch_reader_new("VM x");
    guint8 room[64];
    StasisFieldWriter record = { .payload = room, .room = sizeof room };
    stasis_field_put_number(&record, STASIS_AGENT_TAG_PID, 12);
    stasis_field_put_number(&record, STASIS_AGENT_TAG_START, 7);
    put(part, "fork", NULL, 11, "a");
    stasis_field_put(&part->part, STASIS_AGENT_TAG_PROCESS, record.payload, record.length);
    g_assert_true(stasis_watch_reader_take(part->part.payload, part->part.length, reader, NULL));
    g_assert_cmpuint(stasis_watch_reader_get(reader)->len, ==, 1);
    const GArray *all = stasis_watch_reader_get_new(reader);
    g_assert_cmpuint(all->len, ==, 1);
    g_assert_cmpuint(g_array_index(all, StasisWatchNew, 0).pid, ==, 12);
    g_assert_cmpuint(g_array_index(all, StasisWatchNew, 0).start, ==, 7);
    while (all->len < STASIS_AGENT_MAX_WATCHED)
        g_assert_true(
            stasis_watch_reader_take(part->part.payload, part->part.length, reader, NULL));
    g_autoptr(GError) error = NULL;
    g_assert_false(stasis_watch_reader_take(part->part.payload, part->part.length, reader, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
}

static void test_changes(void)
{
    g_autofree TestPart *part = test_part_new();
    g_autoptr(StasisWatchReader) reader = stasis_watch_reader_new("VM x");
    put(part, "fork", NULL, 11, "a\n\x1b");
    put(part, "shm", "removed", 0, "posix-shm:/\xff");
    g_assert_true(stasis_watch_reader_take(part->part.payload, part->part.length, reader, NULL));
    const GArray *all = stasis_watch_reader_get(reader);
    g_assert_cmpuint(all->len, ==, 2);
    const StasisWatchChange *one = &g_array_index(all, StasisWatchChange, 0);
    g_assert_cmpuint(one->event, ==, STASIS_PROCESS_FORK);
    g_assert_cmpuint(one->pid, ==, 11);
    g_assert_cmpuint(one->child, ==, 12);
    g_assert_cmpuint(one->count, ==, 3);
    g_assert_cmpstr(one->comm, ==, "a??");
    const StasisWatchChange *two = &g_array_index(all, StasisWatchChange, 1);
    g_assert_cmpuint(two->event, ==, STASIS_PROCESS_SHM_REMOVE);
    g_assert_cmpstr(two->object, ==, "posix-shm:/\xef\xbf\xbd");
    g_assert_false(stasis_process_event_creates(two->event));
}

static void test_kinds(void)
{
    static const struct {
        const char *kind, *what;
        StasisProcessEvents event;
    } rows[] = { { "exec", NULL, STASIS_PROCESS_EXEC },
                 { "exit", NULL, STASIS_PROCESS_EXIT },
                 { "mqueue", "created", STASIS_PROCESS_MQUEUE_CREATE },
                 { "mqueue", "removed", STASIS_PROCESS_MQUEUE_REMOVE },
                 { "sem", "created", STASIS_PROCESS_SEM_CREATE },
                 { "sem", "removed", STASIS_PROCESS_SEM_REMOVE },
                 { "shm", "created", STASIS_PROCESS_SHM_CREATE },
                 { "shm", "removed", STASIS_PROCESS_SHM_REMOVE } };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree TestPart *part = test_part_new();
        g_autoptr(StasisWatchReader) reader = stasis_watch_reader_new("VM x");
        put(part, rows[i].kind, rows[i].what, 11, "x");
        g_assert_true(
            stasis_watch_reader_take(part->part.payload, part->part.length, reader, NULL));
        const GArray *all = stasis_watch_reader_get(reader);
        g_assert_cmpuint(g_array_index(all, StasisWatchChange, 0).event, ==, rows[i].event);
        g_assert_cmpstr(stasis_process_event_word(rows[i].event), ==, rows[i].kind);
        g_assert_cmpint(stasis_process_event_creates(rows[i].event), ==,
                        g_strcmp0(rows[i].what, "created") == 0);
    }
}

static void check_refused(const char *kind, const char *what, guint64 pid)
{
    g_autofree TestPart *part = test_part_new();
    g_autoptr(StasisWatchReader) reader = stasis_watch_reader_new("VM x");
    g_autoptr(GError) error = NULL;
    put(part, kind, what, pid, "x");
    g_assert_false(stasis_watch_reader_take(part->part.payload, part->part.length, reader, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    g_assert_null(strchr(error->message, '\n'));
}

static void test_nonsense(void)
{
    check_refused("forks", NULL, 11);
    check_refused("shm", "renamed", 11);
    check_refused("shm", NULL, 11);
    check_refused("exit", NULL, 0);
    check_refused("exit", NULL, 4194305);
    /* Half a record. */
    g_autofree TestPart *part = test_part_new();
    g_autoptr(StasisWatchReader) reader = stasis_watch_reader_new("VM x");
    stasis_field_put(&part->part, STASIS_AGENT_TAG_CHANGE, "\1\0\5", 3);
    g_assert_false(stasis_watch_reader_take(part->part.payload, part->part.length, reader, NULL));
}

static void test_too_many(void)
{
    g_autofree TestPart *part = test_part_new();
    g_autoptr(StasisWatchReader) reader = stasis_watch_reader_new("VM x");
    g_autoptr(GError) error = NULL;
    put(part, "exec", NULL, 11, "x");
    for (guint i = 0; i < STASIS_AGENT_MAX_CHANGES; i++)
        g_assert_true(
            stasis_watch_reader_take(part->part.payload, part->part.length, reader, NULL));
    g_assert_false(stasis_watch_reader_take(part->part.payload, part->part.length, reader, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
}

/* ---- images ---- */

/* With processes 1…n, each started at its number; of two trees with a parent 99 made for CRIU. */
static void add(StasisWatchImages *images, const char *id, guint n, guint n_trees)
{
    StasisImageProcess all[8] = { { .pid = 99, .start = 99 } };
    g_autoptr(GPtrArray) processes = g_ptr_array_new();
    if (n_trees > 1)
        g_ptr_array_add(processes, &all[0]);
    for (guint i = 1; i <= n; i++) {
        all[i] = (StasisImageProcess){ .pid = i, .start = i };
        g_ptr_array_add(processes, &all[i]);
    }
    StasisProcessImageInfo info = { .id = (char *)id, .n_trees = n_trees, .processes = processes };
    stasis_watch_images_add(images, &info);
}

static void check_goes(StasisWatchImages *images, guint reasons, guint keep, const char *id)
{
    g_autofree char *goes = stasis_watch_images_take(images, reasons, keep);
    g_assert_cmpstr(goes, ==, id);
}

static void test_ended(void)
{
    g_autoptr(StasisWatchImages) images = stasis_watch_images_new();
    add(images, "one", 1, 1);
    add(images, "two", 2, 2);
    stasis_watch_images_ended(images, 1, 2); /* another process of that number */
    check_goes(images, STASIS_WATCH_ENDED, 0, NULL);
    stasis_watch_images_ended(images, 1, 1);
    check_goes(images, STASIS_WATCH_CHANGED, 0, NULL);
    check_goes(images, STASIS_WATCH_ENDED, 0, "one");
    check_goes(images, STASIS_WATCH_ENDED, 0, NULL); /* one of two lives */
    stasis_watch_images_ended(images, 2, 2);
    check_goes(images, STASIS_WATCH_ENDED, 0, "two");
    g_auto(GStrv) left = stasis_watch_images_list(images);
    g_assert_cmpuint(g_strv_length(left), ==, 0);
}

static void test_changed(void)
{
    g_autoptr(StasisWatchImages) images = stasis_watch_images_new();
    add(images, "before", 2, 1);
    add(images, "other", 1, 1);
    stasis_watch_images_changed(images, 2, 2);
    check_goes(images, STASIS_WATCH_CHANGED, 0, "before");
    stasis_watch_images_changed(images, 1, 1);
    /* There is no newer one yet. */
    check_goes(images, STASIS_WATCH_CHANGED, 0, NULL);
    add(images, "after", 2, 1);
    check_goes(images, STASIS_WATCH_ENDED, 0, NULL);
    check_goes(images, STASIS_WATCH_CHANGED, 0, "other");
    check_goes(images, STASIS_WATCH_CHANGED, 0, NULL);
}

static void test_keep(void)
{
    g_autoptr(StasisWatchImages) images = stasis_watch_images_new();
    add(images, "a", 1, 1);
    add(images, "b", 1, 1);
    add(images, "c", 1, 1);
    check_goes(images, 0, 3, NULL);
    check_goes(images, 0, 2, "a");
    check_goes(images, 0, 2, NULL);
    g_auto(GStrv) left = stasis_watch_images_list(images);
    g_assert_cmpstr(left[0], ==, "b");
    g_assert_cmpstr(left[1], ==, "c");
    stasis_watch_images_spare(images, "a"); /* it is gone */
    check_goes(images, 0, 0, NULL);
    stasis_watch_images_spare(images, "c");
    check_goes(images, 0, 0, "c");
    check_goes(images, 0, 0, NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/proc-watch/words", test_words);
    g_test_add_func("/proc-watch/changes", test_changes);
    g_test_add_func("/proc-watch/new", test_new);
    g_test_add_func("/proc-watch/kinds", test_kinds);
    g_test_add_func("/proc-watch/nonsense", test_nonsense);
    g_test_add_func("/proc-watch/too-many", test_too_many);
    g_test_add_func("/proc-watch/images-ended", test_ended);
    g_test_add_func("/proc-watch/images-changed", test_changed);
    g_test_add_func("/proc-watch/images-keep", test_keep);
    return g_test_run();
}

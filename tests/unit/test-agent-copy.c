/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: what vanishes from a directory while it is copied, or becomes something else, is counted
 * and the copy goes on, with nothing by halves; what was asked for by name, or can't be made here,
 * is an error all the same. By the real agent, as a process of this host. */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "engine/guest/agent-copy.h"
#include "test-agent-real.h"

#define TELL_US 60000    /* progress is told less often than that */
#define LARGE (5u << 20) /* more than one request asks for */

typedef struct {
    char *top, *from, *to; /* of the test; the directory that is copied; where to */
    pid_t pid;
    StasisAgent *agent;
    void (*meanwhile)(const char *from); /* once, when the first bytes are there */
    StasisAgentCopyOptions options;
    StasisAgentCopy copy;
} Fixture;

static void set_file(const char *dir, const char *name, gsize size)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    g_autofree char *text = g_strnfill(size, 'x');
    g_assert_true(g_file_set_contents(path, text, (gssize)size, NULL));
}

static void set_dir(const char *dir, const char *name)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    g_assert_cmpint(g_mkdir(path, 0755), ==, 0);
}

static void remove_all(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    for (const char *name; dir != NULL && (name = g_dir_read_name(dir)) != NULL;) {
        g_autofree char *inner = g_build_filename(path, name, NULL);
        if (g_file_test(inner, G_FILE_TEST_IS_DIR) && !g_file_test(inner, G_FILE_TEST_IS_SYMLINK))
            remove_all(inner);
        else
            g_assert_cmpint(g_unlink(inner), ==, 0);
    }
    g_remove(path);
}

static void remove_in(const char *dir, const char *name)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    remove_all(path);
}

static void assert_in(const char *dir, const char *const *names)
{
    guint n = 0;
    for (; names[n] != NULL; n++) {
        g_autofree char *path = g_build_filename(dir, names[n], NULL);
        g_assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
    }
    g_autoptr(GDir) all = g_dir_open(dir, 0, NULL);
    g_assert_nonnull(all);
    while (g_dir_read_name(all) != NULL)
        n--;
    g_assert_cmpuint(n, ==, 0); /* no draft, and none of the others */
}

static void on_progress(const StasisProgress *progress, gpointer user_data)
{
    Fixture *f = user_data;
    if (progress->done_bytes == 0) {
        g_usleep(TELL_US); /* so that what comes next is told, too */
        return;
    }
    if (f->meanwhile != NULL)
        f->meanwhile(f->from);
    f->meanwhile = NULL;
}

static void set_up(Fixture *f, gconstpointer unused)
{
    f->top = g_dir_make_tmp("stasis-copy-XXXXXX", NULL);
    f->from = g_build_filename(f->top, "from", NULL);
    f->to = g_build_filename(f->top, "to", NULL);
    set_dir(f->top, "from");
    set_dir(f->top, "to");
    f->agent = test_agent_new(&f->pid);
    f->options = (StasisAgentCopyOptions)STASIS_AGENT_COPY_OPTIONS_INIT;
    f->options.progress = on_progress;
    f->options.progress_data = f;
    f->copy = (StasisAgentCopy){ .agent = f->agent, .options = &f->options };
}

static void tear_down(Fixture *f, gconstpointer unused)
{
    g_assert_true(stasis_agent_is_usable(f->agent));
    test_agent_end(f->agent, f->pid);
    remove_all(f->top);
    g_free(f->from);
    g_free(f->to);
    g_free(f->top);
}

/* Files, directories, and each of them as something else: all but the first and the last. */
static void turn_over(const char *from)
{
    g_autofree char *fifo = g_build_filename(from, "f-fifo", NULL);
    remove_in(from, "b-gone");
    remove_in(from, "c-dir-gone");
    remove_in(from, "d-now-dir");
    set_dir(from, "d-now-dir");
    remove_in(from, "e-dir-now-file");
    set_file(from, "e-dir-now-file", 3);
    remove_in(from, "f-fifo");
    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
}

static void test_out(Fixture *f, gconstpointer unused)
{
    static const char *const there[] = { "a-first", "z-dir", NULL }, *const last[] = { "x", NULL };
    g_autoptr(GError) error = NULL;
    g_autofree char *copied = g_build_filename(f->to, "from", NULL);
    g_autofree char *inner = g_build_filename(copied, "z-dir", NULL);
    g_autofree char *z = g_build_filename(f->from, "z-dir", NULL);
    set_file(f->from, "a-first", 10);
    set_file(f->from, "b-gone", 10);
    set_dir(f->from, "c-dir-gone");
    set_file(f->from, "d-now-dir", 10);
    set_dir(f->from, "e-dir-now-file");
    set_file(f->from, "f-fifo", 10);
    set_dir(f->from, "z-dir");
    set_file(z, "x", 10);
    f->meanwhile = turn_over;
    stasis_agent_copy_out(&f->copy, f->from, f->to, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(f->copy.copied.n_vanished, ==, 5);
    g_assert_cmpuint(f->copy.copied.n_files, ==, 2);
    g_assert_cmpuint(f->copy.copied.n_directories, ==, 2);
    assert_in(copied, there);
    assert_in(inner, last);
}

/* Between two requests for its bytes. */
static void lose_large(const char *from)
{
    remove_in(from, "a-large");
}

static void test_out_half(Fixture *f, gconstpointer unused)
{
    static const char *const there[] = { "b", NULL };
    g_autoptr(GError) error = NULL;
    g_autofree char *copied = g_build_filename(f->to, "from", NULL);
    set_file(f->from, "a-large", LARGE);
    set_file(f->from, "b", 10);
    f->meanwhile = lose_large;
    stasis_agent_copy_out(&f->copy, f->from, f->to, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(f->copy.copied.n_vanished, ==, 1);
    g_assert_cmpuint(f->copy.copied.n_files, ==, 1);
    assert_in(copied, there);
}

/* Who is killed now leaves nothing: what is not whole has no name. */
static void see_no_draft(const char *from)
{
    static const char *const nothing[] = { NULL };
    g_autofree char *copied = g_build_filename(from, "..", "to", "from", NULL);
    assert_in(copied, nothing);
}

static void test_out_draft(Fixture *f, gconstpointer unused)
{
    static const char *const there[] = { "a-large", NULL };
    g_autoptr(GError) error = NULL;
    g_autofree char *copied = g_build_filename(f->to, "from", NULL);
    set_file(f->from, "a-large", LARGE);
    f->meanwhile = see_no_draft;
    for (guint i = 0; i < 2; i++) { /* a new one, and in place of one */
        stasis_agent_copy_out(&f->copy, f->from, f->to, &error);
        g_assert_no_error(error);
        g_assert_null(f->meanwhile);
        assert_in(copied, there);
    }
}

static void lose_b(const char *from)
{
    remove_in(from, "b");
}

/* One that vanished excuses nothing else. */
static void test_out_error(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *copied = g_build_filename(f->to, "from", NULL);
    g_autofree char *missing = g_build_filename(f->from, "missing", NULL);
    set_file(f->from, "a", 10);
    set_file(f->from, "b", 10);
    set_file(f->from, "c", 10);
    set_dir(f->to, "from");
    set_dir(copied, "c");
    f->meanwhile = lose_b;
    g_assert_false(stasis_agent_copy_out(&f->copy, f->from, f->to, &error));
    g_assert_nonnull(strstr(error->message, "/c: in its place is no file"));
    g_assert_cmpuint(f->copy.copied.n_vanished, ==, 1);
    g_clear_error(&error);
    g_assert_false(stasis_agent_copy_out(&f->copy, missing, f->to, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_FAILED);
    g_assert_cmpuint(f->copy.copied.n_vanished, ==, 1);
}

/* In whatever order they are read: those that were not the first. */
static void lose_all(const char *from)
{
    remove_in(from, "a");
    remove_in(from, "b");
    remove_in(from, "c");
}

static void test_in(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    set_file(f->from, "a", 10);
    set_file(f->from, "b", 10);
    set_file(f->from, "c", 10);
    f->meanwhile = lose_all;
    stasis_agent_copy_in(&f->copy, f->from, f->to, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(f->copy.copied.n_vanished, ==, 2);
    g_assert_cmpuint(f->copy.copied.n_files, ==, 1);
    remove_in(f->top, "from");
    g_assert_false(stasis_agent_copy_in(&f->copy, f->from, f->to, &error));
    g_assert_cmpuint(f->copy.copied.n_vanished, ==, 2);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, func) g_test_add("/agent/copy/" name, Fixture, NULL, set_up, func, tear_down)
    ADD("out", test_out);
    ADD("out-half", test_out_half);
    ADD("out-draft", test_out_draft);
    ADD("out-error", test_out_error);
    ADD("in", test_in);
    return g_test_run();
}

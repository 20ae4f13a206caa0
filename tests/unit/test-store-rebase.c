/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: whatever is deleted, folded or pruned, and killed in the middle, every image that is
 * listed reads back exactly what was written, and the store takes no more room than its images. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/fault.h"
#include "base/io.h"
#include "store/internal.h"
#include "test-store-model.h"

#define MAX_IMAGES 24u

static const char *self;

/* ---- deleting ---- */

/* Each image of a chain with a fork in it goes first, once; the others stay right. */
static void test_delete_any(void)
{
    for (guint victim = 0; victim < 7; victim++) {
        Model model;
        model_init(&model, victim);
        add_chain(&model, 4);
        add_image(&model, 1, "vm", 0); /* two more children of the second */
        add_image(&model, 1, "vm", 0);
        add_image(&model, 4, "vm", 0);
        delete_one(&model, victim);
        check_all(&model);
        g_assert_cmpuint(test_count_tmp(model.path), ==, 0);
        /* And a new one on top of what was rewritten. */
        add_image(&model, (int)below(&model, model.known->len), "vm", 0);
        check_all(&model);
        model_clear(&model);
    }
}

/* Several in one call, with a new one in their place each time: a ring, far longer than what a
 * manifest's depth could count in its first version. */
static void test_ring(void)
{
    Model model;
    model_init(&model, 5);
    add_chain(&model, 6);
    for (guint i = 0; i < 150; i++) {
        add_image(&model, (int)model.known->len - 1, "vm", 0);
        delete_one(&model, i % 3 == 0 ? below(&model, model.known->len - 1) : 0);
        if (i % 10 == 0)
            check_all(&model);
    }
    check_all(&model);
    g_assert_cmpuint(depth_of(&model, 5), ==, 5);
    /* An image has a few files, and what is dead in them does not pile up. */
    guint64 dead = 0, live = 0;
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisStoreStats) stats = stasis_store_get_stats(model.store, NULL, &error);
    g_assert_no_error(error);
    for (guint i = 0; i < stats->images->len; i++) {
        const StasisImageStats *image = g_ptr_array_index(stats->images, i);
        g_assert_cmpuint(image->n_data_files, <=, STASIS_MAX_DATA_FILES);
        dead += image->dead_bytes;
        live += image->live_bytes;
    }
    g_test_message("live %" G_GUINT64_FORMAT " dead %" G_GUINT64_FORMAT, live, dead);
    g_assert_cmpuint(dead, <, live / 4);
    model_clear(&model);
}

/* A directory whose reading fails after so many entries, "." and ".." with them. */
static struct {
    ino_t inode; /* 0: none */
    guint after, n_read;
} broken;

/* In the place of the C library's. */
struct dirent *readdir(DIR *dir)
{
    struct stat st;
    if (broken.inode != 0 && fstat(dirfd(dir), &st) == 0 && st.st_ino == broken.inode) {
        if (telldir(dir) == 0)
            broken.n_read = 0;
        if (broken.n_read++ == broken.after) {
            errno = EIO;
            return NULL;
        }
    }
    return (struct dirent *)readdir64(dir);
}

/* The list of images can't be read to its end: nothing is deleted that a child may need. */
static void test_delete_unread(void)
{
    Model model;
    struct stat st;
    model_init(&model, 8);
    add_chain(&model, 3);
    g_assert_cmpint(fstat(model.store->images_fd, &st), ==, 0);
    for (guint after = 0; after < 6; after++) {
        g_autoptr(GError) error = NULL;
        broken.inode = st.st_ino;
        broken.after = after;
        gboolean deleted = stasis_store_delete(model.store, known_at(&model, 0)->id, &error);
        broken.inode = 0;
        g_assert_false(deleted);
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_FAILED);
        g_assert_nonnull(strstr(error->message, g_strerror(EIO)));
        check_all(&model);
    }
    model_clear(&model);
}

/* A file system that knows no flags of renameat2(2). */
static gboolean plain_renames;

/* In the place of the C library's. */
int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned int flags)
{
    if (plain_renames && flags != 0) {
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
}

/* There images are taken, and the newest go; what needs an exchange says so, and all stay whole. */
static void test_plain_renames(void)
{
    Model model;
    g_autoptr(GError) error = NULL;
    model_init(&model, 11);
    plain_renames = TRUE;
    add_chain(&model, 4);
    check_all(&model);
    delete_one(&model, 3);
    check_all(&model);
    g_assert_false(stasis_store_delete(model.store, known_at(&model, 0)->id, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED);
    g_assert_nonnull(strstr(error->message, "another file system"));
    check_all(&model);
    /* What is there is not replaced. */
    int images_fd = model.store->images_fd;
    const char *a = known_at(&model, 0)->id, *b = known_at(&model, 1)->id;
    g_assert_cmpint(stasis_rename_new(images_fd, a, images_fd, b), <, 0);
    g_assert_cmpint(errno, ==, EEXIST);
    plain_renames = FALSE;
    check_all(&model);
    model_clear(&model);
}

static void test_delete_several(void)
{
    Model model;
    model_init(&model, 6);
    add_chain(&model, 9);
    const char *ids[] = { known_at(&model, 0)->id, known_at(&model, 1)->id, known_at(&model, 4)->id,
                          known_at(&model, 8)->id, known_at(&model, 4)->id, NULL };
    g_autoptr(GError) error = NULL;
    g_assert_true(stasis_store_delete_images(model.store, ids, NULL, NULL, NULL, &error));
    g_assert_no_error(error);
    forget_unlisted(&model);
    g_assert_cmpuint(model.known->len, ==, 5);
    check_all(&model);
    g_assert_cmpuint(depth_of(&model, 4), ==, 4);
    model_clear(&model);
}

/* Readers that are open keep all of it; those that open meanwhile find one version or the other. */
typedef struct {
    Model *model;
    guint first;
    gint stop;
    guint n_read;
} Watch;

static gpointer watch(gpointer data)
{
    Watch *w = data;
    while (!g_atomic_int_get(&w->stop)) {
        const Known *known = known_at(w->model, w->first + w->n_read++ % 4);
        g_autoptr(GError) error = NULL;
        g_autoptr(StasisImageReader) reader =
            stasis_image_reader_open(w->model->store, known->id, &error);
        g_assert_no_error(error);
        static guint8 ram[MODEL_BYTES];
        stasis_image_reader_read_pages(reader, 0, 0, MODEL_PAGES, ram, &error);
        g_assert_no_error(error);
        g_assert_cmpint(memcmp(ram, known->ram, MODEL_BYTES), ==, 0);
        if (w->n_read % 8 == 0)
            stasis_store_verify(w->model->store, known->id, NULL, NULL, NULL, &error);
        g_assert_no_error(error);
    }
    return NULL;
}

static void test_readers(void)
{
    Model model;
    model_init(&model, 7);
    add_chain(&model, 24);
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageReader) open_one =
        stasis_image_reader_open(model.store, known_at(&model, 3)->id, &error);
    g_assert_no_error(error);
    Watch w = { .model = &model, .first = 20 };
    GThread *thread = g_thread_new("watch", watch, &w);
    for (guint i = 0; i < 20; i++) {
        /* From both ends of those that are not watched. */
        const Known *known = known_at(&model, i % 2 == 0 ? i / 2 : 19 - i / 2);
        g_assert_true(stasis_store_delete(model.store, known->id, &error));
        g_assert_no_error(error);
    }
    StasisFoldOptions options = STASIS_FOLD_OPTIONS_INIT;
    options.max_depth = 1;
    g_assert_true(stasis_store_fold(model.store, &options, NULL, NULL, &error));
    g_assert_no_error(error);
    g_atomic_int_set(&w.stop, 1);
    g_thread_join(thread);
    g_test_message("%u images read meanwhile", w.n_read);
    check_reader(open_one, known_at(&model, 3)); /* deleted long ago */
    forget_unlisted(&model);
    g_assert_cmpuint(model.known->len, ==, 4);
    check_all(&model);
    model_clear(&model);
}

/* ---- folding ---- */

static void test_fold(void)
{
    Model model;
    model_init(&model, 8);
    add_chain(&model, 40);
    guint64 before = disk_bytes(&model);
    g_autoptr(GError) error = NULL;
    StasisFoldOptions options = STASIS_FOLD_OPTIONS_INIT;
    StasisFoldResult result;
    options.max_depth = 39;
    g_assert_true(stasis_store_fold(model.store, &options, &result, NULL, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(result.n_folded, ==, 0);
    options.max_depth = 7;
    options.id = known_at(&model, 20)->id;
    g_assert_true(stasis_store_fold(model.store, &options, &result, NULL, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(result.n_folded, ==, 2);
    g_assert_cmpuint(result.depth_before, ==, 20);
    g_assert_cmpuint(result.depth_after, <=, 7);
    options.id = NULL;
    g_assert_true(stasis_store_fold(model.store, &options, &result, NULL, &error));
    g_assert_no_error(error);
    for (guint i = 0; i < 40; i++)
        g_assert_cmpuint(depth_of(&model, i), <=, 7);
    check_all(&model);
    guint64 after = disk_bytes(&model);
    g_test_message("40 images: %" G_GUINT64_FORMAT " KiB, folded %" G_GUINT64_FORMAT " KiB",
                   before >> 10, after >> 10);
    g_assert_cmpuint(after, <, 2 * before);
    /* Once more there is nothing to do. */
    g_assert_true(stasis_store_fold(model.store, &options, &result, NULL, &error));
    g_assert_cmpuint(result.n_folded, ==, 0);
    /* What was folded can be deleted, and folded again. */
    while (model.known->len > 5)
        delete_one(&model, below(&model, model.known->len));
    options.max_depth = 1;
    g_assert_true(stasis_store_fold(model.store, &options, &result, NULL, &error));
    g_assert_no_error(error);
    check_all(&model);
    model_clear(&model);
}

/* An image on top of @parent that holds nothing but @page, filled with @byte. */
static char *one_page_image(Model *model, const char *parent, guint page, guint8 byte)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageWriter) writer = stasis_image_writer_new(model->store, parent, &error);
    g_assert_no_error(error);
    guint8 plain[STASIS_PAGE_BYTES];
    memset(plain, byte, sizeof(plain));
    stasis_image_writer_add_block(writer, "pc.ram", MODEL_BYTES, &error);
    test_add(writer, 0, page, 1, STASIS_STORED_RAW, plain, &error);
    test_add_parts(writer);
    g_autoptr(StasisImageInfo) info = stasis_image_writer_commit(writer, &error);
    g_assert_no_error(error);
    return g_strdup(info->id);
}

/* What holds pages of many images has files of few: the small ones are joined. */
static void test_many_files(void)
{
    Model model;
    model_init(&model, 11);
    add_chain(&model, 1);
    for (guint i = 0; i < 150; i++) {
        Known known = { .ram = g_memdup2(known_at(&model, i)->ram, MODEL_BYTES) };
        memset(known.ram + (size_t)i * STASIS_PAGE_BYTES, (int)i + 1, STASIS_PAGE_BYTES);
        known.id = one_page_image(&model, known_at(&model, i)->id, i, (guint8)(i + 1));
        g_array_append_val(model.known, known);
    }
    g_autoptr(GError) error = NULL;
    StasisFoldOptions options = STASIS_FOLD_OPTIONS_INIT;
    options.max_depth = 1;
    g_assert_true(stasis_store_fold(model.store, &options, NULL, NULL, &error));
    g_assert_no_error(error);
    g_autoptr(StasisStoreStats) stats = stasis_store_get_stats(model.store, NULL, &error);
    guint most = 0;
    for (guint i = 0; i < stats->images->len; i++)
        most = MAX(most, ((const StasisImageStats *)stats->images->pdata[i])->n_data_files);
    g_assert_cmpuint(most, >, STASIS_MAX_DATA_FILES / 2);
    g_assert_cmpuint(most, <=, STASIS_MAX_DATA_FILES);
    for (guint i = 0; i <= 150; i += 10)
        check_image(&model, known_at(&model, i));
    model_clear(&model);
}

/* A writer may be at work all the time; the fold waits for its turn and nothing else. */
static gpointer fold_in_thread(gpointer data)
{
    Model *model = data;
    g_autoptr(GError) error = NULL;
    StasisFoldOptions options = STASIS_FOLD_OPTIONS_INIT;
    options.max_depth = 3;
    g_assert_true(stasis_store_fold(model->store, &options, NULL, NULL, &error));
    g_assert_no_error(error);
    return NULL;
}

static void test_fold_beside_writer(void)
{
    Model model;
    model_init(&model, 9);
    add_chain(&model, 12);
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageWriter) writer =
        stasis_image_writer_new(model.store, known_at(&model, 11)->id, &error);
    g_assert_no_error(error);
    GThread *thread = g_thread_new("fold", fold_in_thread, &model);
    /* Its files are there, though the writer holds the lock, and are not swept by another writer.
     */
    while (test_count_tmp(model.path) < 2)
        g_usleep(1000);
    g_clear_pointer(&writer, stasis_image_writer_free);
    for (guint i = 0; i < 20; i++)
        add_image(&model, (int)model.known->len - 1, "vm", 0);
    g_thread_join(thread);
    check_all(&model);
    g_assert_cmpuint(depth_of(&model, 11), <=, 3);
    g_assert_cmpuint(test_count_tmp(model.path), ==, 0);
    model_clear(&model);
}

/* Images that are taken on top of one that is being deleted get its data too, or find it gone. */
typedef struct {
    Model *model;
    const char *parent;
    gint stop;
    guint n_taken;
} Taker;

static gpointer take_on_top(gpointer data)
{
    Taker *taker = data;
    while (!g_atomic_int_get(&taker->stop)) {
        g_autoptr(GError) error = NULL;
        g_autofree char *id =
            test_small_image(taker->model->store, taker->parent, taker->n_taken, &error);
        if (id == NULL && (g_error_matches(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND) ||
                           g_error_matches(error, STASIS_ERROR, STASIS_ERROR_LOCKED)))
            continue;
        g_assert_no_error(error);
        taker->n_taken++;
        g_usleep(300);
    }
    return NULL;
}

static void test_delete_beside_writer(void)
{
    for (guint i = 0; i < 6; i++) {
        Model model;
        model_init(&model, 20 + i);
        g_autoptr(GError) error = NULL;
        g_autofree char *base = test_small_image(model.store, NULL, 1, &error);
        g_autofree char *parent = test_small_image(model.store, base, 2, &error);
        g_assert_no_error(error);
        Taker taker = { .model = &model, .parent = parent };
        GThread *thread = g_thread_new("take", take_on_top, &taker);
        g_usleep(1000 * i);
        stasis_store_delete(model.store, parent, &error);
        g_assert_no_error(error);
        g_atomic_int_set(&taker.stop, 1);
        g_thread_join(thread);
        g_assert_cmpuint(test_count(model.store), ==, taker.n_taken + 1);
        g_test_message("%u images taken meanwhile", taker.n_taken);
        g_autoptr(StasisCheckReport) report = model_check(&model);
        g_assert_cmpuint(report->n_damaged + report->n_affected, ==, 0);
        model_clear(&model);
    }
}

static void test_cancel(void)
{
    Model model;
    model_init(&model, 10);
    add_chain(&model, 6);
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_cancellable_cancel(cancellable);
    g_autoptr(GError) error = NULL;
    StasisFoldOptions options = STASIS_FOLD_OPTIONS_INIT;
    options.max_depth = 1;
    g_assert_false(stasis_store_fold(model.store, &options, NULL, cancellable, &error));
    g_assert_cmpint(stasis_error_exit_code(error), ==, 130);
    g_clear_error(&error);
    const char *ids[] = { known_at(&model, 0)->id, NULL };
    g_assert_false(stasis_store_delete_images(model.store, ids, NULL, NULL, cancellable, &error));
    g_assert_cmpint(stasis_error_exit_code(error), ==, 130);
    g_assert_cmpuint(test_count_tmp(model.path), ==, 0);
    check_all(&model);
    model_clear(&model);
}

/* ---- being killed ---- */

/* In a process of its own: "delete ID…" or "fold N". */
static int child_main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisStore) store = stasis_store_open(argv[2], STASIS_STORE_EXISTING, &error);
    StasisFoldOptions options = STASIS_FOLD_OPTIONS_INIT;
    if (store == NULL)
        return 3;
    if (strcmp(argv[3], "fold") == 0) {
        options.max_depth = (guint)atoi(argv[4]);
        stasis_store_fold(store, &options, NULL, NULL, &error);
    } else {
        stasis_store_delete_images(store, (const char *const *)argv + 4, NULL, NULL, NULL, &error);
    }
    if (error == NULL)
        return 0;
    return strstr(error->message, "on request") != NULL ? 4 : 5;
}

static int run_child(Model *model, const char *fault, guint kill_after_us, const char *what,
                     GPtrArray *words)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_ptr_array_add(argv, (gpointer)self);
    g_ptr_array_add(argv, (gpointer) "--child");
    g_ptr_array_add(argv, model->path);
    g_ptr_array_add(argv, (gpointer)what);
    for (guint i = 0; i < words->len; i++)
        g_ptr_array_add(argv, words->pdata[i]);
    g_ptr_array_add(argv, NULL);
    g_auto(GStrv) env =
        g_environ_setenv(g_get_environ(), "STASIS_FAULT", fault != NULL ? fault : "", TRUE);
    pid_t pid = fork();
    if (pid == 0) {
        execve(self, (char **)argv->pdata, env);
        _exit(127);
    }
    g_assert_cmpint(pid, >, 0);
    if (kill_after_us > 0) {
        g_usleep(kill_after_us);
        kill(pid, SIGKILL);
    }
    int status;
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    return status;
}

static const char *const points[] = { "store-opened",  "store-copied",   "store-written",
                                      "store-swapped", "store-replaced", "store-unlisted",
                                      "store-dropped" };

/* The list above is all there are. */
static void test_points(void)
{
    guint n = 0;
    for (const char *const *name = stasis_fault_names(); *name != NULL; name++) {
        if (!g_str_has_prefix(*name, "store-"))
            continue;
        g_assert_cmpstr(*name, ==, points[n]);
        n++;
    }
    g_assert_cmpuint(n, ==, G_N_ELEMENTS(points));
}

static void fails_at(guint point, gboolean kills, gboolean folds)
{
    if (folds && point >= 5)
        return;
    Model model;
    model_init(&model, 100 + point);
    add_chain(&model, 5);
    add_image(&model, 1, "vm", 0);
    g_autofree char *fault = g_strconcat(points[point], kills ? ":kill" : ":error", NULL);
    g_autoptr(GPtrArray) words = g_ptr_array_new();
    g_ptr_array_add(words, folds ? (gpointer) "2" : known_at(&model, 1)->id);
    int status = run_child(&model, fault, 0, folds ? "fold" : "delete", words);
    if (kills)
        g_assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    else
        g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 4);
    guint n = model.known->len;
    forget_unlisted(&model);
    /* "unlisted" was done when it was killed there, and is taken back when it failed. */
    gboolean gone = point == 6 || (point == 5 && kills);
    g_assert_cmpuint(n - model.known->len, ==, gone ? 1 : 0);
    if (!kills)
        g_assert_cmpuint(test_count_tmp(model.path), ==, 0);
    check_all(&model);
    /* No repair: the next writer sweeps what is left, and what was to be done can be done. */
    add_image(&model, (int)model.known->len - 1, "vm", 0);
    g_assert_cmpuint(test_count_tmp(model.path), ==, 0);
    if (!folds && !gone)
        delete_one(&model, 1);
    check_all(&model);
    model_clear(&model);
}

static void test_fault_points(void)
{
    for (guint point = 0; point < G_N_ELEMENTS(points); point++)
        for (guint how = 0; how < 4; how++)
            fails_at(point, how & 1, how & 2);
}

/* ---- torture ---- */

static void random_step(Model *model)
{
    guint n = model->known->len;
    g_autoptr(GPtrArray) words = g_ptr_array_new_with_free_func(g_free);
    switch (n == 0 ? 0 : below(model, 5)) {
    case 0:
    case 1:
        if (n < MAX_IMAGES)
            add_image(model, n > 0 && below(model, 8) > 0 ? (int)below(model, n) : -1, "vm", 0);
        return;
    case 2:
        g_ptr_array_add(words, g_strdup_printf("%u", 1 + below(model, 3)));
        break;
    default:
        for (guint i = 1 + below(model, 3); i > 0; i--)
            g_ptr_array_add(words, g_strdup(known_at(model, below(model, n))->id));
    }
    gboolean folds = strlen(words->pdata[0]) == 1;
    /* Not at all, at a fault point, or at any moment. */
    guint how = below(model, 3);
    const char *fault = how == 1 ? points[below(model, G_N_ELEMENTS(points))] : NULL;
    int status = run_child(model, fault, how == 2 ? 500 + below(model, 8000) : 0,
                           folds ? "fold" : "delete", words);
    if (how == 0)
        g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    guint before = model->known->len;
    forget_unlisted(model);
    g_assert_cmpuint(model->known->len, >=, before - (folds ? 0 : MIN(words->len, before)));
}

static void test_torture(void)
{
    guint n_seeds = g_test_thorough() ? 50 : 3;
    for (guint seed = 0; seed < n_seeds; seed++) {
        Model model;
        model_init(&model, 1000 + seed);
        for (guint step = 0; step < 120; step++) {
            random_step(&model);
            check_all(&model);
        }
        model_clear(&model);
    }
}

int main(int argc, char **argv)
{
    if (argc >= 5 && strcmp(argv[1], "--child") == 0)
        return child_main(argc, argv);
    self = argv[0];
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/store/rebase/delete-any", test_delete_any);
    g_test_add_func("/store/rebase/ring", test_ring);
    g_test_add_func("/store/rebase/delete-unread", test_delete_unread);
    g_test_add_func("/store/rebase/plain-renames", test_plain_renames);
    g_test_add_func("/store/rebase/delete-several", test_delete_several);
    g_test_add_func("/store/rebase/readers", test_readers);
    g_test_add_func("/store/rebase/fold", test_fold);
    g_test_add_func("/store/rebase/many-files", test_many_files);
    g_test_add_func("/store/rebase/fold-beside-writer", test_fold_beside_writer);
    g_test_add_func("/store/rebase/delete-beside-writer", test_delete_beside_writer);
    g_test_add_func("/store/rebase/cancel", test_cancel);
    g_test_add_func("/store/rebase/points", test_points);
    g_test_add_func("/store/rebase/fault-points", test_fault_points);
    g_test_add_func("/store/rebase/torture", test_torture);
    return g_test_run();
}

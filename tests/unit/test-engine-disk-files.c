/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: of the files that a VM's disks lie in it is known who needs them, wherever that is, by
 * whatever name, and through whatever lies between.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <base/fd.h>
#include <disk/describe.h>
#include <disk/overlay.h>
#include <engine/disks/disk-dir.h>
#include <engine/disks/disk-needs.h>
#include <vmm/registry.h>

#include "test-store-util.h"

#define A "web.qcow2.stasis-01jq4z7k2m01jq4z7k2m01jq4a"
#define B "web.qcow2.stasis-01jq4z7k2m01jq4z7k2m01jq4b"
#define D "web.qcow2.stasis-01jq4z7k2m01jq4z7k2m01jq4d"

/* web <- A <- B, which a VM writes to. */
typedef struct {
    char *top, *dir, *run; /* run: the runtime directory */
    GPtrArray *files;
} Fixture;

static char *make_overlay(const char *dir, const char *name, const char *base)
{
    g_autoptr(GError) error = NULL;
    char *path = g_build_filename(dir, name, NULL);
    g_autoptr(GBytes) bytes = stasis_overlay_new(1 << 20, base, "qcow2", &error);
    g_assert_no_error(error);
    gsize len;
    const char *data = g_bytes_get_data(bytes, &len);
    g_file_set_contents(path, data, (gssize)len, &error);
    g_assert_no_error(error);
    return path;
}

static char *in(const Fixture *f, const char *name)
{
    return g_build_filename(f->dir, name, NULL);
}

static void add(const Fixture *f, const char *dir, const char *name, StasisDiskFileUse use)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    guint n = f->files->len;
    stasis_disk_files_add(f->files, "disk", path, use);
    g_assert_cmpuint(f->files->len, ==, n + 1);
}

static void set_up(Fixture *f, gconstpointer data)
{
    f->top = test_make_dir();
    f->dir = g_build_filename(f->top, "images", NULL);
    f->run = g_build_filename(f->top, "run", NULL);
    g_assert_cmpint(mkdir(f->dir, 0700) | mkdir(f->run, 0700), ==, 0);
    g_setenv("STASIS_RUNTIME_DIR", f->run, TRUE);
    g_autofree char *web = in(f, "web.qcow2"), *a = in(f, A);
    g_assert_true(g_file_set_contents(web, "disk", -1, NULL));
    g_free(make_overlay(f->dir, A, web));
    g_free(make_overlay(f->dir, B, a));
    f->files = g_ptr_array_new_with_free_func((GDestroyNotify)stasis_vm_disk_file_free);
    add(f, f->dir, B, STASIS_DISK_FILE_TOP);
    add(f, f->dir, A, STASIS_DISK_FILE_BELOW);
    add(f, f->dir, "web.qcow2", STASIS_DISK_FILE_BELOW);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    g_ptr_array_unref(f->files);
    test_remove_tree(f->top);
    g_free(f->top);
    g_free(f->dir);
    g_free(f->run);
}

static void look(const Fixture *f, StasisStore *store)
{
    g_autoptr(GError) error = NULL;
    stasis_disk_files_look(f->files, store, &error);
    g_assert_no_error(error);
}

/* @who: how what is said of it begins, or NULL. */
static void assert_needs(const Fixture *f, const char *name, const char *who)
{
    g_autofree char *path = in(f, name);
    StasisVmDiskFile *file = stasis_disk_files_find(f->files, path);
    g_assert_nonnull(file);
    g_autofree char *said = stasis_disk_files_who_needs(f->files, file);
    g_test_message("%s: %s", name, said != NULL ? said : "nobody");
    g_assert_cmpint(said != NULL, ==, who != NULL);
    g_assert_true(who == NULL || g_str_has_prefix(said, who));
}

/* ---- where a VM's disks are ---- */

/* As a restored VM has it; @marked: in a directory that says so. */
static char *make_vm_disk(const char *parent, const char *name, const char *base, gboolean marked)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = g_build_filename(parent, name, NULL);
    const StasisDiskDirMark mark = { .vm = "vm2", .pid = 1, .start_time = 1 };
    g_assert_cmpint(mkdir(dir, 0700), ==, 0);
    char *disk = make_overlay(dir, "disk-0.qcow2", base);
    stasis_autofd int fd = stasis_disk_dir_open(dir);
    g_assert_true(!marked || stasis_disk_dir_mark(fd, &mark, &error));
    g_assert_no_error(error);
    return disk;
}

static void test_beside(Fixture *f, gconstpointer data)
{
    g_autofree char *a = in(f, A), *disk = make_vm_disk(f->dir, "vm2.x7Gh2a", a, TRUE);
    look(f, NULL);
    assert_needs(f, A, disk);
    assert_needs(f, B, NULL);
}

static void test_below_beside(Fixture *f, gconstpointer data)
{
    g_autofree char *a = in(f, A), *outer = g_build_filename(f->dir, "vm2.x7Gh2a", NULL);
    g_free(make_vm_disk(f->dir, "vm2.x7Gh2a", "nothing", TRUE));
    g_autofree char *disk = make_vm_disk(outer, "vm2.x7Gh2b", a, TRUE);
    look(f, NULL);
    assert_needs(f, A, disk);
}

/* The VM's own disk is one of a restored VM's. */
static void test_beside_own(Fixture *f, gconstpointer data)
{
    g_autofree char *own = make_vm_disk(f->top, "vm2.x7Gh2a", "nothing", TRUE);
    g_autofree char *disk = make_vm_disk(f->top, "vm2.x7Gh2b", own, TRUE);
    stasis_disk_files_add(f->files, "disk", own, STASIS_DISK_FILE_BELOW);
    look(f, NULL);
    g_autofree char *said =
        stasis_disk_files_who_needs(f->files, stasis_disk_files_find(f->files, own));
    g_assert_nonnull(said);
    g_assert_true(g_str_has_prefix(said, disk));
}

static void test_elsewhere(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *a = in(f, A), *disk = make_vm_disk(f->top, "vm2.x7Gh2a", a, FALSE);
    g_autofree char *dir = g_path_get_dirname(disk);
    StasisRecord record = {
        .name = (char *)"vm2", .pid = 1, .start_time = 1, .qmp_path = (char *)"/", .disk_dir = dir
    };
    look(f, NULL);
    assert_needs(f, A, NULL);
    stasis_record_save(&record, &error);
    g_assert_no_error(error);
    look(f, NULL);
    assert_needs(f, A, disk);
}

static void test_in_store(Fixture *f, gconstpointer data)
{
    g_autofree char *path = NULL, *a = in(f, A);
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autofree char *disks = g_build_filename(path, "disks", NULL);
    g_assert_cmpint(g_mkdir_with_parents(disks, 0700), ==, 0);
    g_autofree char *disk = make_vm_disk(disks, "vm2.x7Gh2a", a, FALSE);
    look(f, store);
    assert_needs(f, A, disk);
    test_remove_tree(path);
}

/* ---- through what lies between ---- */

/* web <- A <- B; D lies aside on A, and what @vm2 says on that. */
static void test_through_aside(Fixture *f, gconstpointer vm2)
{
    g_autofree char *a = in(f, A), *d = make_overlay(f->dir, D, a), *disk = NULL;
    add(f, f->dir, D, STASIS_DISK_FILE_ASIDE);
    if (vm2 != NULL)
        disk = make_vm_disk(f->dir, "vm2.x7Gh2a", d, TRUE);
    look(f, NULL);
    assert_needs(f, A, disk);
    assert_needs(f, D, disk);
    assert_needs(f, B, NULL);
}

/* As another VM that somebody started on it has it. */
static void test_open_aside(Fixture *f, gconstpointer data)
{
    g_autofree char *a = in(f, A), *d = make_overlay(f->dir, D, a);
    add(f, f->dir, D, STASIS_DISK_FILE_ASIDE);
    look(f, NULL);
    stasis_autofd int fd = open(d, O_RDONLY | O_CLOEXEC);
    assert_needs(f, A, d);
}

static void test_circle(Fixture *f, gconstpointer data)
{
    g_autofree char *d = in(f, D), *web = in(f, "web.qcow2");
    g_free(make_overlay(f->dir, D, d));
    g_free(make_overlay(f->dir, "web.qcow2", d));
    g_free(make_overlay(f->dir, A, web));
    add(f, f->dir, D, STASIS_DISK_FILE_ASIDE);
    look(f, NULL);
    assert_needs(f, D, NULL);
    g_free(make_overlay(f->dir, "other.qcow2", web));
    look(f, NULL);
    g_autofree char *other = in(f, "other.qcow2");
    assert_needs(f, D, other);
}

/* ---- other names ---- */

static char *make_link(const Fixture *f)
{
    char *link = g_build_filename(f->top, "link", NULL);
    g_assert_cmpint(symlink("images", link), ==, 0);
    return link;
}

/* @data: what an overlay calls A. */
static void test_other_name(Fixture *f, gconstpointer data)
{
    g_autofree char *link = make_link(f), *full = NULL, *other = NULL;
    const char *name = data;
    if (name[0] == '/')
        full = g_strconcat(f->top, name, NULL);
    other = make_overlay(f->dir, "other.qcow2", full != NULL ? full : name);
    look(f, NULL);
    assert_needs(f, A, other);
    assert_needs(f, B, NULL);
}

/* A VM started by the link, what lies on its disk by the real name, and it is listed once. */
static void test_own_other_name(Fixture *f, gconstpointer data)
{
    g_autofree char *link = make_link(f), *a = in(f, A);
    g_autofree char *linked = g_build_filename(link, A, NULL);
    g_ptr_array_set_size(f->files, 0);
    add(f, link, A, STASIS_DISK_FILE_TOP);
    stasis_disk_files_add(f->files, "disk", a, STASIS_DISK_FILE_BELOW);
    g_assert_cmpuint(f->files->len, ==, 1);
    look(f, NULL);
    StasisVmDiskFile *file = stasis_disk_files_find(f->files, linked);
    g_assert_cmpuint(g_strv_length(file->overlays), ==, 1);
    g_autofree char *name = g_path_get_basename(file->overlays[0]);
    g_assert_cmpstr(name, ==, B);
}

/* A file that is a link itself: what lies on it by its real name is beside that. */
static void test_linked_file(Fixture *f, gconstpointer data)
{
    g_autofree char *far = g_build_filename(f->top, "far", NULL), *real = NULL, *other = NULL;
    g_autofree char *link = in(f, "linked.qcow2");
    g_assert_cmpint(mkdir(far, 0700), ==, 0);
    real = make_overlay(far, "real.qcow2", "nothing");
    other = make_overlay(far, "other.qcow2", real);
    g_assert_cmpint(symlink(real, link), ==, 0);
    add(f, f->dir, "linked.qcow2", STASIS_DISK_FILE_BELOW);
    look(f, NULL);
    assert_needs(f, "linked.qcow2", other);
}

static void free_layer(gpointer layer)
{
    stasis_disk_layer_free(layer);
}

/* An image that refers to the files called so in @dir. */
static char *make_image(StasisStore *store, const char *dir, const char *const *names)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) disks = g_ptr_array_new(),
                         layers = g_ptr_array_new_with_free_func(free_layer);
    for (; *names != NULL; names++) {
        g_autofree char *path = g_build_filename(dir, *names, NULL);
        g_ptr_array_add(layers, stasis_disk_layer_new(path, "qcow2"));
    }
    StasisDisk disk = { .name = (char *)"disk",
                        .node = (char *)"node",
                        .line_node = (char *)"node",
                        .format = (char *)"qcow2",
                        .filename = ((StasisDiskLayer *)g_ptr_array_index(layers, 0))->path,
                        .size_bytes = 1 << 20,
                        .writable = TRUE,
                        .layers = layers };
    g_ptr_array_add(disks, &disk);
    g_autoptr(GBytes) notes = stasis_disks_describe(disks, TRUE, "/", &error);
    g_assert_no_error(error);
    g_autoptr(StasisImageWriter) writer = stasis_image_writer_new(store, NULL, &error);
    StasisImageInfo info = { .vm = (char *)"web", .mode = (char *)"stop", .n_vcpus = 1 };
    stasis_image_writer_set_info(writer, &info);
    g_assert_cmpint(stasis_image_writer_add_block(writer, "pc.ram", STASIS_PAGE_BYTES, &error), ==,
                    0);
    g_assert_true(test_add(writer, 0, 0, 1, STASIS_STORED_ZERO, NULL, &error));
    test_add_parts(writer);
    stasis_image_writer_set_refers(writer);
    stasis_image_writer_add_part(writer, STASIS_DISKS_PART, notes, &error);
    g_assert_no_error(error);
    g_autoptr(StasisImageInfo) listed = stasis_image_writer_commit(writer, &error);
    g_assert_no_error(error);
    return g_strdup(listed->id);
}

/* @lost: the link is gone when that is asked for. */
static void test_image(Fixture *f, gconstpointer lost)
{
    static const char *const names[] = { A, "web.qcow2", NULL };
    g_autofree char *path = NULL, *link = make_link(f);
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autofree char *id = make_image(store, link, names), *who = g_strconcat("image ", id, NULL);
    if (lost != NULL)
        g_assert_cmpint(unlink(link), ==, 0);
    look(f, store);
    assert_needs(f, A, who);
    assert_needs(f, "web.qcow2", who);
    assert_needs(f, B, NULL);
    test_remove_tree(path);
}

/* One of another VM, whose disk had the same name and is gone, says nothing. */
static void test_image_of_other(Fixture *f, gconstpointer data)
{
    static const char *const names[] = { "web.qcow2", NULL };
    g_autofree char *path = NULL, *far = g_build_filename(f->top, "far", NULL);
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_assert_cmpint(mkdir(far, 0700), ==, 0);
    g_free(make_overlay(far, "web.qcow2", "nothing"));
    g_autofree char *id = make_image(store, far, names);
    test_remove_tree(far);
    look(f, store);
    assert_needs(f, "web.qcow2", NULL);
    test_remove_tree(path);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add("/engine/disk-files/beside", Fixture, NULL, set_up, test_beside, tear_down);
    g_test_add("/engine/disk-files/below-beside", Fixture, NULL, set_up, test_below_beside,
               tear_down);
    g_test_add("/engine/disk-files/beside-own", Fixture, NULL, set_up, test_beside_own, tear_down);
    g_test_add("/engine/disk-files/elsewhere", Fixture, NULL, set_up, test_elsewhere, tear_down);
    g_test_add("/engine/disk-files/in-store", Fixture, NULL, set_up, test_in_store, tear_down);
    g_test_add("/engine/disk-files/aside", Fixture, NULL, set_up, test_through_aside, tear_down);
    g_test_add("/engine/disk-files/through-aside", Fixture, "vm2", set_up, test_through_aside,
               tear_down);
    g_test_add("/engine/disk-files/open-aside", Fixture, NULL, set_up, test_open_aside, tear_down);
    g_test_add("/engine/disk-files/circle", Fixture, NULL, set_up, test_circle, tear_down);
    g_test_add("/engine/disk-files/by-link", Fixture, "/link/" A, set_up, test_other_name,
               tear_down);
    g_test_add("/engine/disk-files/by-relative", Fixture, "../link/" A, set_up, test_other_name,
               tear_down);
    g_test_add("/engine/disk-files/by-protocol", Fixture, "file:" A, set_up, test_other_name,
               tear_down);
    g_test_add("/engine/disk-files/by-lost", Fixture, "/gone/" A, set_up, test_other_name,
               tear_down);
    g_test_add("/engine/disk-files/own-by-link", Fixture, NULL, set_up, test_own_other_name,
               tear_down);
    g_test_add("/engine/disk-files/linked-file", Fixture, NULL, set_up, test_linked_file,
               tear_down);
    g_test_add("/engine/disk-files/image-by-link", Fixture, NULL, set_up, test_image, tear_down);
    g_test_add("/engine/disk-files/image-by-lost", Fixture, "lost", set_up, test_image, tear_down);
    g_test_add("/engine/disk-files/image-of-other", Fixture, NULL, set_up, test_image_of_other,
               tear_down);
    return g_test_run();
}

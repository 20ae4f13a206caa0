/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: of any two images of a tree, exactly the pages that an image on the way between them
 * holds are marked, so that no page that differs is left out. */
#include "test-store-util.h"

#define N_IMAGES 9u
#define N_BLOCKS 2u
#define N_PAGES 70u /* more than one word of a bitmap */

typedef struct {
    char *id;
    guint parent; /* itself: a full image */
    gboolean held[N_BLOCKS][N_PAGES];
    guint8 value[N_BLOCKS][N_PAGES]; /* every byte of the page; 0: a zero page */
} Image;

typedef struct {
    char *path;
    StasisStore *store;
    Image images[N_IMAGES];
} Tree;

static void add_page(StasisImageWriter *writer, guint block, guint page, guint8 value)
{
    g_autoptr(GError) error = NULL;
    guint8 plain[STASIS_PAGE_BYTES];
    memset(plain, value, sizeof(plain));
    test_add(writer, block, page, 1, value == 0 ? STASIS_STORED_ZERO : STASIS_STORED_LZ4, plain,
             &error);
    g_assert_no_error(error);
}

static void make_image(Tree *tree, GRand *rand, guint index, guint parent)
{
    g_autoptr(GError) error = NULL;
    Image *image = &tree->images[index];
    gboolean full = parent == index;
    if (!full)
        memcpy(image->value, tree->images[parent].value, sizeof(image->value));
    image->parent = parent;
    g_autoptr(StasisImageWriter) writer =
        stasis_image_writer_new(tree->store, full ? NULL : tree->images[parent].id, &error);
    g_assert_no_error(error);
    for (guint b = 0; b < N_BLOCKS; b++)
        stasis_image_writer_add_block(writer, b == 0 ? "pc.ram" : "vga", N_PAGES * 4096, &error);
    for (guint b = 0; b < N_BLOCKS; b++) {
        for (guint page = 0; page < N_PAGES; page++) {
            image->held[b][page] = full || g_rand_int_range(rand, 0, 6) == 0;
            if (!image->held[b][page])
                continue;
            image->value[b][page] = (guint8)g_rand_int_range(rand, 0, 4);
            add_page(writer, b, page, image->value[b][page]);
        }
    }
    test_add_parts(writer);
    g_autoptr(StasisImageInfo) info = stasis_image_writer_commit(writer, &error);
    g_assert_no_error(error);
    image->id = g_strdup(info->id);
}

/* Two full images, and the others on top of any before them. */
static Tree *make_tree(guint32 seed)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    Tree *tree = g_new0(Tree, 1);
    tree->store = test_make_store(&tree->path);
    for (guint i = 0; i < N_IMAGES; i++)
        make_image(tree, rand, i, i < 2 ? i : (guint)g_rand_int_range(rand, 0, (gint32)i));
    return tree;
}

static void free_tree(Tree *tree)
{
    for (guint i = 0; i < N_IMAGES; i++)
        g_free(tree->images[i].id);
    stasis_store_unref(tree->store);
    test_remove_tree(tree->path);
    g_free(tree->path);
    g_free(tree);
}

static gboolean is_ancestor(const Tree *tree, guint ancestor, guint image)
{
    while (image != ancestor && tree->images[image].parent != image)
        image = tree->images[image].parent;
    return image == ancestor;
}

/* Mark what images hold from @from up to, and without, the first that is an ancestor of @of. FALSE
 * when none is. */
static gboolean walk(const Tree *tree, guint from, guint of, gboolean expected[N_BLOCKS][N_PAGES])
{
    while (!is_ancestor(tree, from, of)) {
        const Image *image = &tree->images[from];
        for (guint i = 0; i < N_BLOCKS * N_PAGES; i++)
            expected[i / N_PAGES][i % N_PAGES] |= image->held[i / N_PAGES][i % N_PAGES];
        if (image->parent == from)
            return FALSE;
        from = image->parent;
    }
    return TRUE;
}

static void check_pair(const Tree *tree, guint a, guint b)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageReader) reader_a =
        stasis_image_reader_open(tree->store, tree->images[a].id, &error);
    g_autoptr(StasisImageReader) reader_b =
        stasis_image_reader_open(tree->store, tree->images[b].id, &error);
    g_assert_no_error(error);
    StasisBitmap *maps[N_BLOCKS] = { stasis_bitmap_new(N_PAGES), stasis_bitmap_new(N_PAGES) };
    gboolean expected[N_BLOCKS][N_PAGES] = { 0 };
    gboolean related = walk(tree, a, b, expected) && walk(tree, b, a, expected);
    g_assert_cmpint(stasis_image_reader_mark_differing(reader_a, reader_b, maps), ==, related);
    for (guint i = 0; i < N_BLOCKS * N_PAGES; i++) {
        guint block = i / N_PAGES, page = i % N_PAGES;
        gboolean marked = stasis_bitmap_test(maps[block], page);
        g_assert_cmpint(marked, ==, related && expected[block][page]);
        if (related && !marked)
            g_assert_cmpuint(tree->images[a].value[block][page], ==,
                             tree->images[b].value[block][page]);
    }
    for (guint i = 0; i < N_BLOCKS; i++)
        stasis_bitmap_free(maps[i]);
}

static void test_trees(void)
{
    for (guint32 seed = 0; seed < (g_test_thorough() ? 100 : 10); seed++) {
        Tree *tree = make_tree(seed);
        for (guint a = 0; a < N_IMAGES; a++)
            for (guint b = 0; b < N_IMAGES; b++)
                check_pair(tree, a, b);
        free_tree(tree);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/store/differ/trees", test_trees);
    return g_test_run();
}

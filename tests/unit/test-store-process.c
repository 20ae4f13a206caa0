/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: an image of processes that is listed is whole: what was not committed is not there, a
 * changed byte is found, and a name or a number that can't be right is refused. */
#include "engine/processes/proc-receive.h"
#include "store/internal.h"
#include "store/proc-image-manifest.h"
#include "test-agent-part.h"
#include "test-store-manifest.h"
#include "test-store-process.h"

static void add_file(StasisProcImageWriter *writer, const char *name, const char *text)
{
    g_autoptr(GError) error = NULL;
    guint8 digest[32];
    g_assert_true(stasis_proc_image_writer_begin(writer, name, &error));
    g_assert_true(stasis_proc_image_writer_add(writer, (const guint8 *)text, strlen(text), &error));
    g_assert_true(stasis_proc_image_writer_end(writer, digest, &error));
    g_assert_no_error(error);
}

static char *commit_one(StasisStore *store)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisProcessImageInfo) info = test_process_info();
    g_autoptr(StasisProcImageWriter) writer = stasis_proc_image_writer_new(store, &error);
    add_file(writer, "inventory.img", "abc");
    add_file(writer, "pages-1.img", "");
    g_autoptr(StasisProcessImageInfo) listed =
        stasis_proc_image_writer_commit(writer, info, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(listed->n_files, ==, 2);
    gboolean sealed = listed->encrypted_with != NULL;
    g_assert_cmpuint(listed->stored_bytes, ==, 3 + (sealed ? 2 * STASIS_SEAL_BYTES : 0));
    return g_strdup(listed->id);
}

static guint count(StasisStore *store)
{
    g_autoptr(GPtrArray) list = stasis_store_list_processes(store, NULL);
    return list->len;
}

static void test_lives(void)
{
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_assert_cmpuint(count(store), ==, 0);
    g_autofree char *first = commit_one(store), *second = commit_one(store);
    g_assert_cmpstr(first, <, second);
    g_assert_cmpuint(count(store), ==, 2);
    g_autofree char *latest = stasis_store_resolve_process(store, "latest", &error);
    g_assert_cmpstr(latest, ==, second);
    g_assert_null(stasis_store_resolve(store, first, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND);
    g_assert_nonnull(strstr(error->message, "proc-restore"));
    g_clear_error(&error);
    g_assert_true(stasis_store_verify_process(store, first, NULL, NULL, NULL, &error));
    g_assert_true(stasis_store_delete_process(store, first, &error));
    g_assert_false(stasis_store_delete_process(store, first, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND);
    g_assert_cmpuint(count(store), ==, 1);
    test_remove_tree(path);
}

static void test_not_committed(void)
{
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autoptr(StasisProcessImageInfo) info = test_process_info();
    g_autoptr(StasisProcImageWriter) writer = stasis_proc_image_writer_new(store, &error);
    static const char *const bad[] = { "", ".", "..", "a/b", ".hidden", "manifest.json", "a b" };
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_assert_false(stasis_proc_image_writer_begin(writer, bad[i], &error));
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
        g_clear_error(&error);
    }
    add_file(writer, "inventory.img", "abc");
    g_assert_false(stasis_proc_image_writer_begin(writer, "inventory.img", NULL));
    g_assert_true(stasis_proc_image_writer_begin(writer, "pstree.img", &error));
    g_assert_null(stasis_proc_image_writer_commit(writer, info, NULL, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    g_clear_pointer(&writer, stasis_proc_image_writer_free);
    g_assert_cmpuint(count(store), ==, 0);
    g_autofree char *tmp = g_build_filename(path, "tmp", NULL);
    g_autoptr(GDir) dir = g_dir_open(tmp, 0, NULL);
    g_assert_null(g_dir_read_name(dir));
    test_remove_tree(path);
}

static void test_damage(void)
{
    g_autofree char *path = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autofree char *id = commit_one(store);
    static const char *const files[] = { "inventory.img", "manifest.json" };
    for (guint i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *file = g_build_filename(path, "processes", id, files[i], NULL);
        g_autofree char *whole = NULL;
        gsize len;
        g_assert_true(g_file_get_contents(file, &whole, &len, NULL));
        for (gsize at = 0; at < len; at += 1 + len / 50) {
            whole[at] ^= 4;
            g_assert_true(g_file_set_contents(file, whole, (gssize)len, NULL));
            g_assert_false(stasis_store_verify_process(store, id, NULL, NULL, NULL, &error));
            g_clear_error(&error);
            whole[at] ^= 4;
        }
        g_assert_true(g_file_set_contents(file, whole, (gssize)len, NULL));
        g_assert_true(stasis_store_verify_process(store, id, NULL, NULL, NULL, &error));
    }
    test_remove_tree(path);
}

/* ---- whose it is ---- */

static char *commit_noted(StasisStore *store, const char *note, gboolean by_policy)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisProcessImageInfo) info = test_process_info();
    g_autoptr(StasisProcImageWriter) writer = stasis_proc_image_writer_new(store, &error);
    info->note = g_strdup(note);
    info->by_policy = by_policy;
    add_file(writer, "inventory.img", "abc");
    g_autoptr(StasisProcessImageInfo) listed =
        stasis_proc_image_writer_commit(writer, info, NULL, &error);
    g_assert_no_error(error);
    g_assert_true(listed->by_policy == by_policy);
    return g_strdup(listed->id);
}

/* Its manifest as a program before the mark wrote it. */
static gboolean is_marked_without(const char *path, const char *id)
{
    g_autofree char *dir = g_build_filename(path, "processes", id, NULL);
    g_autofree char *whole = test_manifest_without(dir, "by_policy");
    g_autoptr(GPtrArray) files = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisProcessImageInfo) info =
        stasis_proc_image_manifest_parse(whole, strlen(whole), &files, &error);
    g_assert_no_error(error);
    return info->by_policy;
}

/* What a policy may remove is told by a mark, not by a note that anybody may give an image. */
static void test_mark(void)
{
    g_autofree char *path = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autofree char *policy = commit_noted(store, "policy-watch", TRUE);
    g_autofree char *same_note = commit_noted(store, "policy-watch", FALSE);
    g_autofree char *other = commit_noted(store, "policy", FALSE);
    g_autoptr(GPtrArray) all = stasis_store_list_processes(store, NULL);
    for (guint i = 0; i < all->len; i++) {
        const StasisProcessImageInfo *info = all->pdata[i];
        g_assert_true(info->by_policy == g_str_equal(info->id, policy));
    }
    g_assert_cmpuint(all->len, ==, 3);
    if (g_getenv("STASIS_TEST_SEALED") == NULL) {
        g_assert_true(is_marked_without(path, same_note));
        g_assert_false(is_marked_without(path, other));
    }
    test_remove_tree(path);
}

/* ---- which stay ---- */

static char *commit_at(StasisStore *store, const char *vm, gint64 hour, gboolean by_policy)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisProcessImageInfo) info = test_process_info();
    g_autoptr(StasisProcImageWriter) writer = stasis_proc_image_writer_new(store, &error);
    g_autofree char *content = g_strnfill(100000, 'x');
    g_free(info->vm);
    info->vm = g_strdup(vm);
    info->created_us = hour * G_TIME_SPAN_HOUR + 1;
    info->by_policy = by_policy;
    add_file(writer, "inventory.img", content);
    g_autoptr(StasisProcessImageInfo) listed =
        stasis_proc_image_writer_commit(writer, info, NULL, &error);
    g_assert_no_error(error);
    return g_strdup(listed->id);
}

static StasisPruneResult *prune(StasisStore *store, const StasisPruneOptions *options,
                                const char *const *ids, guint n_kept, guint n_removed)
{
    g_autoptr(GError) error = NULL;
    guint before = count(store);
    StasisPruneResult *result = stasis_store_prune_processes(store, options, ids, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(result->n_kept, ==, n_kept);
    g_assert_cmpuint(result->n_removed, ==, n_removed);
    g_assert_true((result->freed_bytes > 0) == (n_removed > 0));
    g_assert_cmpuint(count(store), ==, before - (options->dry_run ? 0 : n_removed));
    return result;
}

/* By the rules that images of VMs have: hours, a quota, the mark; none that is not looked at. */
static void test_prune(void)
{
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    StasisPruneOptions options = STASIS_PRUNE_OPTIONS_INIT;
    g_assert_null(stasis_store_prune_processes(store, &options, NULL, NULL, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
    g_clear_error(&error);
    options.keep_hourly = 2;
    options.by_policy = TRUE;
    g_autoptr(StasisPruneResult) none = prune(store, &options, NULL, 0, 0);
    char *ids[6] = { commit_at(store, "web", 10, TRUE), commit_at(store, "web", 10, TRUE),
                     commit_at(store, "web", 11, TRUE), commit_at(store, "web", 12, TRUE),
                     commit_at(store, "web", 9, FALSE), NULL };
    g_autofree char *other = commit_at(store, "db", 1, TRUE);
    options.vm = "web";
    options.dry_run = TRUE;
    g_autoptr(StasisPruneResult) shown = prune(store, &options, NULL, 2, 2);
    const StasisPruneImage *oldest = shown->images->pdata[0];
    g_assert_cmpstr(oldest->info->id, ==, ids[0]);
    g_assert_null(oldest->reasons);
    const char *const some[] = { ids[1], ids[2], ids[4], NULL };
    g_autoptr(StasisPruneResult) of_some = prune(store, &options, some, 2, 0);
    options.dry_run = FALSE;
    g_autoptr(StasisPruneResult) done = prune(store, &options, NULL, 2, 2);
    g_assert_false(stasis_store_delete_process(store, ids[1], NULL));
    /* All that a quota leaves is the newest, which is by the ID, whatever a clock said. */
    StasisPruneOptions quota = STASIS_PRUNE_OPTIONS_INIT;
    quota.quota_bytes = 1;
    g_autoptr(StasisPruneResult) newest = prune(store, &quota, NULL, 2, 2);
    g_assert_true(stasis_store_delete_process(store, ids[4], &error));
    g_assert_true(stasis_store_delete_process(store, other, NULL));
    for (guint i = 0; i < 5; i++)
        g_free(ids[i]);
    test_remove_tree(path);
}

/* ---- out of a guest ---- */

static gboolean take(StasisProcReceiver *receiver, TestPart *part)
{
    g_autoptr(GError) error = NULL;
    gboolean ok =
        stasis_proc_receiver_take(part->part.payload, part->part.length, receiver, &error);
    g_assert_true(ok || g_error_matches(error, STASIS_ERROR, STASIS_ERROR_CORRUPT));
    return ok;
}

/* A file of @text, of which @said bytes are announced, with the digest of @digest_of. */
static gboolean send_file(StasisProcReceiver *receiver, const char *name, const char *text,
                          guint64 said, const char *digest_of)
{
    g_autoptr(GChecksum) checksum = g_checksum_new(G_CHECKSUM_SHA256);
    guint8 digest[32];
    gsize n = sizeof digest;
    g_autofree TestPart *head = test_part_new();
    g_autofree TestPart *body = test_part_new();
    g_autofree TestPart *tail = test_part_new();
    g_checksum_update(checksum, (const guchar *)digest_of, (gssize)strlen(digest_of));
    g_checksum_get_digest(checksum, digest, &n);
    stasis_field_put_text(&head->part, STASIS_AGENT_TAG_PATH, name);
    stasis_field_put_number(&head->part, STASIS_AGENT_TAG_SIZE, said);
    stasis_field_put(&body->part, STASIS_AGENT_TAG_OUTPUT, text, (guint32)strlen(text));
    stasis_field_put(&tail->part, STASIS_AGENT_TAG_DIGEST, digest, sizeof digest);
    return take(receiver, head) && take(receiver, body) && take(receiver, tail);
}

static gboolean send_process(StasisProcReceiver *receiver, guint pid, guint ppid)
{
    g_autofree TestPart *part = test_part_new();
    stasis_field_put_number(&part->part, STASIS_AGENT_TAG_PID, pid);
    stasis_field_put_number(&part->part, STASIS_AGENT_TAG_PPID, ppid);
    stasis_field_put_text(&part->part, STASIS_AGENT_TAG_COMM, "tree");
    return take(receiver, part);
}

static gboolean finish_with(StasisProcReceiver *receiver, guint64 root, guint n_files, guint64 size)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisProcessImageInfo) info = g_new0(StasisProcessImageInfo, 1);
    g_autofree TestPart *part = test_part_new();
    stasis_field_put_number(&part->part, STASIS_AGENT_TAG_PID, root);
    stasis_field_put_number(&part->part, STASIS_AGENT_TAG_N_FILES, n_files);
    stasis_field_put_number(&part->part, STASIS_AGENT_TAG_SIZE, size);
    g_autoptr(GBytes) last = g_bytes_new(part->room, part->part.length);
    gboolean ok = stasis_proc_receiver_finish(receiver, last, info, &error);
    g_assert_true(ok || g_error_matches(error, STASIS_ERROR, STASIS_ERROR_CORRUPT));
    g_assert_true(!ok || ((StasisImageProcess *)info->processes->pdata[0])->pid == 20000);
    return ok;
}

static gboolean finish(StasisProcReceiver *receiver, guint n_files, guint64 size)
{
    return finish_with(receiver, 20000, n_files, size);
}

/* A piece of @bytes at two addresses, @first bytes of it at one. */
static gboolean send_piece(StasisProcReceiver *receiver, guint64 bytes, guint64 first)
{
    StasisAgentRun runs[2] = { { GUINT64_TO_LE(0x1000), GUINT64_TO_LE(first) },
                               { GUINT64_TO_LE(0x5000), GUINT64_TO_LE(bytes - first) } };
    g_autofree TestPart *part = test_part_new();
    stasis_field_put_number(&part->part, STASIS_AGENT_TAG_SIZE, bytes);
    stasis_field_put_number(&part->part, STASIS_AGENT_TAG_CHECKSUM, 1);
    stasis_field_put(&part->part, STASIS_AGENT_TAG_RUNS, (const guint8 *)runs, sizeof runs);
    return take(receiver, part);
}

static gboolean send_head(StasisProcReceiver *receiver, const char *name, guint64 size)
{
    g_autofree TestPart *head = test_part_new();
    stasis_field_put_text(&head->part, STASIS_AGENT_TAG_PATH, name);
    stasis_field_put_number(&head->part, STASIS_AGENT_TAG_SIZE, size);
    return take(receiver, head);
}

static void test_placed(void)
{
    const guint64 piece = STASIS_AGENT_PIECE_BYTES;
    g_autofree char *path = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autoptr(StasisProcImageWriter) writer = stasis_proc_image_writer_new(store, NULL);
    g_autoptr(StasisProcReceiver) r = stasis_proc_receiver_new(writer, 2 * piece, NULL, NULL);
    guint64 come;
    g_assert_false(send_piece(r, 8, 4)); /* of no file */
    g_assert_true(send_head(r, "pages-1.img", piece + 5));
    g_assert_false(send_piece(r, 5, 1));             /* not a whole one */
    g_assert_false(send_piece(r, piece, piece + 1)); /* runs of other lengths */
    g_assert_true(send_piece(r, piece, 4096));
    g_assert_cmpuint(stasis_proc_receiver_get_placed(r, &come)->len, ==, 0);
    g_assert_false(send_piece(r, 5, 0)); /* an empty run */
    g_assert_true(send_piece(r, 5, 2));
    const GPtrArray *placed = stasis_proc_receiver_get_placed(r, &come);
    g_assert_cmpuint(placed->len, ==, 1);
    g_assert_cmpuint(come, ==, 0);
    const StasisProcPlaced *file = g_ptr_array_index(placed, 0);
    g_assert_cmpuint(file->pieces->len, ==, 2);
    g_assert_cmpuint(g_array_index(file->pieces, StasisProcPiece, 0).runs[1].address, ==, 0x5000);
    g_assert_false(send_piece(r, 5, 2)); /* of no file any more */
    g_assert_true(send_file(r, "inventory.img", "abc", 3, "abc"));
    g_assert_false(send_head(r, "b.img", piece)); /* more than all may have */
    test_remove_tree(path);
}

static void test_received(void)
{
    g_autofree char *path = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autoptr(StasisProcImageWriter) writer = stasis_proc_image_writer_new(store, NULL);
    g_autoptr(StasisProcReceiver) r = stasis_proc_receiver_new(writer, 100, NULL, NULL);
    g_assert_true(send_process(r, 20001, 20000));
    g_assert_true(send_process(r, 20000, 1));
    g_assert_true(send_file(r, "inventory.img", "abc", 3, "abc"));
    g_assert_false(finish(r, 1, 3)); /* no pstree.img */
    g_assert_true(send_file(r, "pstree.img", "defg", 4, "defg"));
    g_assert_false(finish(r, 3, 7));
    g_assert_false(finish(r, 2, 8));
    g_assert_false(finish_with(r, 20001, 2, 7)); /* its parent is not in the tree */
    g_assert_false(finish_with(r, 0, 2, 7));
    g_assert_false(finish_with(r, 20000 + ((guint64)1 << 32), 2, 7));
    g_assert_true(finish(r, 2, 7));
    g_assert_true(send_process(r, 20002, 999));
    g_assert_false(finish(r, 2, 7)); /* its parent is not in the tree */
    test_remove_tree(path);
}

static void test_lies(void)
{
    g_autofree char *path = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    static const struct {
        const char *name, *text;
        guint64 said;
        const char *digest_of;
    } lies[] = { { "a.img", "abc", 3, "abd" },          { "a.img", "abc", 4, "abc" },
                 { "a.img", "abc", 2, "abc" },          { "../a", "abc", 3, "abc" },
                 { "a.json", "abc", 3, "abc" },         { "a.img", "abc", 101, "abc" },
                 { "a.img", "abc", G_MAXUINT64, "abc" } };
    for (guint i = 0; i < G_N_ELEMENTS(lies); i++) {
        g_autoptr(StasisProcImageWriter) writer = stasis_proc_image_writer_new(store, NULL);
        g_autoptr(StasisProcReceiver) r = stasis_proc_receiver_new(writer, 100, NULL, NULL);
        g_assert_false(send_file(r, lies[i].name, lies[i].text, lies[i].said, lies[i].digest_of));
    }
    test_remove_tree(path);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/process/lives", test_lives);
    g_test_add_func("/process/not-committed", test_not_committed);
    g_test_add_func("/process/damage", test_damage);
    g_test_add_func("/process/mark", test_mark);
    g_test_add_func("/process/prune", test_prune);
    g_test_add_func("/process/received", test_received);
    g_test_add_func("/process/placed", test_placed);
    g_test_add_func("/process/lies", test_lies);
    return g_test_run();
}

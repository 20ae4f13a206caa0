/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: queues and messages come back from a file as they were written, a part of a file is told
 * from a whole one wherever it ends, and what is no queue is none. */
#include <glib.h>
#include <string.h>

#include "agent/mqueue.h"

static StasisMqueue queue(const char *name, guint n_messages)
{
    StasisMqueue q = { .mode = 0640,
                       .uid = 7,
                       .gid = 0xfffffffe,
                       .shared = TRUE,
                       .max_messages = 10,
                       .max_size = 100,
                       .n_keys = 2,
                       .n_messages = n_messages,
                       .keys = { { 21, ((guint64)1 << 40) + 5 }, { 22, 5 } } };
    g_strlcpy(q.name, name, sizeof q.name);
    return q;
}

static void add_queue(GByteArray *file, const StasisMqueue *q)
{
    guint8 head[STASIS_MQUEUE_BYTES + STASIS_MQUEUE_MAX_KEYS * STASIS_MQUEUE_KEY_BYTES];
    gsize n = stasis_mqueue_format(q, head);
    g_assert_cmpuint(n, ==, STASIS_MQUEUE_BYTES + q->n_keys * STASIS_MQUEUE_KEY_BYTES);
    g_byte_array_append(file, head, (guint)n);
    for (guint i = 0; i < q->n_messages; i++) {
        guint8 before[STASIS_MQUEUE_MESSAGE_BYTES], bytes[100];
        memset(bytes, (int)i, sizeof bytes);
        stasis_mqueue_format_message(STASIS_MQUEUE_MAX_PRIORITY - 1 - i, i, before);
        g_byte_array_append(file, before, sizeof before);
        g_byte_array_append(file, bytes, i);
    }
}

/* Two queues, the second without messages or a name. */
static GByteArray *make_file(void)
{
    GByteArray *file = g_byte_array_new();
    guint8 head[STASIS_MQUEUE_HEAD_BYTES];
    StasisMqueue first = queue("/first", 10), second = queue("", 0);
    stasis_mqueue_format_head(TRUE, head);
    g_byte_array_append(file, head, sizeof head);
    add_queue(file, &first);
    add_queue(file, &second);
    return file;
}

/* How many queues and messages it has. */
static gboolean count(const guint8 *bytes, gsize n, guint *ret_queues, guint *ret_messages)
{
    StasisMqueueReader reader;
    StasisMqueue q;
    const guint8 *message;
    guint32 priority, length;
    *ret_queues = *ret_messages = 0;
    stasis_mqueue_begin(&reader, bytes, n);
    while (stasis_mqueue_next(&reader, &q)) {
        (*ret_queues)++;
        while (stasis_mqueue_next_message(&reader, &priority, &message, &length))
            (*ret_messages)++;
    }
    return !reader.broken;
}

static void test_back(void)
{
    g_autoptr(GByteArray) file = make_file();
    StasisMqueueReader reader;
    StasisMqueue q, first = queue("/first", 10);
    const guint8 *bytes;
    guint32 priority, length;
    stasis_mqueue_begin(&reader, file->data, file->len);
    g_assert_true(reader.own_namespace && stasis_mqueue_next(&reader, &q));
    g_assert_cmpmem(&q, sizeof q, &first, sizeof first);
    for (guint i = 0; i < 5; i++) {
        g_assert_true(stasis_mqueue_next_message(&reader, &priority, &bytes, &length));
        g_assert_cmpuint(priority, ==, STASIS_MQUEUE_MAX_PRIORITY - 1 - i);
        g_assert_cmpuint(length, ==, i);
        g_assert_true(length == 0 || (bytes[0] == i && bytes[length - 1] == i));
    }
    /* The other five are left out. */
    g_assert_true(stasis_mqueue_next(&reader, &q));
    g_assert_cmpstr(q.name, ==, "");
    g_assert_false(stasis_mqueue_next_message(&reader, &priority, &bytes, &length));
    g_assert_false(stasis_mqueue_next(&reader, &q));
    g_assert_false(reader.broken);
}

static void test_cut_off(void)
{
    g_autoptr(GByteArray) file = make_file();
    guint queues, messages, n_whole = 0;
    g_assert_true(count(file->data, file->len, &queues, &messages));
    g_assert_cmpuint(queues, ==, 2);
    g_assert_cmpuint(messages, ==, 10);
    for (guint n = 0; n < file->len; n++) {
        /* In memory of its own, so that reading behind it is seen. */
        g_autofree guint8 *part = g_memdup2(file->data, n);
        n_whole += count(part, n, &queues, &messages);
    }
    /* Where a queue has ended: nothing, or the first one. */
    g_assert_cmpuint(n_whole, ==, 2);
}

static void check_refused(const StasisMqueue *q)
{
    guint8 head[STASIS_MQUEUE_BYTES + STASIS_MQUEUE_MAX_KEYS * STASIS_MQUEUE_KEY_BYTES];
    g_assert_cmpuint(stasis_mqueue_format(q, head), ==, 0);
}

static void test_refused(void)
{
    static const char *const names[] = { "/", "name", "/a/b", "/..", "/.", "//" };
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        StasisMqueue q = queue(names[i], 0);
        check_refused(&q);
    }
    StasisMqueue q = queue("/x", 11); /* has room for 10 */
    check_refused(&q);
    q = queue("/x", 0);
    q.n_keys = STASIS_MQUEUE_MAX_KEYS + 1;
    check_refused(&q);
    q = queue("/x", 0);
    q.max_size = STASIS_MQUEUE_MAX_SIZE + 1;
    check_refused(&q);
    q = queue("/x", 0);
    memset(q.name + 1, 'x', sizeof q.name - 1); /* it does not end */
    check_refused(&q);
    /* A message longer than its queue has them, though all of it is there. */
    g_autoptr(GByteArray) file = g_byte_array_new();
    guint queues, messages;
    guint8 head[STASIS_MQUEUE_HEAD_BYTES];
    stasis_mqueue_format_head(FALSE, head);
    g_byte_array_append(file, head, sizeof head);
    q = queue("/x", 3); /* of 0, 1 and 2 bytes */
    q.max_size = 2;
    add_queue(file, &q);
    g_assert_true(count(file->data, file->len, &queues, &messages));
    g_assert_cmpuint(messages, ==, 3);
    file->data[STASIS_MQUEUE_HEAD_BYTES + 256 + 16 + 8] = 1;
    g_assert_false(count(file->data, file->len, &queues, &messages));
    g_assert_cmpuint(messages, ==, 2);
    file->data[0] = 's';
    g_assert_false(count(file->data, file->len, &queues, &messages));
    g_assert_cmpuint(queues, ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/mqueue/back", test_back);
    g_test_add_func("/mqueue/cut-off", test_cut_off);
    g_test_add_func("/mqueue/refused", test_refused);
    return g_test_run();
}

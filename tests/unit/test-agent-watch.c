/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: what happens to watched processes is told until the host has it, and once; its room is
 * bounded, and what has no room is counted; nobody who was told of is forgotten. */
#include <glib.h>
#include <string.h>

#include "watch/watch.h"

#define ALL ((1u << WATCH_N_KINDS) - 1)

static WatchTable table;

/* ---- what the host hears ---- */

static struct {
    guint n;
    char lines[STASIS_AGENT_MAX_CHANGES + 1][160];
} heard;

static const char *text_of(const StasisField *record, uint16_t tag)
{
    static char texts[4][128];
    static guint next;
    StasisField field;
    char *text = texts[next++ % 4];
    text[0] = '\0';
    if (stasis_field_find(record->value, record->length, tag, &field))
        g_snprintf(text, 128, "%.*s", (int)field.length, (const char *)field.value);
    return text;
}

static uint64_t number_of(const StasisField *record, uint16_t tag)
{
    return stasis_field_number(record->value, record->length, tag, 0);
}

static bool hear(const Answer *answer, uint16_t status, uint8_t flags)
{
    StasisField field;
    for (uint32_t at = 0;
         stasis_field_next(answer->fields.payload, answer->fields.length, &at, &field);) {
        char *line = heard.lines[heard.n++];
        if (field.tag == STASIS_AGENT_TAG_PROCESS)
            g_snprintf(line, sizeof heard.lines[0], "new %d since %d",
                       (int)number_of(&field, STASIS_AGENT_TAG_PID),
                       (int)number_of(&field, STASIS_AGENT_TAG_START));
        else if (text_of(&field, STASIS_AGENT_TAG_WHAT)[0] != '\0')
            g_snprintf(
                line, sizeof heard.lines[0], "%s %s %s", text_of(&field, STASIS_AGENT_TAG_KIND),
                text_of(&field, STASIS_AGENT_TAG_WHAT), text_of(&field, STASIS_AGENT_TAG_OBJECT));
        else
            g_snprintf(line, sizeof heard.lines[0], "%s %d %s x%d",
                       text_of(&field, STASIS_AGENT_TAG_KIND),
                       (int)number_of(&field, STASIS_AGENT_TAG_PID),
                       text_of(&field, STASIS_AGENT_TAG_COMM),
                       (int)number_of(&field, STASIS_AGENT_TAG_COUNT));
    }
    return true;
}

static void check_told(const char *lines)
{
    static Answer answer;
    answer.send = hear;
    answer.ended = false;
    answer.fields = (StasisFieldWriter){ answer.payload, 0, sizeof answer.payload, false };
    heard.n = 0;
    watch_table_put(&table, &answer);
    answer_part(&answer);
    g_autoptr(GString) all = g_string_new("");
    for (guint i = 0; i < heard.n; i++)
        g_string_append_printf(all, "%s%s", i > 0 ? "; " : "", heard.lines[i]);
    g_assert_cmpstr(all->str, ==, lines);
}

/* ---- what happens ---- */

static WatchProcess *add(pid_t pid, bool known)
{
    WatchStat stat = { .start = (uint64_t)pid, .state = 'S', .n_threads = 1, .comm = "p" };
    return watch_table_add(&table, pid, stat.start, &stat, known);
}

static void test_told_until_confirmed(void)
{
    WatchStat child = { .start = 5, .state = 'R', .n_threads = 1, .comm = "child" };
    watch_table_clear(&table, ALL);
    add(1, true);
    check_told("");
    watch_table_fork(&table, watch_table_find(&table, 1), 2, &child);
    watch_table_exec(watch_table_find(&table, 2), &child);
    check_told("fork 1 p x1; exec 2 child x1; new 2 since 5");
    check_told("fork 1 p x1; exec 2 child x1; new 2 since 5");
    /* More happens while the answer is under way. */
    watch_table_fork(&table, watch_table_find(&table, 1), 3, NULL);
    watch_table_confirm(&table);
    check_told("fork 1 p x1");
    check_told("fork 1 p x1");
    watch_table_confirm(&table);
    g_assert_false(watch_table_has_changes(&table));
    watch_table_end(&table, watch_table_find(&table, 3));
    g_assert_cmpuint(watch_table_count(&table), ==, 2);
}

/* Of a child that has ended before it could be looked at, who it started is watched; nothing else
 * is told of it. */
static void test_unseen(void)
{
    WatchStat child = { .start = 5, .state = 'R', .n_threads = 1, .comm = "child" };
    watch_table_clear(&table, ALL);
    add(1, true);
    watch_table_fork(&table, watch_table_find(&table, 1), 2, NULL);
    g_assert_nonnull(watch_table_find(&table, 2));
    watch_table_fork(&table, watch_table_find(&table, 2), 3, &child);
    watch_table_end(&table, watch_table_find(&table, 1));
    g_assert_cmpuint(watch_table_count(&table), ==, 2);
    check_told("fork 1 p x1; exit 1 p x1; fork 2  x1; new 3 since 5");
    watch_table_end(&table, watch_table_find(&table, 2));
    watch_table_confirm(&table);
    check_told("");
    g_assert_cmpuint(watch_table_count(&table), ==, 1);
}

static void test_ends(void)
{
    WatchStat child = { .start = 5, .state = 'R', .n_threads = 1, .comm = "child" };
    watch_table_clear(&table, ALL);
    add(1, true);
    /* Of a child that was never told of nothing is left but the number. */
    watch_table_fork(&table, watch_table_find(&table, 1), 2, &child);
    watch_table_end(&table, watch_table_find(&table, 2));
    check_told("fork 1 p x1");
    watch_table_confirm(&table);
    g_assert_cmpuint(table.n, ==, 1);
    watch_table_end(&table, watch_table_find(&table, 1));
    g_assert_null(watch_table_find(&table, 1));
    check_told("exit 1 p x1");
    check_told("exit 1 p x1");
    watch_table_confirm(&table);
    g_assert_cmpuint(table.n, ==, 0);
    /* A number that was used again is another process. */
    watch_table_add(&table, 1, 77, NULL, true);
    add(1, true);
    check_told("exit 1  x1");
    g_assert_nonnull(watch_table_find(&table, 1));
}

static void test_only_what_is_wanted(void)
{
    watch_table_clear(&table, 1u << WATCH_EXIT);
    add(1, true);
    watch_table_fork(&table, watch_table_find(&table, 1), 2, NULL);
    watch_table_exec(watch_table_find(&table, 1), NULL);
    g_assert_false(watch_table_has_changes(&table));
    check_told("");
}

static void test_no_room(void)
{
    WatchStat child = { .start = 5, .state = 'R', .n_threads = 1, .comm = "child" };
    watch_table_clear(&table, ALL);
    for (pid_t pid = 1; pid <= (pid_t)STASIS_AGENT_MAX_WATCHED; pid++)
        g_assert_nonnull(add(pid, true));
    g_assert_null(add(9999, true));
    watch_table_fork(&table, watch_table_find(&table, 1), 10000, &child);
    g_assert_cmpuint(table.lost, ==, 2);
    check_told("fork 1 p x1");
    watch_table_confirm(&table);
    g_assert_cmpuint(table.lost, ==, 0);
    for (guint i = 0; i < WATCH_MAX_OBJECT_CHANGES + 3; i++)
        watch_table_object(&table, &(WatchObject){ .kind = WATCH_SEM, .created = 1, .name = "s" });
    g_assert_cmpuint(table.lost, ==, 3);
    /* All that can be told at once is told. */
    for (unsigned i = 0; i < table.n; i++)
        watch_table_exec(&table.processes[i], NULL);
    heard.n = 0;
    static Answer answer;
    answer.send = hear;
    answer.fields = (StasisFieldWriter){ answer.payload, 0, sizeof answer.payload, false };
    watch_table_put(&table, &answer);
    answer_part(&answer);
    g_assert_cmpuint(heard.n, ==, STASIS_AGENT_MAX_WATCHED + WATCH_MAX_OBJECT_CHANGES);
}

static void test_objects(void)
{
    watch_table_clear(&table, ALL);
    watch_table_object(&table,
                       &(WatchObject){ .kind = WATCH_SHM, .created = 1, .name = "posix-shm:/a" });
    check_told("shm created posix-shm:/a");
    watch_table_object(&table, &(WatchObject){ .kind = WATCH_MQUEUE, .name = "mqueue:/b" });
    watch_table_confirm(&table);
    check_told("mqueue removed mqueue:/b");
    watch_table_confirm(&table);
    g_assert_false(watch_table_has_changes(&table));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/agent-watch/told-until-confirmed", test_told_until_confirmed);
    g_test_add_func("/agent-watch/unseen", test_unseen);
    g_test_add_func("/agent-watch/ends", test_ends);
    g_test_add_func("/agent-watch/only-what-is-wanted", test_only_what_is_wanted);
    g_test_add_func("/agent-watch/no-room", test_no_room);
    g_test_add_func("/agent-watch/objects", test_objects);
    return g_test_run();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: whatever is in the command table is offered where it may stand and nowhere else, and
 * what is put into a line is read back as the word that was meant. */
#include "cli/help.h"
#include "cli/shell.h"
#include "cli/split.h"

#include <string.h>
#include <unistd.h>

#include <glib/gstdio.h>

static const char *const no_globals[] = { NULL };

/* @words are split at blanks, the last one is what is completed. */
static CliOffer *offer(gboolean shell, const char *words)
{
    g_auto(GStrv) argv = g_strsplit(words, " ", -1);
    static const char *const nothing[] = { "", NULL };
    return cli_offer(*words != '\0' ? (const char *const *)argv : nothing, shell);
}

static gboolean has(const CliOffer *self, const char *word)
{
    return g_ptr_array_find_with_equal_func(self->words, word, g_str_equal, NULL);
}

G_GNUC_PRINTF(1, 2)
static CliOffer *offer_for(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    g_autofree char *words = g_strdup_vprintf(format, ap);
    va_end(ap);
    return offer(FALSE, words);
}

static void test_table_is_whole(void)
{
    g_autofree char *gaps = cli_check_table();
    g_assert_cmpstr(gaps, ==, NULL);
}

/* A gap is told of by the row and the field. */
static void test_gaps_are_found(void)
{
    static const CliArgument argument_gaps[] = {
        { "BARE", CLI_ONE, CLI_TEXT, NULL },
        { "ENDLESS", 0, CLI_TEXT, "x" },
        { "FLAG", CLI_ONE, CLI_FLAG, "x" },
        { NULL },
    };
    static const CliOption option_gaps[] = {
        { "bare", 0, CLI_TEXT, "X", NULL },
        { "valueless", 0, CLI_TEXT, NULL, "x" },
        { "store", 0, CLI_DIR, "X", "x" },
        { NULL },
    };
    static const CliCommand row = { .name = "bad",
                                    .arguments = argument_gaps,
                                    .options = option_gaps };
    static const char *const fields[] = {
        "group", "summary", "description", "handler", "examples",    "name of its",
        "BARE",  "ENDLESS", "FLAG",        "--bare",  "--valueless", "--store",
    };
    g_autoptr(GString) gaps = g_string_new(NULL);
    cli_check_command(&row, gaps);
    for (guint i = 0; i < G_N_ELEMENTS(fields); i++)
        g_assert_nonnull(strstr(gaps->str, fields[i]));
    for (guint i = 0; cli_commands[i] != NULL; i++) {
        g_string_truncate(gaps, 0);
        cli_check_command(cli_commands[i], gaps);
        g_assert_cmpstr(gaps->str, ==, "");
    }
}

static void test_completers_are_known(void)
{
    for (guint type = 0; type < CLI_N_TYPES; type++)
        g_assert_true(cli_completer_exists(cli_completer_name(type)));
    g_assert_false(cli_completer_exists("nonsense"));
    g_assert_false(cli_completer_exists(NULL));
}

static void test_commands(void)
{
    g_autoptr(CliOffer) outside = offer(FALSE, ""), inside = offer(TRUE, "");
    for (guint i = 0; cli_commands[i] != NULL; i++) {
        const CliCommand *command = cli_commands[i];
        gboolean hidden = command->flags & CLI_HIDDEN, ours = command->flags & CLI_IN_SHELL;
        g_assert_cmpint(has(outside, command->name), ==, !hidden && !ours);
        g_assert_cmpint(has(inside, command->name), ==, !hidden);
    }
    g_autoptr(CliOffer) begun = offer(FALSE, "checkpoint-l");
    g_assert_cmpuint(begun->words->len, ==, 1);
    g_assert_true(has(begun, "checkpoint-list"));
    g_autoptr(CliOffer) unknown = offer(FALSE, "nosuch ");
    g_assert_cmpuint(unknown->words->len, ==, 0);
    g_autoptr(CliOffer) behind_global = offer(FALSE, "--json --store /x checkpoint-l");
    g_assert_true(has(behind_global, "checkpoint-list"));
}

static void check_option(const CliCommand *command, const CliOption *option)
{
    g_autoptr(CliOffer) begun = offer_for("%s --%s", command->name, option->name);
    g_autofree char *word = g_strconcat("--", option->name, NULL);
    g_assert_cmpint(has(begun, word), ==, !option->hidden);
    if (option->type == CLI_FLAG || option->hidden)
        return;
    g_autoptr(CliOffer) given = offer_for("%s --%s x --", command->name, option->name);
    g_assert_cmpint(has(given, word), ==, option->many); /* again, where that means something */
    g_autoptr(CliOffer) next = offer_for("%s --%s ", command->name, option->name);
    g_autoptr(CliOffer) joined = offer_for("%s --%s=", command->name, option->name);
    g_assert_cmpuint(joined->skip, ==, strlen(word) + 1);
    g_assert_cmpint(next->kind, ==, joined->kind);
    g_assert_cmpuint(next->words->len, ==, joined->words->len);
    g_assert_cmpint(next->kind == CLI_OFFER_DIRS, ==, option->type == CLI_DIR);
    g_assert_cmpint(next->kind == CLI_OFFER_FILES, ==,
                    option->type == CLI_FILE || option->type == CLI_FILES);
    if (option->type != CLI_CHOICE)
        return;
    g_auto(GStrv) choices = g_strsplit(option->value, "|", -1);
    g_assert_cmpuint(next->words->len, ==, g_strv_length(choices));
    for (char **choice = choices; *choice != NULL; choice++)
        g_assert_true(has(next, *choice) && has(joined, *choice));
}

static void test_options(void)
{
    for (guint i = 0; cli_commands[i] != NULL; i++) {
        for (const CliOption *o = cli_commands[i]->options; o != NULL && o->name != NULL; o++)
            check_option(cli_commands[i], o);
        for (const CliOption *o = cli_global_options; o->name != NULL; o++)
            check_option(cli_commands[i], o);
    }
}

/* Of several files in one word it is the last that is completed. */
static void test_files(void)
{
    g_autoptr(CliOffer) next = offer(FALSE, "list --key-file a:dir/b");
    g_autoptr(CliOffer) joined = offer(FALSE, "list --key-file=a:dir/b");
    g_assert_cmpint(next->kind, ==, CLI_OFFER_FILES);
    g_assert_cmpuint(next->skip, ==, 2);
    g_assert_cmpint(joined->kind, ==, CLI_OFFER_FILES);
    g_assert_cmpuint(joined->skip, ==, strlen("--key-file=a:"));
}

static void test_arguments(void)
{
    g_autoptr(CliOffer) topics = offer(FALSE, "help ");
    for (const CliGroup *g = cli_groups; g->id != NULL; g++)
        g_assert_true(has(topics, g->id));
    g_assert_true(has(topics, "restore") && !has(topics, "complete"));

    g_autoptr(CliOffer) text = offer(FALSE, "run ");
    g_assert_cmpint(text->kind, ==, CLI_OFFER_WORDS);
    g_assert_cmpuint(text->words->len, ==, 0);
    g_autoptr(CliOffer) dashes = offer(FALSE, "run vm ");
    g_assert_true(has(dashes, "--"));
    g_autoptr(CliOffer) program = offer(FALSE, "run vm -- ");
    g_assert_cmpint(program->kind, ==, CLI_OFFER_PROGRAMS);
    g_autoptr(CliOffer) theirs = offer(FALSE, "run vm -- qemu --acc");
    g_assert_cmpint(theirs->kind, ==, CLI_OFFER_FILES);
    static const char *const optional[] = { "try vm", "import file" };
    for (guint i = 0; i < G_N_ELEMENTS(optional); i++) {
        g_autoptr(CliOffer) no_dashes = offer_for("%s %s", optional[i], "");
        g_assert_true(has(no_dashes, "--"));
        g_autoptr(CliOffer) begun = offer_for("%s %s", optional[i], "-");
        g_assert_true(has(begun, "--"));
        g_autoptr(CliOffer) command = offer_for("%s -- %s", optional[i], "");
        g_assert_cmpint(command->kind, ==, CLI_OFFER_PROGRAMS);
        g_autoptr(CliOffer) its_own = offer_for("%s -- %s", optional[i], "program --acc");
        g_assert_cmpint(its_own->kind, ==, CLI_OFFER_FILES);
    }
    g_autoptr(CliOffer) file = offer(FALSE, "export latest --format raw-memory ");
    g_assert_cmpint(file->kind, ==, CLI_OFFER_FILES);
    g_autoptr(CliOffer) surplus = offer(FALSE, "export latest file ");
    g_assert_cmpint(surplus->kind, ==, CLI_OFFER_WORDS);
    g_assert_cmpuint(surplus->words->len, ==, 0);
}

static void assert_line(const char *line, const char *whole, gboolean finished)
{
    g_autoptr(CliLineOffer) self = cli_offer_for_line(line, no_globals);
    if (whole == NULL) {
        g_assert_null(self);
        return;
    }
    g_assert_nonnull(self);
    g_autofree char *before = g_strndup(line, self->from);
    g_autofree char *now = g_strconcat(before, self->word, NULL);
    g_assert_cmpstr(now, ==, whole);
    g_assert_cmpint(self->finished, ==, finished);
}

static void test_lines(void)
{
    assert_line("checkpoint-l", "checkpoint-list", TRUE);
    assert_line("che", "checkpoint-", FALSE);
    assert_line("list; che", "list; checkpoint-", FALSE);
    assert_line("list\nche", "list\ncheckpoint-", FALSE);
    assert_line("'checkpoint-l", "checkpoint-list", TRUE);
    assert_line("checkpoint-create --mode=l", "checkpoint-create --mode=live", TRUE);
    assert_line("checkpoint-create --mode \"l", "checkpoint-create --mode live", TRUE);
    assert_line("doctor # che", NULL, FALSE);
    assert_line("nosuch che", NULL, FALSE);
    assert_line("restore --nosuch", NULL, FALSE);
}

static void make_file(const char *name)
{
    g_assert_true(g_file_set_contents(name, "", 0, NULL));
}

static void test_file_names(void)
{
    g_autofree char *dir = g_dir_make_tmp("complete-XXXXXX", NULL);
    g_autofree char *old = g_get_current_dir();
    g_assert_cmpint(g_chdir(dir), ==, 0);
    static const char *const names[] = { "a b;c#'\"\\$x", "über-1", "über-2", ".dot", "bad\x1b[m" };
    for (guint i = 0; i < G_N_ELEMENTS(names); i++)
        make_file(names[i]);
    g_assert_cmpint(g_mkdir("sub dir", 0700), ==, 0);
    make_file("sub dir/inner");

    /* Whatever its name, it is read back as one word. */
    g_autoptr(CliLineOffer) odd = cli_offer_for_line("shell a", no_globals);
    g_autofree char *line = g_strconcat("shell ", odd->word, NULL);
    g_autoptr(GPtrArray) commands = cli_split(line, NULL);
    g_assert_true(commands != NULL && commands->len == 1);
    g_assert_cmpstr(((char **)commands->pdata[0])[1], ==, names[0]);

    assert_line("shell ü", "shell über-", FALSE);
    assert_line("shell sub", "shell sub\\ dir/", FALSE);
    assert_line("shell sub\\ dir/", "shell sub\\ dir/inner", TRUE);
    assert_line("shell 'sub dir/i", "shell sub\\ dir/inner", TRUE);
    assert_line("cd ", "cd sub\\ dir/", FALSE);
    assert_line("shell \"sub\\", "shell sub\\ dir/", FALSE);
    assert_line("shell sub\\", "shell sub\\ dir/", FALSE);
    assert_line("shell .", "shell .dot", TRUE);
    assert_line("shell bad", NULL, FALSE);
    assert_line("--store=sub", "--store=sub\\ dir/", FALSE);

    g_unlink("sub dir/inner");
    g_rmdir("sub dir");
    for (guint i = 0; i < G_N_ELEMENTS(names); i++)
        g_unlink(names[i]);
    g_assert_cmpint(g_chdir(old), ==, 0);
    g_rmdir(dir);
}

/* Whatever was typed, an offer never takes away what is there. */
static void test_any_line(void)
{
    static const char *const parts[] = { "run",  "vm1", "--",      "--mode", "=", "'",
                                         "\"",   "\\",  ";",       "#",      " ", "\n",
                                         "help", "-",   "--store", "latest", "ü", "restore" };
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    for (guint i = 0; i < 20000; i++) {
        g_autoptr(GString) line = g_string_new(NULL);
        for (gint32 n = g_rand_int_range(rand, 0, 7); n > 0; n--)
            g_string_append(line, parts[g_rand_int_range(rand, 0, G_N_ELEMENTS(parts))]);
        g_autoptr(CliLineOffer) self = cli_offer_for_line(line->str, no_globals);
        g_assert_true(self == NULL || self->from <= line->len);
        g_assert_true(self == NULL || self->choices->len > 0);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cli/complete/table", test_table_is_whole);
    g_test_add_func("/cli/complete/gaps", test_gaps_are_found);
    g_test_add_func("/cli/complete/completers", test_completers_are_known);
    g_test_add_func("/cli/complete/commands", test_commands);
    g_test_add_func("/cli/complete/options", test_options);
    g_test_add_func("/cli/complete/files", test_files);
    g_test_add_func("/cli/complete/arguments", test_arguments);
    g_test_add_func("/cli/complete/lines", test_lines);
    g_test_add_func("/cli/complete/file-names", test_file_names);
    g_test_add_func("/cli/complete/any-line", test_any_line);
    return g_test_run();
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The last word of a line typed at our prompt: what the command table offers for it, or files, put
 * back into the line with the quoting it needs. */
#include <string.h>

#include "shell.h"
#include "split.h"

static gint by_name(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Of @partial's directory, what begins like its last part; directories end in "/". */
static GPtrArray *find_files(const char *partial, gboolean dirs_only)
{
    GPtrArray *found = g_ptr_array_new_with_free_func(g_free);
    const char *slash = strrchr(partial, '/');
    const char *name = slash != NULL ? slash + 1 : partial;
    g_autofree char *before = g_strndup(partial, name - partial);
    g_autoptr(GDir) dir = g_dir_open(*before != '\0' ? before : ".", 0, NULL);
    const char *entry;
    while (dir != NULL && (entry = g_dir_read_name(dir)) != NULL) {
        if (!g_str_has_prefix(entry, name) || (entry[0] == '.' && name[0] != '.'))
            continue;
        g_autofree char *path = g_strconcat(before, entry, NULL);
        gboolean is_dir = g_file_test(path, G_FILE_TEST_IS_DIR);
        if (is_dir || !dirs_only)
            g_ptr_array_add(found, g_strconcat(path, is_dir ? "/" : "", NULL));
    }
    g_ptr_array_sort(found, by_name);
    return found;
}

/* What can't be typed at the prompt is not offered. */
static void drop_unprintable(GPtrArray *words)
{
    for (guint i = words->len; i > 0; i--) {
        const char *word = words->pdata[i - 1];
        gboolean fine = g_utf8_validate(word, -1, NULL);
        for (const char *p = word; fine && *p != '\0'; p = g_utf8_next_char(p))
            fine = g_unichar_isprint(g_utf8_get_char(p));
        if (!fine)
            g_ptr_array_remove_index(words, i - 1);
    }
}

/* The longest beginning that all have, in whole characters. */
static char *common_beginning(const GPtrArray *words)
{
    const char *first = words->pdata[0];
    gsize len = strlen(first);
    for (guint i = 1; i < words->len; i++) {
        const char *other = words->pdata[i];
        gsize same = 0;
        while (same < len && first[same] == other[same])
            same++;
        len = same;
    }
    while (len > 0 && (first[len] & 0xc0) == 0x80)
        len--;
    return g_strndup(first, len);
}

static void append_quoted(GString *out, const char *text)
{
    for (const char *p = text; *p != '\0'; p++) {
        if (strchr(" ;#'\"\\$`&|<>()*?[]{}!~", *p) != NULL)
            g_string_append_c(out, '\\');
        g_string_append_c(out, *p);
    }
}

/* The last word, which need not be whole, as one that is. */
static char *close_word(const char *typed, const CliScan *scan)
{
    const char quote[] = { scan->quote, '\0' };
    g_autofree char *kept = g_strndup(typed, strlen(typed) - (scan->escaped ? 1 : 0));
    return g_strconcat(kept, quote, NULL);
}

/* The words of the last command, unquoted, behind @globals; last the one to complete, maybe
 * empty. */
static GPtrArray *words_of(const CliScan *scan, const GPtrArray *typed, const char *const *globals)
{
    g_autoptr(GPtrArray) words = g_ptr_array_new_null_terminated(8, g_free, TRUE);
    for (; *globals != NULL; globals++)
        g_ptr_array_add(words, g_strdup(*globals));
    for (guint i = 0; i < typed->len; i++) {
        g_autofree char *closed =
            i + 1 < typed->len ? g_strdup(typed->pdata[i]) : close_word(typed->pdata[i], scan);
        char *word = g_shell_unquote(closed, NULL);
        if (word == NULL)
            return NULL;
        g_ptr_array_add(words, word);
    }
    if (scan->word == NULL)
        g_ptr_array_add(words, g_strdup(""));
    return g_steal_pointer(&words);
}

static GPtrArray *choices_for(const char *partial, CliOffer *offer)
{
    GPtrArray *choices = offer->kind == CLI_OFFER_WORDS
                             ? g_ptr_array_ref(offer->words)
                             : find_files(partial + offer->skip, offer->kind == CLI_OFFER_DIRS);
    drop_unprintable(choices);
    return choices;
}

CliLineOffer *cli_offer_for_line(const char *line, const char *const *globals)
{
    const char *command = line;
    g_autoptr(GPtrArray) typed = g_ptr_array_new_with_free_func(g_free);
    CliScan scan = cli_scan(command, typed);
    while (scan.next != NULL) {
        command = scan.next;
        g_ptr_array_set_size(typed, 0);
        scan = cli_scan(command, typed);
    }
    g_autoptr(GPtrArray) words = scan.comment ? NULL : words_of(&scan, typed, globals);
    if (words == NULL)
        return NULL;
    const char *partial = words->pdata[words->len - 1];
    g_autoptr(CliOffer) offer = cli_offer((const char *const *)words->pdata, TRUE);
    g_autoptr(GPtrArray) choices = choices_for(partial, offer);
    if (choices->len == 0)
        return NULL;
    CliLineOffer *self = g_new0(CliLineOffer, 1);
    self->from = (scan.word != NULL ? scan.word : command + scan.len) - line;
    g_autofree char *certain = common_beginning(choices);
    g_autofree char *stays = g_strndup(partial, offer->skip);
    GString *word = g_string_new(NULL);
    append_quoted(word, stays);
    append_quoted(word, certain);
    self->finished = choices->len == 1 && !g_str_has_suffix(certain, "/");
    self->word = g_string_free(word, FALSE);
    self->choices = g_steal_pointer(&choices);
    return self;
}

void cli_line_offer_free(CliLineOffer *offer)
{
    g_free(offer->word);
    g_ptr_array_unref(offer->choices);
    g_free(offer);
}
